//! `tcp_stream` without a device: streams between two stacks in one process.

use std::process::Command;

use libtest_mimic::Trial;

use crate::support::{Outcome, Suite};
use crate::{path, printed, run};

pub fn tests(suite: &Suite) -> Vec<Trial> {
    vec![
        suite.test("the_stream_demo_moves_bytes_until_it_is_stopped", &[], runs),
        suite.test("the_stream_demo_verifies_both_ways", &[], verifies),
        suite.test("the_stream_demo_has_proxies", &[], has_proxies),
    ]
}

fn runs() -> Outcome<()> {
    // A sink, until the time is over.
    let mut command = Command::new(path("tcp_stream")?);
    let output = command
        .args(["--seconds", "1"])
        .env("RUST_LOG", "warn")
        .output()?;
    let shown = printed(&output);
    expect(&shown, output.status.success() && received(&shown, 0)? > 0)?;
    // The client's connection has not ended by then.
    let log = String::from_utf8_lossy(&output.stderr);
    expect(&log, log.contains("connection with 10.0.0.1:5001: "))
}

fn verifies() -> Outcome<()> {
    let arguments = "--role both --bytes 3000000 --verify --connections 2";
    let shown = stream(&arguments.split(' ').collect::<Vec<_>>())?;
    let is_done = shown.contains("connections 0 open, 2 done, 0 failed");
    expect(&shown, is_done && received(&shown, 0)? == 6_000_000)
}

fn has_proxies() -> Outcome<()> {
    let arguments = "--cpus 3 --queues 2 --role echo --bytes 1000000 --verify --connections 12";
    let shown = stream(&arguments.split(' ').collect::<Vec<_>>())?;
    let is_done = shown.contains("connections 0 open, 12 done, 0 failed");
    let mut all = 0;
    for cpu in 0..3 {
        all += received(&shown, cpu)?;
    }
    expect(&shown, is_done && all == 12_000_000)
}

/// What the example prints when it ends well.
fn stream(arguments: &[&str]) -> Outcome<String> {
    let output = run("tcp_stream", arguments)?;
    let shown = printed(&output);
    expect(&shown, output.status.success())?;
    Ok(shown)
}

fn expect(shown: &str, is_right: bool) -> Outcome<()> {
    match is_right {
        true => Ok(()),
        false => Err(format!("the streams are not as they should be:\n{shown}").into()),
    }
}

/// The bytes that a cpu of the server has received: `cpu N: TCP received ... and BYTES bytes`. One
/// that owns no connection says nothing.
fn received(shown: &str, cpu: u16) -> Outcome<u64> {
    let head = format!("cpu {cpu}: TCP received ");
    let Some(line) = shown.lines().find_map(|line| line.strip_prefix(&head)) else {
        return Ok(0);
    };
    let bytes = line
        .split_once(" segments and ")
        .and_then(|(_, behind)| behind.split(' ').next())
        .ok_or("no bytes are told")?;
    Ok(bytes.parse()?)
}
