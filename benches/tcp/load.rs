//! The load on an HTTP server: keep-alive connections over the kernel's sockets, each with one
//! request under way, on one thread.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::http::PORT;
use crate::link::{SERVER, set_cubic};
use crate::support::{Outcome, option};
use crate::window::Window;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: 10.0.0.2\r\n\r\n";
/// How long the load runs before it is measured.
const WARM_UP: Duration = Duration::from_millis(500);
/// How long a server may take until it accepts, and then for each answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// One connection, and how much of the answer is missing.
struct Connection {
    stream: TcpStream,
    missing: usize,
}

/// The load, as a program: `--connections` of them for `--seconds`; prints what it measured.
pub fn client() -> Outcome<()> {
    let seconds = Duration::from_secs_f64(option("--seconds", 2.0)?);
    let count = option("--connections", 32)?;
    let (mut connections, answer) = connect(count)?;
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    for (index, connection) in connections.iter_mut().enumerate() {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
        epoll.add(&connection.stream, event)?;
        connection.stream.set_nonblocking(true)?;
        connection.stream.write_all(REQUEST)?;
        connection.missing = answer;
    }
    let mut load = Load {
        epoll,
        connections,
        answer,
        events: vec![EpollEvent::empty(); count],
    };
    load.run(WARM_UP)?;
    let window = Window::begin()?;
    let answers = load.run(seconds)?;
    window.end(answers as f64)
}

struct Load {
    epoll: Epoll,
    connections: Vec<Connection>,
    /// Bytes of one answer.
    answer: usize,
    events: Vec<EpollEvent>,
}

impl Load {
    /// Answers that came in so much time.
    fn run(&mut self, time: Duration) -> Outcome<u64> {
        let started = Instant::now();
        let mut answers = 0;
        while started.elapsed() < time {
            let patience = EpollTimeout::try_from(PATIENCE)?;
            let ready = self.epoll.wait(&mut self.events, patience)?;
            if ready == 0 {
                return Err("no answer came for 10 s".into());
            }
            for event in &self.events[..ready] {
                let connection = &mut self.connections[event.data() as usize];
                if connection.take()? {
                    answers += 1;
                    connection.stream.write_all(REQUEST)?;
                    connection.missing = self.answer;
                }
            }
        }
        Ok(answers)
    }
}

impl Connection {
    /// Reads what is there; true when the answer is whole.
    fn take(&mut self) -> Outcome<bool> {
        let mut buffer = [0; 1024];
        let room = self.missing.min(buffer.len());
        match self.stream.read(&mut buffer[..room]) {
            Ok(0) => return Err("the server ended a connection".into()),
            Ok(count) => self.missing -= count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.missing == 0)
    }
}

/// Opens the connections, and asks once on each: all answers have the same length, which comes
/// back, too.
fn connect(count: usize) -> Outcome<(Vec<Connection>, usize)> {
    let deadline = Instant::now() + PATIENCE;
    let mut connections = Vec::with_capacity(count);
    let mut answer = 0;
    while connections.len() < count {
        match TcpStream::connect((IpAddr::from(SERVER), PORT)) {
            Ok(mut stream) => {
                set_cubic(&stream)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                answer = ask(&mut stream)?;
                let missing = 0;
                connections.push(Connection { stream, missing });
            }
            Err(error) if Instant::now() > deadline => {
                return Err(format!("nobody accepts at {SERVER:?}, port {PORT}: {error}").into());
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
    Ok((connections, answer))
}

/// Asks, and checks the answer. Returns its length.
fn ask(stream: &mut TcpStream) -> Outcome<usize> {
    stream.write_all(REQUEST)?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 1024]);
    while !answer.ends_with(b"\r\n\r\nHello, World!") {
        match stream.read(&mut buffer)? {
            0 => return Err("the server ended a connection".into()),
            count => answer.extend_from_slice(&buffer[..count]),
        }
    }
    match answer.starts_with(b"HTTP/1.1 200 OK\r\n") {
        true => Ok(answer.len()),
        false => Err(format!("unexpected: {}", String::from_utf8_lossy(&answer)).into()),
    }
}
