//! The examples, run as a user runs them: what they print and how they end.
//!
//! `cargo test` builds them; with `--test examples` alone, `cargo build --examples` does.
//!
//! Time budget of this suite: 20 s.

mod examples {
    pub mod demo;
    pub mod errors;
    pub mod packets;
    pub mod sandbox;
    pub mod streams;
}
#[allow(dead_code, reason = "the other suites use the rest")]
mod support;

use std::path::PathBuf;
use std::process::{Command, ExitCode, Output};

use libtest_mimic::Arguments;
use support::{Outcome, Suite};

fn main() -> ExitCode {
    if let Some(server) = examples::sandbox::asked_to_be_client() {
        return examples::sandbox::client(&server);
    }
    // First of all: a user namespace can only be entered while there is one thread.
    let privileges = support::privileges::acquire();
    let arguments = Arguments::from_args();
    let suite = Suite::new(&arguments, privileges);
    let mut tests = examples::demo::tests(&suite);
    tests.extend(examples::errors::tests(&suite));
    tests.extend(examples::packets::tests(&suite));
    tests.extend(examples::sandbox::tests(&suite));
    tests.extend(examples::streams::tests(&suite));
    libtest_mimic::run(&arguments, tests).exit_code()
}

/// Runs example `name` to its end, without logs.
fn run(name: &str, arguments: &[&str]) -> Outcome<Output> {
    let program = path(name)?;
    let mut command = Command::new(&program);
    command.args(arguments).env("RUST_LOG", "off");
    let output = command.output();
    output.map_err(|error| format!("cannot run {}: {error}", program.display()).into())
}

/// The program of an example: beside the folder of the tests' programs.
fn path(name: &str) -> Outcome<PathBuf> {
    let this = std::env::current_exe()?;
    let profile = this.ancestors().nth(2).ok_or("no folder of the profile")?;
    let program = profile.join("examples").join(name);
    match program.exists() {
        true => Ok(program),
        false => Err(format!("{} is missing: cargo build --examples", program.display()).into()),
    }
}

/// Both outputs of a program, for messages.
fn printed(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!(
        "{}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    )
}
