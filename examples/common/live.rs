//! Lines that are redrawn in place on a terminal, and plain lines elsewhere.

use std::io::{IsTerminal, Write, stdout};

use virtroupe::Drops;

/// Lines that replace those shown before.
pub struct Live {
    is_terminal: bool,
    /// Lines on the terminal that the next ones replace.
    lines: usize,
}

impl Live {
    /// Shows nothing yet.
    pub fn new() -> Self {
        Live {
            is_terminal: stdout().is_terminal(),
            lines: 0,
        }
    }

    /// Shows `lines` in place of those before.
    pub fn show(&mut self, lines: &[String]) {
        let up = match self.is_terminal && self.lines > 0 {
            true => format!("\x1b[{}A\x1b[J", self.lines),
            false => String::new(),
        };
        print(&format!("{up}{}\n", lines.join("\n")));
        self.lines = lines.len();
    }
}

/// Prints at once. A reader that has gone away is no error: the demo ends by itself.
pub fn print(text: &str) {
    let mut out = stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The reasons for which packets were dropped, with their counts.
pub fn reasons(drops: &Drops) -> String {
    let reasons: Vec<String> = drops
        .nonzero()
        .map(|(reason, count)| format!("{} {count}", reason.name()))
        .collect();
    match reasons.is_empty() {
        true => "none".into(),
        false => reasons.join(", "),
    }
}
