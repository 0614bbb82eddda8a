//! Instructions for one packet, counted by callgrind.
//!
//! ```sh
//! cargo bench --bench instructions             # compares with the committed table
//! cargo bench --bench instructions -- --save   # writes the table anew
//! ```
//!
//! Times on a shared machine vary by a third; this does not vary at all. So it shows a regression
//! that no time would show: the bench fails when a row is more than 3 % above
//! `benches/instructions/table.txt`. The table names the compiler that it was made with; another
//! one makes other code, so then the rows are only shown, and the table should be saved anew.
//!
//! Rows, each for 64-byte frames in bursts of 64 and without the device's work: see
//! [`workload::Row`]. Needs `valgrind`.

mod support;
#[path = "instructions/table.rs"]
mod table;
#[path = "instructions/workload.rs"]
mod workload;

use std::process::{Command, ExitCode};

use support::Outcome;
use table::Table;
use workload::{BURST, Row, TURNS};

/// Runs the row that follows it, under the profiler.
const COUNT: &str = "--count";

fn main() -> ExitCode {
    support::run(|| {
        let row: String = support::option(COUNT, String::new())?;
        match Row::ALL.into_iter().find(|known| known.name() == row) {
            Some(row) => row.run(),
            None => compare(),
        }
    })
}

/// Counts all rows and compares them with the table, or saves them.
fn compare() -> Outcome<()> {
    let mut counted = Table::new()?;
    for row in Row::ALL {
        counted.push(row.name(), count(row)?);
    }
    if std::env::args().any(|argument| argument == "--save") {
        return counted.save();
    }
    counted.compare_with(&Table::load()?)
}

/// Instructions for one packet.
fn count(row: Row) -> Outcome<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .args([
            "--collect-atstart=no",
            "--toggle-collect=*workload*counted*",
        ])
        .arg(std::env::current_exe()?)
        .args([COUNT, row.name()])
        .output()
        .map_err(|error| format!("cannot start valgrind: {error}; install the package valgrind"))?;
    let report = String::from_utf8_lossy(&output.stderr);
    let collected = report
        .lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse::<u64>().ok())
        .filter(|count| output.status.success() && *count > 0)
        .ok_or_else(|| format!("valgrind counted nothing:\n{report}"))?;
    Ok(collected as f64 / (BURST * TURNS) as f64)
}
