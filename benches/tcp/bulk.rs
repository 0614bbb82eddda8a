//! Bulk transfer over one connection: the plain Linux client, and what both sides move.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::link::{SERVER, set_cubic};
use crate::support::{Outcome, option};
use crate::window::Window;

/// The port that is served.
pub const PORT: u16 = 5001;
/// What is sent, over and over: 64 KiB that stay in the caches.
pub static CONTENT: [u8; 65_536] = [0x5a; 65_536];
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
    let mut buffer = vec![0; 256 * 1024];
    let mut transfer = || -> Outcome<usize> {
        let moved = match direction {
            Direction::Send => stream.read(&mut buffer)?,
            Direction::Receive => stream.write(&buffer)?,
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
