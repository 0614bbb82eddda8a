//! The live table of the demo.

use std::time::Duration;

use virtroupe::{Drops, Stats};

use crate::client::{FLOWS, Report, WINDOW};
use crate::cpus::{CpuTable, rate};
use crate::exit::Outcome;
use crate::link::{CLIENT, SERVER};
use crate::live::{Live, print, reasons};

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
