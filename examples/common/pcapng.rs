//! An actor that writes frames to pcapng files, on an arbiter of its own: a disk that stalls must
//! not stall the stack.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use actix::prelude::*;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, PcapError};
use virtroupe::{Buffer, Burst, Frame};

/// Bursts that wait for the disk; what exceeds them is refused, and the sender counts it.
const WAITING: usize = 256;
/// The longest packet that readers should expect, in bytes.
const LONGEST: u32 = 1 << 18;
/// Time stamps are in units of 10^-9 seconds.
const NANOSECONDS: u8 = 9;

/// Frames that arrived together.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Captured {
    /// When.
    pub at: SystemTime,
    /// The frames.
    pub frames: Burst<Frame>,
}

/// Asks for everything to be on disk, and for what was written so far.
#[derive(Message)]
#[rtype(result = "Result<Written, io::Error>")]
pub struct Flush;

/// What was written so far.
#[derive(Debug, Clone)]
pub struct Written {
    /// Packets in all files.
    pub packets: u64,
    /// Bytes in all files.
    pub bytes: u64,
    /// The current file.
    pub file: PathBuf,
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kib, file) = (self.bytes >> 10, self.file.display());
        write!(
            f,
            "captured {} packets, {kib} KiB, now in {file}",
            self.packets
        )
    }
}

/// Writes what it gets to one file after the other.
pub struct Writer {
    path: PathBuf,
    /// Length in bytes at which the next file begins.
    limit: Option<u64>,
    files: u32,
    file: PcapNgWriter<BufWriter<File>>,
    /// Bytes in the current file.
    length: u64,
    written: Written,
    /// What ended the writing; told once.
    failure: Option<io::Error>,
    has_failed: bool,
}

impl Writer {
    /// A writer to `path`, or, with a `limit` in bytes, to numbered files of about that length.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn create(path: PathBuf, limit: Option<u64>) -> io::Result<Writer> {
        let first = name(&path, limit, 1);
        Ok(Writer {
            file: open(&first)?,
            path,
            limit,
            files: 1,
            length: 0,
            written: Written {
                packets: 0,
                bytes: 0,
                file: first,
            },
            failure: None,
            has_failed: false,
        })
    }

    fn write(&mut self, at: Duration, frame: &Frame) -> io::Result<()> {
        if self.limit.is_some_and(|limit| self.length >= limit) {
            self.rotate()?;
        }
        let data = match frame.is_chain() {
            true => Cow::Owned(frame.to_vec()),
            false => Cow::Borrowed(frame.head()),
        };
        let block = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: at,
            original_len: data.len() as u32,
            data,
            options: Vec::new(),
        };
        let length = self.file.write_pcapng_block(block).map_err(to_io)? as u64;
        self.length += length;
        self.written.bytes += length;
        self.written.packets += 1;
        Ok(())
    }

    fn explain(&self, error: io::Error) -> io::Error {
        let file = self.written.file.display();
        let message = format!("cannot write {file}: {error}; what was captured before is in it");
        io::Error::new(error.kind(), message)
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file.get_mut().flush()?;
        self.files += 1;
        let next = name(&self.path, self.limit, self.files);
        self.file = open(&next)?;
        self.written.file = next;
        self.length = 0;
        Ok(())
    }
}

/// `capture.pcapng`, or with a limit `capture-00001.pcapng`.
fn name(path: &Path, limit: Option<u64>, number: u32) -> PathBuf {
    if limit.is_none() {
        return path.into();
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}-{number:05}"))
        .with_extension(&*extension)
}

/// A file with its header: one Ethernet interface.
fn open(path: &Path) -> io::Result<PcapNgWriter<BufWriter<File>>> {
    let create = || {
        let mut file = PcapNgWriter::new(BufWriter::new(File::create(path)?)).map_err(to_io)?;
        file.write_pcapng_block(InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: LONGEST,
            options: vec![InterfaceDescriptionOption::IfTsResol(NANOSECONDS)],
        })
        .map_err(to_io)?;
        Ok(file)
    };
    create().map_err(|error: io::Error| {
        let message = format!(
            "cannot create {}: {error}; choose another by --write",
            path.display()
        );
        io::Error::new(error.kind(), message)
    })
}

fn to_io(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

impl Actor for Writer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(WAITING);
    }
}

impl Handler<Captured> for Writer {
    type Result = ();

    fn handle(&mut self, captured: Captured, _: &mut Self::Context) {
        if self.has_failed {
            return;
        }
        let at = captured.at.duration_since(SystemTime::UNIX_EPOCH);
        let at = at.unwrap_or_default();
        for frame in captured.frames.iter() {
            if let Err(error) = self.write(at, frame) {
                self.failure = Some(self.explain(error));
                self.has_failed = true;
                return;
            }
        }
    }
}

impl Handler<Flush> for Writer {
    type Result = io::Result<Written>;

    fn handle(&mut self, _: Flush, _: &mut Self::Context) -> Self::Result {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let flushed = self.file.get_mut().flush();
        flushed.map_err(|error| self.explain(error))?;
        Ok(self.written.clone())
    }
}
