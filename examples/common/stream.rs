//! What is done with a TCP connection, and how much went through all of them.

use std::fmt;
use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::exit::Outcome;
use crate::pattern;

/// Bytes that are read at once.
const BUFFER: usize = 64 << 10;

/// What to do with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Read everything
    Sink,
    /// Write, and read nothing until that is done
    Source,
    /// Write back what is read
    Echo,
    /// Write and read at the same time, as the client of an echo
    Both,
}

/// What goes through a connection.
#[derive(Debug, Clone, Copy)]
pub struct Transfer {
    /// What to do.
    pub role: Role,
    /// How much to write; without it, until the peer has enough.
    pub bytes: Option<u64>,
    /// Whether to compare what is read with the pattern.
    pub verify: bool,
}

/// Counters of all connections, shared by all cpus.
#[derive(Debug, Default)]
pub struct Tally {
    /// Bytes that were read.
    pub received: AtomicU64,
    /// Bytes that were written.
    pub sent: AtomicU64,
    /// Connections that are open.
    pub open: AtomicU64,
    /// Connections that have ended as they should.
    pub done: AtomicU64,
    /// Connections that have ended by an error.
    pub failed: AtomicU64,
}

/// Counters are only read to be shown.
const RELAXED: Ordering = Ordering::Relaxed;

impl Transfer {
    /// What the peer is to do.
    pub fn opposite(self) -> Self {
        let role = match self.role {
            Role::Sink => Role::Source,
            Role::Source => Role::Sink,
            Role::Echo => Role::Both,
            Role::Both => Role::Echo,
        };
        Transfer { role, ..self }
    }

    /// Does it on `stream`, and counts.
    pub async fn run<S: AsyncRead + AsyncWrite>(self, stream: S, tally: &Tally) -> io::Result<()> {
        tally.open.fetch_add(1, RELAXED);
        let (mut reader, mut writer) = tokio::io::split(stream);
        let outcome = match self.role {
            Role::Sink => self.read(&mut reader, tally).await,
            Role::Echo => echo(&mut reader, &mut writer, tally).await,
            Role::Source => match self.write(&mut writer, tally).await {
                Ok(()) => self.read(&mut reader, tally).await,
                Err(error) => Err(error),
            },
            Role::Both => tokio::try_join!(
                self.read(&mut reader, tally),
                self.write(&mut writer, tally)
            )
            .map(drop),
        };
        match &outcome {
            Ok(()) => tally.done.fetch_add(1, RELAXED),
            Err(_) => tally.failed.fetch_add(1, RELAXED),
        };
        // Last: who waits until none is open reads the others then.
        tally.open.fetch_sub(1, Ordering::Release);
        outcome
    }

    /// Writes the pattern, and says that it ends.
    async fn write(&self, writer: &mut (impl AsyncWrite + Unpin), tally: &Tally) -> io::Result<()> {
        let end = self.bytes.unwrap_or(u64::MAX);
        let mut at = 0;
        while at < end {
            let written = writer.write(&pattern::piece(at, end - at)).await? as u64;
            tally.sent.fetch_add(written, RELAXED);
            at += written;
        }
        writer.shutdown().await
    }

    /// Reads until the peer has ended.
    async fn read(&self, reader: &mut (impl AsyncRead + Unpin), tally: &Tally) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        let mut at = 0;
        loop {
            let read = reader.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            let bytes = buffer.get(..read).unwrap_or_default();
            if self.verify && bytes != pattern::piece(at, read as u64) {
                let error = format!("wrong content within {read} bytes from byte {at} on");
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            tally.received.fetch_add(read as u64, RELAXED);
            at += read as u64;
        }
    }
}

/// Writes back what is read, and ends when the peer has.
async fn echo(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
    tally: &Tally,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = reader.read(&mut buffer).await?;
        let bytes = buffer.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            return writer.shutdown().await;
        }
        tally.received.fetch_add(read as u64, RELAXED);
        writer.write_all(bytes).await?;
        tally.sent.fetch_add(read as u64, RELAXED);
    }
}

/// How often to look whether something has ended.
const TICK: Duration = Duration::from_millis(10);

impl Tally {
    /// Waits until no connection is open.
    pub async fn idle(&self) {
        while self.open.load(Ordering::Acquire) > 0 {
            tokio::time::sleep(TICK).await;
        }
    }

    /// How the program is to end: connections that failed are an error.
    pub fn outcome(&self) -> Outcome<ExitCode> {
        match self.failed.load(RELAXED) {
            0 => Ok(ExitCode::SUCCESS),
            failed => Err(format!("{failed} connections failed; the log says how").into()),
        }
    }
}

/// Tells rates from two readings of a tally.
#[derive(Debug, Default)]
pub struct Meter {
    received: u64,
    sent: u64,
}

impl Meter {
    /// What went through since the last call, `interval` ago, as one line.
    pub fn line(&mut self, tally: &Tally, interval: Duration) -> String {
        let (received, sent) = (tally.received.load(RELAXED), tally.sent.load(RELAXED));
        let line = format!(
            "received {}, sent {}, connections {} open, {} done, {} failed",
            Gigabits(received - self.received, interval),
            Gigabits(sent - self.sent, interval),
            tally.open.load(RELAXED),
            tally.done.load(RELAXED),
            tally.failed.load(RELAXED),
        );
        (self.received, self.sent) = (received, sent);
        line
    }
}

/// Bytes in a time, shown in Gbit/s.
struct Gigabits(u64, Duration);

impl fmt::Display for Gigabits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Gigabits(bytes, time) = self;
        let gigabits = *bytes as f64 * 8e-9 / time.as_secs_f64().max(1e-9);
        write!(f, "{gigabits:.2} Gbit/s")
    }
}
