//! Bulk transfer over one connection: the plain Linux client, and what both sides move.
//!
//! The client reads into a buffer, and sends by `sendfile` from a file in memory: so it spends
//! least on itself, and the server is the limit wherever it can be. Nobody touches the payload but to
//! copy it: neither smoltcp's program nor ours reads what it receives.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::sendfile::sendfile64;

use crate::link::{SERVER, set_cubic};
use crate::support::{Outcome, option};
use crate::window::Window;

/// The port that is served.
pub const PORT: u16 = 5001;
/// What is sent, over and over: 64 KiB that stay in the caches.
pub static CONTENT: [u8; 65_536] = [0x5a; 65_536];
/// Bytes that the client moves with one system call.
const AT_ONCE: usize = 256 * 1024;
/// How long a connection runs before it is measured: its windows open meanwhile.
const WARM_UP: Duration = Duration::from_millis(500);
/// How long a server may take until it accepts.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// It sends as fast as the client takes it.
    Send,
    /// It takes what the client sends.
    Receive,
}

impl Direction {
    /// Both.
    pub const ALL: [Direction; 2] = [Direction::Send, Direction::Receive];

    /// How options and figures name it.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Send => "send",
            Direction::Receive => "receive",
        }
    }

    /// From its name, which follows `name` on the command line.
    pub fn from_option(name: &str) -> Outcome<Self> {
        let given = option(name, String::new())?;
        Direction::ALL
            .into_iter()
            .find(|direction| direction.name() == given)
            .ok_or_else(|| format!("{name} {given}: send or receive").into())
    }
}

/// The client, as a program: moves bytes for `--seconds`, and prints what it measured.
pub fn client(direction: Direction) -> Outcome<()> {
    let seconds = Duration::from_secs_f64(option("--seconds", 2.0)?);
    let mut stream = connect()?;
    set_cubic(&stream)?;
    let mut buffer = vec![0; AT_ONCE];
    let content = content()?;
    let mut transfer = || -> Outcome<usize> {
        let moved = match direction {
            Direction::Send => stream.read(&mut buffer)?,
            Direction::Receive => sendfile64(&stream, &content, Some(&mut 0), AT_ONCE)?,
        };
        match moved {
            0 => Err("the server ended the connection".into()),
            _ => Ok(moved),
        }
    };
    let warm = Instant::now() + WARM_UP;
    while Instant::now() < warm {
        transfer()?;
    }
    let window = Window::begin()?;
    let started = Instant::now();
    let mut bytes = 0;
    while started.elapsed() < seconds {
        bytes += transfer()?;
    }
    window.end(bytes as f64 * 8.0)
}

/// A file in memory with something to send.
fn content() -> Outcome<File> {
    let mut file = File::from(memfd_create("content", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&[0x5a; AT_ONCE])?;
    Ok(file)
}

fn connect() -> Outcome<TcpStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect((std::net::IpAddr::from(SERVER), PORT)) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > deadline => {
                return Err(format!("nobody accepts at {SERVER:?}, port {PORT}: {error}").into());
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}
