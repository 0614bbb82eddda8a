//! What the tests against the real world share.

pub mod clients;
pub mod crafted;
pub mod namespace;
pub mod privileges;
pub mod process;
pub mod requirement;
pub mod station;

// The process of the benchmarks' peer serves the tests too. These modules take `Outcome` and
// each other from here.
#[allow(dead_code, reason = "the benchmarks use all of it")]
#[path = "../benches/support/cores.rs"]
pub mod cores;
#[allow(dead_code, reason = "the benchmarks use all of it")]
#[path = "../benches/support/require.rs"]
pub mod require;
#[allow(dead_code, reason = "the benchmarks use all of it")]
#[path = "../benches/support/testpmd.rs"]
pub mod testpmd;

use std::sync::{Mutex, MutexGuard, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};

use privileges::Privileges;
use requirement::Requirement;

/// Why a test failed; its text goes to the user.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What a test returns.
pub type Outcome<T> = Result<T, Failure>;

/// Waits for the turn of a test that takes whole cores and most huge pages. Others of its kind
/// wait until the guard is dropped.
pub fn take_turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed in its turn has left nothing behind.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes tests out of functions, or reasons to skip them.
#[derive(Debug)]
pub struct Suite {
    privileges: Privileges,
    requires_all: bool,
    is_list: bool,
}

impl Suite {
    /// A suite that runs with `privileges`.
    pub fn new(arguments: &Arguments, privileges: Privileges) -> Suite {
        Suite {
            privileges,
            requires_all: std::env::var_os("VIRTROUPE_REQUIRE").is_some_and(|v| v == "all"),
            is_list: arguments.list,
        }
    }

    /// The test `name`, which needs all of `requirements`.
    pub fn test(
        &self,
        name: &str,
        requirements: &[Requirement],
        body: impl FnOnce() -> Outcome<()> + Send + 'static,
    ) -> Trial {
        let missing: Vec<String> = requirements
            .iter()
            .filter_map(|requirement| requirement.missing(&self.privileges))
            .collect();
        let run = move || body().map_err(|failure| Failed::from(failure.to_string()));
        if missing.is_empty() {
            return Trial::test(name, run);
        }
        let reason = missing.join("; ");
        if self.requires_all {
            let message = format!("VIRTROUPE_REQUIRE=all, and the test cannot run: {reason}");
            return Trial::test(name, move || Err(Failed::from(message)));
        }
        if !self.is_list {
            println!("skipped {name}: {reason}");
        }
        Trial::test(name, run).with_ignored_flag(true)
    }
}
