//! The table at the end.

use crate::row::Row;
use crate::support::Outcome;
use crate::support::backend::Measurement;
use crate::support::driver::Driver;
use crate::support::stats::Summary;

/// What was measured with the same traffic.
pub struct Group {
    pub rows: Vec<Row>,
    /// Ours of each row, then the peers of the first row, then those of the next.
    pub drivers: Vec<Driver>,
    /// For each round, a measurement of each driver.
    pub rounds: Vec<Vec<Measurement>>,
}

impl Group {
    fn summary(&self, driver: usize, figure: impl Fn(&Measurement) -> f64) -> Outcome<Summary> {
        let figures = self.rounds.iter().map(|round| figure(&round[driver]));
        Ok(Summary::of(figures).ok_or("no round was measured")?)
    }

    fn rate(&self, driver: usize) -> Outcome<Summary> {
        self.summary(driver, |measured| measured.rate / 1e6)
    }

    /// Rates of a driver to those of another in the same round.
    fn ratio(&self, driver: usize, peer: usize) -> Outcome<Summary> {
        let pairs = self.rounds.iter();
        let pairs = pairs.map(|round| (round[driver].rate, round[peer].rate));
        Ok(Summary::of_ratios(pairs).ok_or("no round was measured")?)
    }

    /// The one of `peers` with the greatest median.
    fn fastest(&self, peers: std::ops::Range<usize>) -> Outcome<usize> {
        let mut fastest = (peers.start, 0.0);
        for peer in peers {
            let rate = self.rate(peer)?.median;
            if rate > fastest.1 {
                fastest = (peer, rate);
            }
        }
        Ok(fastest.0)
    }
}

/// Lines for people, and a ratio for each row.
#[derive(Default)]
pub struct Table {
    lines: Vec<String>,
    ratios: Vec<(String, f64)>,
}

impl Table {
    /// Adds the rows of a group: a line for our driver and one for each of DPDK's.
    pub fn add(&mut self, group: Group) -> Outcome<()> {
        let mut next_peer = group.rows.len();
        for (ours, row) in group.rows.iter().enumerate() {
            let peers = next_peer..next_peer + row.peers().len();
            next_peer = peers.end;
            let fastest = group.fastest(peers.clone())?;
            for driver in std::iter::once(ours).chain(peers) {
                self.add_line(&group, row, driver, fastest)?;
            }
            let ratio = group.ratio(ours, fastest)?.median;
            self.ratios.push((row.name(), ratio));
        }
        Ok(())
    }

    fn add_line(&mut self, group: &Group, row: &Row, driver: usize, peer: usize) -> Outcome<()> {
        let share = |summary: Summary| format!("{:.0} %", summary.median * 100.0);
        self.lines.push(format!(
            "{:20} {:16} {:>20} {:>19} {:>17} {:>7} {:>7}",
            row.name(),
            group.drivers[driver].name(),
            format!("{:.2}", group.rate(driver)?),
            format!("{:.2}", group.ratio(driver, peer)?),
            format!(
                "{:.0}",
                group.summary(driver, |measured| measured.busy_cycles)?
            ),
            share(group.summary(driver, |measured| measured.driver_idle)?),
            share(group.summary(driver, |measured| measured.device_idle)?),
        ));
        Ok(())
    }

    /// Prints all.
    pub fn print(&self) {
        println!("\nmedian [min, max]; ratios to the fastest of DPDK's in the same round");
        println!(
            "{:20} {:16} {:>20} {:>19} {:>17} {:>7} {:>7}",
            "row", "driver", "Mpps", "ratio", "busy cycles", "idle", "device"
        );
        for line in &self.lines {
            println!("{line}");
        }
        println!(
            "\nbusy cycles are a packet's; idle and device: how much of the time the core of the"
        );
        println!("driver and that of the device had nothing to do\n");
        for (row, ratio) in &self.ratios {
            println!("ratio {row} {ratio:.3}");
        }
    }
}
