//! The rows of the table, and whom each compares.

use crate::support::Outcome;
use crate::support::driver::{DPDK_DEFAULT, DPDK_PACKED, DPDK_VECTORIZED, Driver, Task, Traffic};
use crate::support::virtroupe::{self, Offloads, Rings};

/// Lengths of frames, in bytes.
const LENGTHS: [usize; 2] = [64, 1500];
const TASKS: [Task; 3] = [Task::Receive, Task::Transmit, Task::Echo];

/// Our driver on rings of one format beside DPDK's drivers on such rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub traffic: Traffic,
    pub rings: Rings,
}

impl Row {
    /// Those whose name begins with one of `names`, which are separated by commas; all, if there is
    /// none.
    pub fn chosen(names: &str) -> Outcome<Vec<Row>> {
        let all = TASKS.into_iter().flat_map(|task| {
            LENGTHS.into_iter().flat_map(move |length| {
                [Rings::Split, Rings::Packed].map(|rings| Row {
                    traffic: Traffic { task, length },
                    rings,
                })
            })
        });
        let all: Vec<Row> = all.collect();
        let names: Vec<&str> = names.split(',').filter(|name| !name.is_empty()).collect();
        if let Some(unknown) = names
            .iter()
            .find(|name| !all.iter().any(|row| row.name().starts_with(**name)))
        {
            let known: Vec<String> = all.iter().map(Row::name).collect();
            return Err(format!("--rows {unknown}: known are {}", known.join(", ")).into());
        }
        let is_chosen =
            |row: &Row| names.is_empty() || names.iter().any(|name| row.name().starts_with(name));
        Ok(all.into_iter().filter(is_chosen).collect())
    }

    /// How the table calls it.
    pub fn name(&self) -> String {
        let rings = match self.rings {
            Rings::Packed => "packed",
            Rings::Split | Rings::Auto => "split",
        };
        format!("{}-{rings}", name(self.traffic))
    }

    /// Ours: where it makes a difference, with and without the device's offloads.
    pub fn ours(&self) -> Outcome<Vec<Driver>> {
        let offloads: &[Offloads] = match self.traffic.task {
            Task::Echo => &[Offloads::All, Offloads::None],
            Task::Receive | Task::Transmit => &[Offloads::All],
        };
        let drivers = offloads.iter();
        drivers
            .map(|offloads| virtroupe::driver(self.traffic.task, self.rings, *offloads))
            .collect()
    }

    /// DPDK's drivers on the same rings.
    pub fn peers(&self) -> Vec<Driver> {
        match self.rings {
            Rings::Packed => vec![DPDK_PACKED],
            Rings::Split | Rings::Auto => vec![DPDK_DEFAULT, DPDK_VECTORIZED],
        }
    }
}

/// The part of a row's name that does not depend on its rings.
pub fn name(traffic: Traffic) -> String {
    let task = match traffic.task {
        Task::Receive => "receive",
        Task::Transmit => "transmit",
        Task::Echo => "echo",
    };
    format!("{task}-{}", traffic.length)
}

/// The rows by what they measure with.
pub fn groups(rows: &[Row]) -> Vec<(Traffic, Vec<Row>)> {
    let mut groups: Vec<(Traffic, Vec<Row>)> = Vec::new();
    for row in rows {
        match groups.last_mut() {
            Some((traffic, group)) if *traffic == row.traffic => group.push(*row),
            _ => groups.push((row.traffic, vec![*row])),
        }
    }
    groups
}

/// A row with the drivers that it compares.
#[derive(Debug)]
pub struct Comparison {
    pub row: Row,
    pub ours: Vec<Driver>,
    pub peers: Vec<Driver>,
}

impl Comparison {
    /// Those of `row`. `stand_in` names a driver of DPDK's that takes our place, unless it is empty.
    pub fn of(row: Row, stand_in: &str) -> Outcome<Self> {
        let known = [DPDK_DEFAULT, DPDK_VECTORIZED, DPDK_PACKED];
        let ours = match stand_in {
            "" => row.ours()?,
            name => {
                let found = known.into_iter().find(|driver| driver.name() == name);
                vec![found.ok_or_else(|| format!("--driver {name}: not a variant of DPDK's"))?]
            }
        };
        let peers = row.peers();
        Ok(Comparison { row, ours, peers })
    }

    /// All drivers: ours, then their peers.
    pub fn drivers(&self) -> impl Iterator<Item = &Driver> {
        self.ours.iter().chain(&self.peers)
    }
}
