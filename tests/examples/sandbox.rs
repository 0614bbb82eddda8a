//! `echo_server --sandbox`: a kernel to talk to the stack with, without root.

use std::env;
use std::net::UdpSocket;
use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::support::requirement::{PING, Requirement};
use crate::support::{Outcome, Suite};
use crate::{printed, run};

/// Makes this program the client in the sandbox, of the server that the variable names.
const CLIENT: &str = "VIRTROUPE_SANDBOX_CLIENT";
/// The stack in the sandbox.
const STACK: &str = "10.0.0.2";

pub fn tests(suite: &Suite) -> Vec<Trial> {
    let needs = [Requirement::Namespaces, Requirement::Tun];
    let [namespaces, tun] = needs;
    vec![
        suite.test("the_sandbox_echoes_udp", &needs, echoes_udp),
        suite.test(
            "the_sandbox_answers_ping",
            &[namespaces, tun, PING],
            answers_ping,
        ),
        suite.test(
            "the_sandbox_ends_as_its_command_does",
            &needs,
            passes_exit_code_on,
        ),
    ]
}

fn echoes_udp() -> Outcome<()> {
    let this = env::current_exe()?;
    let this = this
        .to_str()
        .ok_or("the name of this program is not UTF-8")?;
    let client = format!("{CLIENT}={STACK}:7");
    succeeds(&["--sandbox", "--", "env", &client, this])
}

fn answers_ping() -> Outcome<()> {
    succeeds(&[
        "--sandbox",
        "--",
        "ping",
        "-n",
        "-c",
        "3",
        "-i",
        "0.2",
        STACK,
    ])
}

fn passes_exit_code_on() -> Outcome<()> {
    let output = run("echo_server", &["--sandbox", "--", "sh", "-c", "exit 3"])?;
    match output.status.code() {
        Some(3) => Ok(()),
        _ => Err(format!(
            "the command ended with 3, and the sandbox:\n{}",
            printed(&output)
        )
        .into()),
    }
}

fn succeeds(arguments: &[&str]) -> Outcome<()> {
    let output = run("echo_server", arguments)?;
    match output.status.success() {
        true => Ok(()),
        false => Err(printed(&output).into()),
    }
}

/// The server, if this process was started as the client in a sandbox.
pub fn asked_to_be_client() -> Option<String> {
    env::var(CLIENT).ok()
}

/// Sends some datagrams to `server` and compares what comes back.
pub fn client(server: &str) -> ExitCode {
    let echo = || -> Outcome<()> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        for length in [0_usize, 1, 64, 1472, 9000, 65_507] {
            let sent: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let mut received = vec![0; 65_507];
            socket.send(&sent)?;
            let count = socket.recv(&mut received)?;
            if received[..count] != sent {
                return Err(format!("the echo of {length} bytes differs").into());
            }
        }
        Ok(())
    };
    match echo() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("the client in the sandbox: {failure}");
            ExitCode::FAILURE
        }
    }
}
