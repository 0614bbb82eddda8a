//! What the benchmarks share: the peer's process, requirement checks, and statistics.

#![allow(dead_code, reason = "each benchmark uses its own part of the support")]

pub mod backend;
pub mod cores;
pub mod driver;
pub mod inline;
pub mod kernel_echo;
pub mod memory;
pub mod netns;
pub mod plot;
pub mod require;
pub mod senders;
pub mod stats;
pub mod testpmd;
pub mod veth;
pub mod virtroupe;

use std::process::ExitCode;

/// What stops a benchmark; its text goes to the user.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A result of the benchmark's own work.
pub type Outcome<T> = Result<T, Failure>;

/// Runs a benchmark and reports its failure in one line.
pub fn run(main: impl FnOnce() -> Outcome<()>) -> ExitCode {
    match main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// The value that follows the option `name` on the command line, or `default`.
pub fn option<T: std::str::FromStr>(name: &str, default: T) -> Outcome<T> {
    let mut arguments = std::env::args();
    if !arguments.any(|argument| argument == name) {
        return Ok(default);
    }
    let value = arguments
        .next()
        .ok_or_else(|| format!("{name} needs a value"))?;
    value
        .parse()
        .map_err(|_| format!("{name} {value}: not a valid value").into())
}
