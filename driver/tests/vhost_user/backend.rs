//! A scripted vhost-user backend on a thread.
//!
//! It knows the protocol from the specification alone and shares no code with the transport.

use std::io::{IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};

pub const GET_FEATURES: u32 = 1;
pub const SET_FEATURES: u32 = 2;
pub const SET_OWNER: u32 = 3;
pub const SET_MEM_TABLE: u32 = 5;
pub const SET_VRING_NUM: u32 = 8;
pub const SET_VRING_ADDR: u32 = 9;
pub const SET_VRING_BASE: u32 = 10;
pub const GET_VRING_BASE: u32 = 11;
pub const SET_VRING_KICK: u32 = 12;
pub const SET_VRING_CALL: u32 = 13;
pub const GET_PROTOCOL_FEATURES: u32 = 15;
pub const SET_PROTOCOL_FEATURES: u32 = 16;
pub const GET_QUEUE_NUM: u32 = 17;
pub const SET_VRING_ENABLE: u32 = 18;
pub const NET_SET_MTU: u32 = 20;
pub const GET_CONFIG: u32 = 24;
pub const SET_STATUS: u32 = 39;
pub const GET_STATUS: u32 = 40;

/// What to do wrong at one request.
#[derive(Clone)]
pub enum Fault {
    /// Say nothing until [`Backend::release`].
    Silence,
    /// Close the connection.
    Close,
    /// Send these bytes and close.
    Raw(Vec<u8>),
    /// Answer, and attach a file.
    File,
    /// Answer with this number.
    Answer(u64),
}

/// What the backend offers and does.
#[derive(Clone)]
pub struct Script {
    pub features: u64,
    pub protocol: u64,
    pub queue_num: u64,
    pub space: [u8; 12],
    pub fault: Option<(u32, Fault)>,
    /// How many connections to serve before it ends.
    pub connections: usize,
    /// Close each connection after this request was answered.
    pub close_after: Option<u32>,
}

/// One message as it was received.
#[derive(Debug)]
pub struct Message {
    pub request: u32,
    pub need_reply: bool,
    pub payload: Vec<u8>,
    pub files: Vec<OwnedFd>,
}

impl Message {
    pub fn u64(&self, offset: usize) -> u64 {
        u64::from_ne_bytes(
            self.payload[offset..offset + 8]
                .try_into()
                .expect("eight bytes"),
        )
    }

    pub fn u32(&self, offset: usize) -> u32 {
        u32::from_ne_bytes(
            self.payload[offset..offset + 4]
                .try_into()
                .expect("four bytes"),
        )
    }
}

/// A directory of our own for sockets, removed at the end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("virtroupe-vhost-user-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a new directory");
        Folder(path)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub struct Backend {
    folder: Folder,
    thread: Option<JoinHandle<()>>,
    messages: Receiver<Message>,
    release: Option<Sender<()>>,
}

impl Backend {
    pub fn start(script: Script) -> Self {
        let folder = Folder::new();
        let listener = UnixListener::bind(folder.file("socket")).expect("a socket");
        let (record, messages) = channel();
        let (release, held) = channel();
        let thread = std::thread::spawn(move || {
            for _ in 0..script.connections {
                let (stream, _) = listener.accept().expect("a connection");
                serve(stream, &script, &record, &held);
            }
        });
        Backend {
            folder,
            thread: Some(thread),
            messages,
            release: Some(release),
        }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.file("socket")
    }

    /// Ends a [`Fault::Silence`], and waits until the backend has closed all.
    pub fn release(&mut self) {
        self.release = None;
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the backend found no fault");
        }
    }

    /// Waits for the end of the backend and returns what it received.
    pub fn finish(mut self) -> Vec<Message> {
        self.release();
        self.messages.try_iter().collect()
    }
}

fn serve(mut stream: UnixStream, script: &Script, record: &Sender<Message>, held: &Receiver<()>) {
    let (mut status, mut acknowledge) = (0, false);
    while let Some(message) = receive(&mut stream) {
        let Message {
            request,
            need_reply,
            ..
        } = message;
        assert!(
            !need_reply || acknowledge,
            "NEED_REPLY before REPLY_ACK in request {request}"
        );
        match request {
            SET_PROTOCOL_FEATURES => acknowledge = message.u64(0) & 1 << 3 != 0,
            SET_STATUS => status = message.u64(0),
            _ => {}
        }
        let answer = answer(script, &message, status);
        let _ = record.send(message);
        match script
            .fault
            .as_ref()
            .filter(|(at, _)| *at == request)
            .map(|(_, fault)| fault)
        {
            Some(Fault::Silence) => {
                let _ = held.recv();
                return;
            }
            Some(Fault::Close) => return,
            Some(Fault::Raw(bytes)) => {
                let _ = stream.write_all(bytes);
                return;
            }
            Some(Fault::File) => send_with_file(&stream, &reply(request, &answer.unwrap())),
            Some(Fault::Answer(value)) => send(&mut stream, request, &value.to_ne_bytes()),
            None => match answer {
                Some(payload) => send(&mut stream, request, &payload),
                None if need_reply => send(&mut stream, request, &0u64.to_ne_bytes()),
                None => {}
            },
        }
        if script.close_after == Some(request) {
            return;
        }
    }
}

/// The payload that answers `message`, if it has an answer of its own.
fn answer(script: &Script, message: &Message, status: u64) -> Option<Vec<u8>> {
    let number = match message.request {
        GET_FEATURES => script.features,
        GET_PROTOCOL_FEATURES => script.protocol,
        GET_QUEUE_NUM => script.queue_num,
        GET_STATUS => status,
        GET_VRING_BASE => return Some(message.payload.clone()),
        GET_CONFIG => {
            assert_eq!((message.u32(0), message.u32(4), message.u32(8)), (0, 12, 0));
            let mut payload = message.payload.clone();
            payload[12..].copy_from_slice(&script.space);
            return Some(payload);
        }
        _ => return None,
    };
    Some(number.to_ne_bytes().to_vec())
}

/// A reply as it should be.
pub fn reply(request: u32, payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    for word in [request, 0b101, payload.len() as u32] {
        message.extend_from_slice(&word.to_ne_bytes());
    }
    message.extend_from_slice(payload);
    message
}

fn send(stream: &mut UnixStream, request: u32, payload: &[u8]) {
    // The front-end may have gone away: that is for the test to judge.
    let _ = stream.write_all(&reply(request, payload));
}

fn send_with_file(stream: &UnixStream, message: &[u8]) {
    let files = [stream.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&files)];
    let bytes = [std::io::IoSlice::new(message)];
    let flags = MsgFlags::empty();
    sendmsg::<UnixAddr>(stream.as_raw_fd(), &bytes, &rights, flags, None).expect("sent");
}

fn receive(stream: &mut UnixStream) -> Option<Message> {
    let mut header = [0; 12];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 8]);
    let mut slices = [IoSliceMut::new(&mut header)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_WAITALL;
    let received =
        recvmsg::<UnixAddr>(stream.as_raw_fd(), &mut slices, Some(&mut space), flags).ok()?;
    let mut files = Vec::new();
    for control in received.cmsgs().expect("room for all files") {
        if let ControlMessageOwned::ScmRights(received) = control {
            // SAFETY: the kernel made these descriptors for this message, and nobody else has
            // them.
            files.extend(
                received
                    .into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    if received.bytes == 0 {
        return None;
    }
    assert_eq!(received.bytes, 12, "a whole header");
    let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().expect("a word"));
    assert_eq!(word(4) & !8, 1, "version 1, and no flag but NEED_REPLY");
    let mut payload = vec![0; word(8) as usize];
    stream.read_exact(&mut payload).expect("a whole payload");
    Some(Message {
        request: word(0),
        need_reply: word(4) & 8 != 0,
        payload,
        files,
    })
}

/// Makes a socket file on which nobody listens.
pub fn stale_socket(path: &Path) {
    drop(UnixListener::bind(path).expect("a socket"));
}
