//! A line that tells how far a program is: redrawn in place on a terminal, a new one elsewhere.

use std::io::{IsTerminal, Write, stdout};

/// Shows `line` instead of the last one. A reader that has gone away is no error.
pub fn show(line: &str) {
    let mut out = stdout().lock();
    let _ = match out.is_terminal() {
        true => write!(out, "\r\x1b[K{line}"),
        false => writeln!(out, "{line}"),
    };
    let _ = out.flush();
}
