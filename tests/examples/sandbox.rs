//! `echo_server --sandbox` and `http_server --sandbox`: a kernel to talk to the stack with, without root.

use std::env;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::support::requirement::{CURL, PING, Requirement};
use crate::support::{Outcome, Suite};
use crate::{printed, run};

/// Makes this program the client in the sandbox, of the UDP or TCP server that the variable names.
const CLIENT: &str = "VIRTROUPE_SANDBOX_CLIENT";
/// A client that waits longer has lost something.
const LIMIT: Duration = Duration::from_secs(60);
/// The stack in the sandbox.
const STACK: &str = "10.0.0.2";

pub fn tests(suite: &Suite) -> Vec<Trial> {
    let needs = [Requirement::Namespaces, Requirement::Tun];
    let [namespaces, tun] = needs;
    vec![
        suite.test("the_sandbox_echoes_udp", &needs, || echoes("udp")),
        suite.test("the_sandbox_echoes_tcp", &needs, || echoes("tcp")),
        suite.test(
            "the_sandbox_answers_ping",
            &[namespaces, tun, PING],
            answers_ping,
        ),
        suite.test(
            "the_sandbox_answers_curl",
            &[namespaces, tun, CURL],
            answers_curl,
        ),
        suite.test(
            "the_sandbox_ends_as_its_command_does",
            &needs,
            passes_exit_code_on,
        ),
    ]
}

fn echoes(protocol: &str) -> Outcome<()> {
    let this = env::current_exe()?;
    let this = this
        .to_str()
        .ok_or("the name of this program is not UTF-8")?;
    let client = format!("{CLIENT}={protocol} {STACK}:7");
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

fn answers_curl() -> Outcome<()> {
    let url = format!("http://{STACK}/");
    let curl = ["--sandbox", "--", "curl", "-sS", "--max-time", "10", &url];
    let output = run("http_server", &curl)?;
    let is_answered = output.stdout == b"hello from Virtroupe\n";
    match output.status.success() && is_answered {
        true => Ok(()),
        false => Err(printed(&output).into()),
    }
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

/// Has `server`, a protocol and an address, echo, and compares what comes back.
pub fn client(server: &str) -> ExitCode {
    let echo = || match server.split_once(' ') {
        Some(("udp", server)) => udp_client(server),
        Some(("tcp", server)) => tcp_client(server),
        _ => Err(format!("no protocol: {server}").into()),
    };
    match echo() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("the client in the sandbox: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn udp_client(server: &str) -> Outcome<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(LIMIT))?;
    for length in [0_usize, 1, 64, 1472, 9000, 65_507] {
        let sent = content(length);
        let mut received = vec![0; 65_507];
        socket.send(&sent)?;
        let count = socket.recv(&mut received)?;
        if received[..count] != sent {
            return Err(format!("the echo of {length} bytes differs").into());
        }
    }
    Ok(())
}

/// Writes and reads at the same time, far more than is on its way at a time, and then the end.
fn tcp_client(server: &str) -> Outcome<()> {
    let stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let sent = content(20_000_000);
    let mut received = Vec::new();
    thread::scope(|scope| {
        let writing = scope.spawn(|| {
            (&stream).write_all(&sent)?;
            stream.shutdown(Shutdown::Write)
        });
        (&stream).read_to_end(&mut received)?;
        writing.join().expect("it does not panic")
    })?;
    match received == sent {
        true => Ok(()),
        false => Err(format!("the echo differs; it has {} bytes", received.len()).into()),
    }
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}
