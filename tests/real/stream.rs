//! Streams with known content, for both ends: byte `i` is `i % 251`, which repeats at no power of
//! two, so that no piece can take the place of another.

use std::io::{self, Read, Write};
use std::sync::LazyLock;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The period of the content.
const PERIOD: usize = 251;
/// Bytes that are written or read at once.
const BLOCK: usize = 64 << 10;

/// What came through: its length, and its SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    pub length: u64,
    pub sha256: String,
}

/// The content of `length` bytes as it should be.
pub fn content(length: u64) -> Content {
    let mut hash = Hash::default();
    let mut at = 0;
    while at < length {
        let piece = piece(at, length);
        hash.update(piece);
        at += piece.len() as u64;
    }
    hash.finish()
}

/// Writes `length` bytes.
pub fn write(writer: &mut impl Write, length: u64) -> io::Result<()> {
    let mut at = 0;
    while at < length {
        at += uninterrupted(|| writer.write(piece(at, length)))? as u64;
    }
    writer.flush()
}

/// Reads to the end.
pub fn read(reader: &mut impl Read) -> io::Result<Content> {
    let (mut hash, mut block) = (Hash::default(), vec![0; BLOCK]);
    loop {
        match uninterrupted(|| reader.read(&mut block))? {
            0 => return Ok(hash.finish()),
            length => hash.update(&block[..length]),
        }
    }
}

/// Does `work` again while it is interrupted: a process that is stopped and goes on is, in calls
/// with a time limit (signal(7)).
fn uninterrupted<T>(mut work: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match work() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// As [`write`], on a stream of ours.
pub async fn write_async(writer: &mut (impl AsyncWrite + Unpin), length: u64) -> io::Result<()> {
    let mut at = 0;
    while at < length {
        at += writer.write(piece(at, length)).await? as u64;
    }
    writer.flush().await
}

/// As [`read`], on a stream of ours.
pub async fn read_async(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Content> {
    let (mut hash, mut block) = (Hash::default(), vec![0; BLOCK]);
    loop {
        match reader.read(&mut block).await? {
            0 => return Ok(hash.finish()),
            length => hash.update(&block[..length]),
        }
    }
}

#[derive(Default)]
struct Hash {
    sha256: Sha256,
    length: u64,
}

impl Hash {
    fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.length += bytes.len() as u64;
    }

    fn finish(self) -> Content {
        let sha256 = self.sha256.finalize();
        Content {
            length: self.length,
            sha256: sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}

/// The bytes from `position` on, up to a block of them or to `end`.
fn piece(position: u64, end: u64) -> &'static [u8] {
    static PATTERN: LazyLock<Vec<u8>> =
        LazyLock::new(|| (0..PERIOD + BLOCK).map(|at| (at % PERIOD) as u8).collect());
    let start = (position % PERIOD as u64) as usize;
    let length = (end - position).min(BLOCK as u64) as usize;
    &PATTERN[start..start + length]
}
