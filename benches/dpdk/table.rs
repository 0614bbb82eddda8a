//! The table at the end.

use std::ops::Range;

use crate::row::Comparison;
use crate::support::Outcome;
use crate::support::backend::Measurement;
use crate::support::driver::Driver;
use crate::support::stats::Summary;

/// What was measured with the same traffic.
pub struct Group {
    pub compared: Vec<Comparison>,
    /// For each round, a measurement of each driver: those of the first row, then those of the next.
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

    /// The one of `drivers` with the greatest median.
    fn fastest(&self, drivers: Range<usize>) -> Outcome<usize> {
        let mut fastest = (drivers.start, 0.0);
        for driver in drivers {
            let rate = self.rate(driver)?.median;
            if rate > fastest.1 {
                fastest = (driver, rate);
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
    /// Adds the rows of a group: a line for each driver, ours first.
    pub fn add(&mut self, group: &Group) -> Outcome<()> {
        let mut first = 0;
        for compared in &group.compared {
            let ours = first..first + compared.ours.len();
            let peers = ours.end..ours.end + compared.peers.len();
            let (first_of_row, name) = (first, compared.row.name());
            first = peers.end;
            let fastest = group.fastest(peers)?;
            for (index, driver) in compared.drivers().enumerate() {
                self.add_line(group, &name, (first_of_row + index, driver), fastest)?;
            }
            let ratio = group.ratio(group.fastest(ours)?, fastest)?.median;
            self.ratios.push((name, ratio));
        }
        Ok(())
    }

    fn add_line(
        &mut self,
        group: &Group,
        row: &str,
        (index, driver): (usize, &Driver),
        peer: usize,
    ) -> Outcome<()> {
        let share = |summary: Summary| format!("{:.0} %", summary.median * 100.0);
        self.lines.push(format!(
            "{:20} {:22} {:>20} {:>19} {:>12} {:>7} {:>7}",
            row,
            driver.name(),
            format!("{:.2}", group.rate(index)?),
            format!("{:.2}", group.ratio(index, peer)?),
            format!(
                "{:.0}",
                group
                    .summary(index, |measured| measured.busy_cycles)?
                    .median
            ),
            share(group.summary(index, |measured| measured.driver_idle)?),
            share(group.summary(index, |measured| measured.device_idle)?),
        ));
        Ok(())
    }

    /// Prints all.
    pub fn print(&self) {
        println!("\nmedian [min, max]; ratios to the fastest of DPDK's in the same round");
        println!(
            "{:20} {:22} {:>20} {:>19} {:>12} {:>7} {:>7}",
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
