//! What is counted in a measured time, and how it gets from a program to the benchmark.

use std::process::{Command, Output, Stdio};
use std::time::Instant;

use crate::support::Outcome;
use crate::support::cores::{CoreTime, spawn_on};

/// The core of the client or load.
pub const CLIENT_CORE: usize = 0;
/// The core of the server.
pub const SERVER_CORE: usize = 1;

/// A measured time.
pub struct Window {
    cores: [CoreTime; 2],
    started: Instant,
}

impl Window {
    /// It begins now.
    pub fn begin() -> Outcome<Self> {
        Ok(Window {
            cores: [CoreTime::now(CLIENT_CORE)?, CoreTime::now(SERVER_CORE)?],
            started: Instant::now(),
        })
    }

    /// It ends, and `count` of whatever is counted came in it: prints that for [`Measured::by`].
    pub fn end(self, count: f64) -> Outcome<()> {
        let rate = count / self.started.elapsed().as_secs_f64();
        let [client, server] = self.cores;
        let client = CoreTime::now(CLIENT_CORE)?.busy_since(client);
        let server = CoreTime::now(SERVER_CORE)?.busy_since(server);
        println!("measured {rate} {client} {server}");
        Ok(())
    }
}

/// What a program measured.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Of whatever is counted, in a second.
    pub rate: f64,
    /// The share of the time in which the client's core was busy.
    pub client_busy: f64,
    /// The same of the server's.
    pub server_busy: f64,
}

impl Measured {
    /// Runs a program on the client's core until it has printed what it measured.
    pub fn by(mut command: Command) -> Outcome<Measured> {
        let child = spawn_on(CLIENT_CORE, command.stdout(Stdio::piped()))?;
        Measured::read(&command, &child.wait_with_output()?)
    }

    /// Runs a program that binds its threads itself, until it has printed what it measured.
    pub fn of(mut command: Command) -> Outcome<Measured> {
        let output = command.stderr(Stdio::inherit()).output()?;
        Measured::read(&command, &output)
    }

    fn read(command: &Command, output: &Output) -> Outcome<Measured> {
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let measured = printed.lines().find_map(|line| {
            let mut figures = line
                .strip_prefix("measured ")?
                .split(' ')
                .map_while(|text| text.parse().ok());
            Some(Measured {
                rate: figures.next()?,
                client_busy: figures.next()?,
                server_busy: figures.next()?,
            })
        });
        measured.ok_or_else(|| format!("{command:?} measured nothing: {printed}").into())
    }
}
