//! Start-up errors: one line that says what is wrong and what to do, and exit code 1.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::support::{Outcome, Suite};
use crate::{printed, run};

pub fn tests(suite: &Suite) -> Vec<Trial> {
    vec![
        suite.test("a_missing_vhost_socket_is_named", &[], missing_socket),
        suite.test("a_missing_address_is_asked_for", &[], missing_address),
        suite.test(
            "an_unknown_field_is_named_with_its_line",
            &[],
            unknown_field,
        ),
        suite.test(
            "a_missing_configuration_is_named",
            &[],
            missing_configuration,
        ),
        suite.test("options_without_a_device_ask_for_one", &[], missing_device),
        suite.test("an_unknown_filter_lists_the_known", &[], unknown_filter),
        suite.test(
            "a_file_that_cannot_be_written_is_named",
            &[],
            no_such_folder,
        ),
    ]
}

const SOCKET: &str = "/nonexistent/vhost.sock";

fn missing_socket() -> Outcome<()> {
    let arguments = ["--vhost-user", SOCKET, "--ip", "10.0.0.1/24"];
    fails("echo_server", &arguments, &["stage 'device'", SOCKET])
}

fn missing_address() -> Outcome<()> {
    let arguments = ["--vhost-user", SOCKET];
    fails("echo_server", &arguments, &["no address", "--ip"])
}

fn unknown_field() -> Outcome<()> {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("unknown_field.toml");
    fs::write(&file, "device = \"tap:vt0\"\ncolour = \"blue\"\n")?;
    let file = file.to_str().ok_or("the folder's name is not UTF-8")?;
    fails("echo_server", &["--config", file], &["line 2", "`colour`"])
}

fn missing_configuration() -> Outcome<()> {
    let file = "/nonexistent/virtroupe.toml";
    fails("echo_server", &["--config", file], &[file])
}

fn missing_device() -> Outcome<()> {
    let hints = ["--tap", "--vhost-user", "--config"];
    fails("echo_server", &["--ip", "10.0.0.1/24"], &hints)?;
    fails("counter", &[], &hints)?;
    fails("capture", &[], &hints)?;
    fails("responder", &["--answer", "10.0.0.2"], &hints)
}

/// Wrong usage is clap's to report: several lines, and exit code 2.
fn unknown_filter() -> Outcome<()> {
    let output = run("capture", &["--filter", "udp and rubbish"])?;
    let shown = printed(&output);
    let is_told = shown.contains("'rubbish'") && shown.contains("[tcp|udp] port N");
    match output.status.code() == Some(2) && is_told {
        true => Ok(()),
        false => Err(format!("the filter is not reported:\n{shown}").into()),
    }
}

fn no_such_folder() -> Outcome<()> {
    let file = "/nonexistent/capture.pcapng";
    let arguments = ["--vhost-user", SOCKET, "--write", file];
    fails("capture", &arguments, &[file, "--write"])
}

/// Whether the example ends with one line `error: ...` that contains all of `hints`.
fn fails(name: &str, arguments: &[&str], hints: &[&str]) -> Outcome<()> {
    let output = run(name, arguments)?;
    let shown = printed(&output);
    let error = String::from_utf8_lossy(&output.stderr);
    let is_one_line = error.starts_with("error: ") && error.lines().count() == 1;
    let is_told = hints.iter().all(|hint| error.contains(hint));
    match output.status.code() == Some(1) && is_one_line && is_told {
        true => Ok(()),
        false => Err(format!("no line 'error: ...' with {hints:?}:\n{shown}").into()),
    }
}
