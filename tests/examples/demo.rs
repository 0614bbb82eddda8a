//! `echo_server` without a device: the first thing that a new user runs.

use libtest_mimic::Trial;

use crate::support::{Outcome, Suite};
use crate::{printed, run};

pub fn tests(suite: &Suite) -> Vec<Trial> {
    vec![
        suite.test("the_demo_echoes_without_loss_and_says_so", &[], echoes),
        suite.test("the_demo_serves_any_port", &[], serves_any_port),
    ]
}

fn echoes() -> Outcome<()> {
    let output = run("echo_server", &["--seconds", "2"])?;
    let shown = printed(&output);
    let summary = Summary::read(&shown).ok_or(format!("no summary:\n{shown}"))?;
    let is_row = |line: &str| {
        let second = line.split_whitespace().next();
        second.is_some_and(|second| second.parse::<u64>().is_ok()) && line.contains("pps")
    };
    if !shown.lines().any(is_row) {
        return Err(format!("the table has no row:\n{shown}").into());
    }
    // On a machine that stands still for seconds an echo may be late, but it comes.
    let is_whole = summary.lost <= summary.late && summary.wrong == 0;
    match output.status.success() && summary.echoed > 0 && is_whole {
        true => Ok(()),
        false => Err(format!("the demo lost echoes or failed:\n{shown}").into()),
    }
}

fn serves_any_port() -> Outcome<()> {
    let output = run("echo_server", &["--seconds", "1", "--port", "4789"])?;
    let shown = printed(&output);
    match Summary::read(&shown) {
        Some(summary) if summary.echoed > 0 && output.status.success() => Ok(()),
        _ => Err(format!("nothing was echoed:\n{shown}").into()),
    }
}

/// The line `echoed N datagrams in ... s (...), lost N, late N, wrong N`.
struct Summary {
    echoed: u64,
    lost: u64,
    late: u64,
    wrong: u64,
}

impl Summary {
    fn read(shown: &str) -> Option<Summary> {
        let line = shown.lines().find(|line| line.starts_with("echoed "))?;
        let number = |label: &str| -> Option<u64> {
            let (_, behind) = line.split_once(label)?;
            let digits = behind.find(|c: char| !c.is_ascii_digit());
            behind[..digits.unwrap_or(behind.len())].parse().ok()
        };
        Some(Summary {
            echoed: number("echoed ")?,
            lost: number("lost ")?,
            late: number("late ")?,
            wrong: number("wrong ")?,
        })
    }
}
