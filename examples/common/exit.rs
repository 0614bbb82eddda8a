//! How an example ends: an error is one line on standard error, and exit code 1.

use std::error::Error;
use std::process::ExitCode;

/// What an example may fail with: any error, as its message says what to do.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// The exit code of `outcome`, whose error is printed.
pub fn code(outcome: Outcome<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        let message = error.to_string();
        let lines: Vec<&str> = message.lines().map(str::trim).collect();
        eprintln!("error: {}", lines.join(" "));
        ExitCode::FAILURE
    })
}
