//! The live tables: redrawn in place on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;

use virtroupe::{Drops, Stats};

use crate::client::{FLOWS, Report, WINDOW};
use crate::cpus::{CpuTable, rate};
use crate::demo::{CLIENT, SERVER};
use crate::exit::Outcome;

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

/// Prints what the demo measured, row by row.
pub struct Table {
    live: Live,
    cpus: CpuTable,
}

impl Table {
    /// An empty table; prints its head.
    pub fn new() -> Self {
        print(&format!(
            "echo over an in-memory link: {CLIENT} -> {SERVER}, {FLOWS} flows, {} in flight\n\
             {:>6} {:>12} {:>9} {:>9} {:>9} {:>6}  dropped by server; by client\n",
            FLOWS * WINDOW,
            "second",
            "echoes/s",
            "p50",
            "p99",
            "p99.9",
            "lost"
        ));
        Table {
            live: Live::new(),
            cpus: CpuTable::default(),
        }
    }

    /// Shows what was measured in the last `interval`, `elapsed` after the start, and what each
    /// cpu of the server did, if it has several. `drops` are the server's and the client's since
    /// the start.
    pub fn row(
        &mut self,
        [elapsed, interval]: [Duration; 2],
        report: &Report,
        drops: &[Drops; 2],
        server: Stats,
    ) {
        let [p50, p99, p999] = percentiles(report);
        let mut lines = vec![format!(
            "{:>6.0} {:>12} {p50:>9} {p99:>9} {p999:>9} {:>6}  {}",
            elapsed.as_secs_f64(),
            rate(report.echoed, interval),
            report.lost,
            both(drops)
        )];
        if server.cpus.len() > 1 {
            lines.extend(self.cpus.lines(server, interval));
        }
        self.live.show(&lines);
    }

    /// Shows the summary. An echo with wrong content, or none at all, is an error.
    pub fn finish(&self, elapsed: Duration, total: &Report, drops: &[Drops; 2]) -> Outcome<()> {
        let [p50, p99, p999] = percentiles(total);
        print(&format!(
            "echoed {} datagrams in {:.1} s ({}), lost {}, late {}, wrong {}\n\
             round trip p50 {p50}, p99 {p99}, p99.9 {p999}\n\
             dropped by server; by client: {}\n",
            total.echoed,
            elapsed.as_secs_f64(),
            rate(total.echoed, elapsed),
            total.lost,
            total.late,
            total.wrong,
            both(drops)
        ));
        if total.wrong > 0 {
            return Err(
                format!("{} echoes had wrong content; please report it", total.wrong).into(),
            );
        }
        if total.echoed == 0 {
            return Err("no datagram was echoed; the lines above say what was dropped".into());
        }
        Ok(())
    }
}

/// Prints at once. A reader that has gone away is no error: the demo ends by itself.
fn print(text: &str) {
    let mut out = stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn percentiles(report: &Report) -> [String; 3] {
    [0.5, 0.99, 0.999].map(|quantile| {
        if report.round_trip.is_empty() {
            return "-".into();
        }
        match report.round_trip.value_at_quantile(quantile) as f64 / 1e3 {
            micros if micros >= 1e4 => format!("{:.1} ms", micros / 1e3),
            micros => format!("{micros:.0} us"),
        }
    })
}

fn both([server, client]: &[Drops; 2]) -> String {
    format!("{}; {}", reasons(server), reasons(client))
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
