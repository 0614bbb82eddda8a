//! The socket to the backend: whole messages within a time limit.
//!
//! Every request has one deadline, from its first byte sent to the last byte of its answer; a
//! backend that hangs, or that sends one byte at a time, cannot hold the caller longer. After a
//! failure nobody knows where in the stream the next message begins, so the connection counts as
//! broken from then on.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, recvmsg, sendmsg};

use super::deadline::Deadline;
use super::dial::dial;
use super::message::{self, HEADER_LENGTH, Malformed, Request};
use crate::transport::TransportError;

/// A connected vhost-user socket.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    device: String,
    timeout: Duration,
    acknowledged: bool,
    broken: bool,
}

impl Connection {
    /// Connects to the backend at `path`. `timeout` holds for this and for each later request;
    /// `wait` is how long to try again while nobody listens there.
    pub(crate) fn open(
        path: &Path,
        device: &str,
        timeout: Duration,
        wait: Duration,
    ) -> Result<Self, TransportError> {
        let stream = dial(path, device, timeout, wait)?;
        let device = device.to_owned();
        Ok(Connection {
            stream,
            device,
            timeout,
            acknowledged: false,
            broken: false,
        })
    }

    /// From now on the backend acknowledges every request (protocol feature REPLY_ACK).
    pub(crate) fn acknowledge_requests(&mut self) {
        self.acknowledged = true;
    }

    /// Whether requests are acknowledged.
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.acknowledged
    }

    /// Whether a request failed half-way, so that only closing is left.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Makes a request that has no answer of its own, with a file if `file` is given. With
    /// REPLY_ACK this waits for the acknowledgement.
    pub(crate) fn command(
        &mut self,
        request: Request,
        payload: &[u8],
        file: Option<BorrowedFd<'_>>,
    ) -> Result<(), TransportError> {
        let deadline = Deadline::after(self.timeout);
        let message = message::encode(request, self.acknowledged, payload);
        self.guard(|connection| connection.send(request, &message, file, &deadline))?;
        if !self.acknowledged {
            return Ok(());
        }
        let reply = self.guard(|connection| connection.reply(request, &deadline))?;
        match u64::from_ne_bytes(reply) {
            0 => Ok(()),
            code => Err(self.problem(format!(
                "the backend refused {} (code {code}); its log may say why",
                request.name()
            ))),
        }
    }

    /// Makes a request and returns the payload of its answer, which must have `N` bytes.
    pub(crate) fn query<const N: usize>(
        &mut self,
        request: Request,
        payload: &[u8],
    ) -> Result<[u8; N], TransportError> {
        let deadline = Deadline::after(self.timeout);
        let message = message::encode(request, false, payload);
        self.guard(|connection| {
            connection.send(request, &message, None, &deadline)?;
            connection.reply(request, &deadline)
        })
    }

    /// Says goodbye and waits until the backend has closed its side, which it does after it
    /// stopped. `Ok` if it has.
    pub(crate) fn close_and_wait(&mut self) -> Result<(), TransportError> {
        self.broken = true;
        // Fails only if the backend is gone already.
        let _ = self.stream.shutdown(Shutdown::Write);
        let deadline = Deadline::after(self.timeout);
        let mut scrap = [0; 256];
        loop {
            if deadline.remaining().is_none() {
                return Err(self.timed_out("close", &deadline));
            }
            match self.receive(&mut scrap, MsgFlags::empty()) {
                Ok(0) | Err(Errno::ECONNRESET) => return Ok(()),
                Ok(_) | Err(Errno::EINTR | Errno::EBADMSG) => {}
                Err(Errno::EAGAIN) => self.wait(PollFlags::POLLIN, "close", &deadline)?,
                Err(errno) => return Err(self.system("wait for the end of", errno)),
            }
        }
    }

    /// Why the connection is lost, if it is. Never blocks.
    pub(crate) fn lost(&mut self) -> Option<String> {
        let reason = match self.receive(&mut [0], MsgFlags::MSG_PEEK) {
            Ok(0) | Err(Errno::ECONNRESET) => {
                "the backend closed the connection or ended".to_owned()
            }
            Ok(_) => "the backend sent data that nobody asked for".to_owned(),
            Err(Errno::EAGAIN | Errno::EINTR) => return None,
            Err(errno) => format!(
                "the connection to the backend failed: {}",
                io::Error::from(errno)
            ),
        };
        self.broken = true;
        Some(reason)
    }

    /// An error that blames the backend.
    pub(crate) fn problem(&self, problem: String) -> TransportError {
        TransportError::Device {
            device: self.device.clone(),
            problem,
        }
    }

    /// The error for an answer that is not one, after which the stream has no meaning.
    pub(crate) fn malformed(&mut self, request: Request, malformed: Malformed) -> TransportError {
        self.broken = true;
        self.problem(format!(
            "malformed answer to {}: {malformed}; is this a vhost-user-net backend?",
            request.name()
        ))
    }

    fn guard<T>(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<T, TransportError>,
    ) -> Result<T, TransportError> {
        if self.broken {
            return Err(self.problem("the connection failed before; reset the device".to_owned()));
        }
        let result = step(self);
        self.broken |= result.is_err();
        result
    }

    /// Sends all of `message`; the file goes with its first byte.
    fn send(
        &mut self,
        request: Request,
        mut message: &[u8],
        file: Option<BorrowedFd<'_>>,
        deadline: &Deadline,
    ) -> Result<(), TransportError> {
        let files = file.map(|file| [file.as_raw_fd()]);
        let mut rights = files.as_ref().map(|files| ControlMessage::ScmRights(files));
        while !message.is_empty() {
            let sent = sendmsg::<UnixAddr>(
                self.stream.as_raw_fd(),
                &[IoSlice::new(message)],
                rights.as_slice(),
                MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT,
                None,
            );
            match sent {
                Ok(count) => {
                    message = message.get(count..).unwrap_or_default();
                    rights = None;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => self.wait(PollFlags::POLLOUT, request.name(), deadline)?,
                Err(Errno::EPIPE | Errno::ECONNRESET) => return Err(self.closed(request)),
                Err(errno) => {
                    return Err(self.system(&format!("send {} to", request.name()), errno));
                }
            }
        }
        Ok(())
    }

    fn reply<const N: usize>(
        &mut self,
        request: Request,
        deadline: &Deadline,
    ) -> Result<[u8; N], TransportError> {
        let mut header = [0; HEADER_LENGTH];
        self.receive_all(request, &mut header, deadline)?;
        if let Err(malformed) = message::check_reply(&header, request, N) {
            return Err(self.malformed(request, malformed));
        }
        let mut payload = [0; N];
        self.receive_all(request, &mut payload, deadline)?;
        Ok(payload)
    }

    fn receive_all(
        &mut self,
        request: Request,
        mut buffer: &mut [u8],
        deadline: &Deadline,
    ) -> Result<(), TransportError> {
        while !buffer.is_empty() {
            match self.receive(buffer, MsgFlags::empty()) {
                Ok(0) | Err(Errno::ECONNRESET) => return Err(self.closed(request)),
                Ok(count) => buffer = buffer.get_mut(count..).unwrap_or_default(),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => self.wait(PollFlags::POLLIN, request.name(), deadline)?,
                Err(Errno::EBADMSG) => {
                    return Err(self.problem(format!(
                        "the answer to {} carries files, which none should",
                        request.name()
                    )));
                }
                Err(errno) => {
                    return Err(
                        self.system(&format!("read the answer to {} of", request.name()), errno)
                    );
                }
            }
        }
        Ok(())
    }

    /// One read. There is no room for files: those that the backend sends are closed by the
    /// kernel, which sets MSG_CTRUNC, reported as `EBADMSG`.
    fn receive(&self, buffer: &mut [u8], flags: MsgFlags) -> Result<usize, Errno> {
        let mut slices = [IoSliceMut::new(buffer)];
        let flags = flags | MsgFlags::MSG_DONTWAIT;
        let received = recvmsg::<UnixAddr>(self.stream.as_raw_fd(), &mut slices, None, flags)?;
        if received.flags.contains(MsgFlags::MSG_CTRUNC) {
            return Err(Errno::EBADMSG);
        }
        Ok(received.bytes)
    }

    fn wait(
        &self,
        events: PollFlags,
        request: &'static str,
        deadline: &Deadline,
    ) -> Result<(), TransportError> {
        let Some(timeout) = deadline.poll_timeout() else {
            return Err(self.timed_out(request, deadline));
        };
        match poll(&mut [PollFd::new(self.stream.as_fd(), events)], timeout) {
            // Zero: the caller tries once more, and then finds the deadline passed.
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(self.system("wait for", errno)),
        }
    }

    fn timed_out(&self, request: &'static str, deadline: &Deadline) -> TransportError {
        TransportError::TimedOut {
            device: self.device.clone(),
            request,
            milliseconds: deadline.milliseconds(),
        }
    }

    fn closed(&self, request: Request) -> TransportError {
        TransportError::Closed {
            device: self.device.clone(),
            request: request.name(),
        }
    }

    fn system(&self, action: &str, errno: Errno) -> TransportError {
        TransportError::System {
            context: format!("cannot {action} {}", self.device),
            source: errno.into(),
            advice: String::new(),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
