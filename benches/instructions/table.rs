//! The committed table of counts.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use crate::support::Outcome;

/// Where the table is.
const PATH: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/benches/instructions/table.txt"
);
/// How much more than the table says is a regression.
const TOLERANCE: f64 = 0.03;

/// Instructions for one packet, by row, and the compiler that made the code.
#[derive(Debug)]
pub struct Table {
    toolchain: String,
    rows: Vec<(String, f64)>,
}

impl Table {
    /// A table without rows, of the compiler at hand.
    pub fn new() -> Outcome<Self> {
        let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let version = Command::new(compiler).arg("--version").output()?;
        Ok(Table {
            toolchain: String::from_utf8(version.stdout)?.trim().to_owned(),
            rows: Vec::new(),
        })
    }

    /// Adds a row.
    pub fn push(&mut self, name: &str, count: f64) {
        self.rows.push((name.to_owned(), count));
    }

    /// Reads the committed table.
    pub fn load() -> Outcome<Self> {
        let text = fs::read_to_string(PATH)
            .map_err(|error| format!("{PATH}: {error}; write it with --save"))?;
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let toolchain = lines.next().unwrap_or_default().to_owned();
        let rows = lines.filter_map(|line| {
            let (name, count) = line.split_once(' ')?;
            Some((name.to_owned(), count.trim().parse().ok()?))
        });
        Ok(Table {
            rows: rows.collect(),
            toolchain,
        })
    }

    /// Writes this table where the committed one is.
    pub fn save(&self) -> Outcome<()> {
        let mut text =
            String::from("# Instructions for one packet: cargo bench --bench instructions\n");
        writeln!(text, "{}", self.toolchain)?;
        for (name, count) in &self.rows {
            writeln!(text, "{name:9} {count:6.1}")?;
        }
        print!("{text}");
        Ok(fs::write(PATH, text)?)
    }

    /// Prints this table beside `committed`.
    ///
    /// # Errors
    /// The rows that have become longer, or are not in `committed`, unless that is of another
    /// compiler.
    pub fn compare_with(&self, committed: &Table) -> Outcome<()> {
        if self.toolchain != committed.toolchain {
            println!("counted with {}", self.toolchain);
            println!(
                "table of     {}; it is not held against this",
                committed.toolchain
            );
        }
        println!(
            "{:9} {:>7} {:>7} {:>7}",
            "row", "counted", "table", "change"
        );
        let mut worse = Vec::new();
        for (name, count) in &self.rows {
            let known = committed.rows.iter().find(|(known, _)| known == name);
            let Some((_, before)) = known else {
                worse.push(format!("{name} is not in the table"));
                continue;
            };
            let change = count / before - 1.0;
            println!("{name:9} {count:7.1} {before:7.1} {:+6.1}%", change * 100.0);
            if change > TOLERANCE {
                worse.push(format!("{name} takes {:.1} % more", change * 100.0));
            }
        }
        match worse.is_empty() || self.toolchain != committed.toolchain {
            true => Ok(()),
            false => Err(format!(
                "{}; find out why, or accept it with --save",
                worse.join(", ")
            )
            .into()),
        }
    }
}
