//! The live table of the demo: redrawn in place on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;

use virtroupe::Drops;

use crate::client::{FLOWS, Report, WINDOW};
use crate::demo::{CLIENT, SERVER};
use crate::exit::Outcome;

/// Prints what was measured, row by row.
pub struct Table {
    is_terminal: bool,
    /// Lines on the terminal that the next row replaces.
    lines: usize,
}

impl Table {
    /// An empty table; prints its head.
    pub fn new() -> Self {
        let table = Table {
            is_terminal: stdout().is_terminal(),
            lines: 0,
        };
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
        table
    }

    /// Shows what was measured in the last `interval`, `elapsed` after the start. `drops` are
    /// the server's and the client's since the start.
    pub fn row(
        &mut self,
        elapsed: Duration,
        interval: Duration,
        report: &Report,
        drops: &[Drops; 2],
    ) {
        let up = match self.is_terminal && self.lines > 0 {
            true => format!("\x1b[{}A\x1b[J", self.lines),
            false => String::new(),
        };
        let [p50, p99, p999] = percentiles(report);
        print(&format!(
            "{up}{:>6.0} {:>12} {p50:>9} {p99:>9} {p999:>9} {:>6}  {}\n",
            elapsed.as_secs_f64(),
            rate(report.echoed, interval),
            report.lost,
            both(drops)
        ));
        self.lines = 1;
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

/// Datagrams per second.
fn rate(datagrams: u64, time: Duration) -> String {
    match datagrams as f64 / time.as_secs_f64().max(1e-9) {
        rate if rate >= 1e6 => format!("{:.2} Mpps", rate / 1e6),
        rate => format!("{:.1} kpps", rate / 1e3),
    }
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

fn reasons(drops: &Drops) -> String {
    let reasons: Vec<String> = drops
        .nonzero()
        .map(|(reason, count)| format!("{} {count}", reason.name()))
        .collect();
    match reasons.is_empty() {
        true => "none".into(),
        false => reasons.join(", "),
    }
}
