//! The kernel's echo: a UDP socket in another network namespace, behind a veth pair.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};

use super::{RoundTrips, Settings, Waiting, client};
use crate::support::{Outcome, option};

/// Makes this program the echo.
pub const SUBCOMMAND: &str = "kernel-echo";

/// Names of the two ends, and their addresses.
const CLIENT: (&str, &str) = ("latency0", "10.1.0.1/24");
const ECHO: (&str, &str) = ("latency1", "10.1.0.2/24");
const SERVER: ([u8; 4], u16) = ([10, 1, 0, 2], 7);

/// Measures the echo over a veth pair.
pub fn over_veth(settings: &Settings, waiting: Waiting) -> Outcome<RoundTrips> {
    let _echo = Echo::start(settings, waiting)?;
    client::measure(SERVER.into(), settings)
}

/// The process of the echo. Dropped, it is killed, and with its namespace goes the veth pair.
struct Echo(Child);

impl Echo {
    fn start(settings: &Settings, waiting: Waiting) -> Outcome<Echo> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(SUBCOMMAND);
        command.args(["--core", &settings.echo_core.to_string()]);
        if waiting == Waiting::Polls {
            command.args(["--polls", "true"]);
        }
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut echo = Echo(child?);
        let mut lines = BufReader::new(echo.0.stdout.take().ok_or("no output")?).lines();
        // It is in its namespace now.
        lines.next().ok_or("the echo ended early")??;
        let pid = echo.0.id().to_string();
        let (name, address) = CLIENT;
        let peer = ["type", "veth", "peer", "name", ECHO.0, "netns", &pid];
        ip(&[&["link", "add", name], &peer[..]].concat())?;
        ip(&["address", "add", address, "dev", name])?;
        ip(&["link", "set", name, "up"])?;
        let mut input = echo.0.stdin.take().ok_or("no input")?;
        writeln!(input, "go")?;
        lines.next().ok_or("the echo ended early")??;
        Ok(echo)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        // The kernel takes the pair away some time after the namespace.
        let _ = ip(&["link", "delete", CLIENT.0]);
    }
}

/// What the process does.
pub fn echo() -> Outcome<()> {
    client::enter_namespace()?;
    println!("in a namespace");
    std::io::stdin().lock().read_line(&mut String::new())?;
    let (name, address) = ECHO;
    ip(&["address", "add", address, "dev", name])?;
    ip(&["link", "set", name, "up"])?;
    let socket = UdpSocket::bind(SocketAddr::from(SERVER))?;
    socket.set_nonblocking(option("--polls", false)?)?;
    client::pin(option("--core", 1)?)?;
    println!("ready");
    let mut buffer = [0; 2048];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => _ = socket.send_to(&buffer[..length], from)?,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn ip(arguments: &[&str]) -> Outcome<()> {
    let output = Command::new("ip").args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {}: {}", arguments.join(" "), error.trim()).into())
}
