//! What the owner of a connection asks for.

use std::sync::Arc;
use std::time::Duration;

use super::{Connection, IDLE, Owner, Wanted};
use crate::buffer::Buffer;
use crate::tcp::payload::SharedPayload;
use crate::tcp::state::{TcpError, TcpState, WriteError};
use crate::tcp::timers::Timer;
use crate::time::Instant;

impl<B: Buffer, S: SharedPayload> Connection<B, S> {
    /// Puts `chunk` behind what was written before.
    ///
    /// # Errors
    /// Why not, with the chunk.
    pub(crate) fn write(&mut self, chunk: S) -> Result<(), (WriteError, S)> {
        if !self.can_write() {
            return Err((WriteError::Finished, chunk));
        }
        if self.room() == 0 {
            self.wants_room = true;
            return Err((WriteError::Full, chunk));
        }
        self.send.queue.push(chunk);
        Ok(())
    }

    /// Bytes that may be written before the send buffer is full.
    pub(crate) fn room(&self) -> usize {
        let waiting = self.send.queue.end().saturating_sub(self.send.una) as usize;
        self.options.send_buffer.saturating_sub(waiting)
    }

    /// Whether this side may still write.
    pub(crate) fn can_write(&self) -> bool {
        self.state.can_write() && !self.send.is_finished
    }

    /// Asks for `writable` as soon as there is room. Returns whether it will come.
    pub(crate) fn want_room(&mut self) -> bool {
        self.wants_room = self.can_write() && self.room() == 0;
        self.wants_room
    }

    /// Takes the next payload that arrived. May want to announce a larger window then.
    pub(crate) fn read(&mut self, now: Instant) -> Option<B> {
        let most_buffer = self.options.most_buffer();
        let payload = self.receive.take(now, self.rtt.smoothed(), most_buffer)?;
        if self.state != TcpState::Closed {
            self.timers.set(Timer::Idle, now + IDLE);
        }
        if self.state.can_receive() && self.receive.wants_update(self.receive_segment_size()) {
            self.wanted.ack = true;
        }
        Some(payload)
    }

    /// Finishes this side: the FIN goes behind the last byte (RFC 9293, section 3.10.4).
    pub(crate) fn finish(&mut self) {
        if !self.can_write() {
            return;
        }
        self.send.is_finished = true;
        match self.state {
            TcpState::Established => self.state = TcpState::FinWait1,
            TcpState::CloseWait => self.state = TcpState::LastAck,
            // Before the connection is open, the FIN waits for that.
            _ => {}
        }
    }

    /// The application lets go of the connection. What it has not read can not be delivered any
    /// more, so the peer must not believe that it was (RFC 9293, section 3.6.1).
    pub(crate) fn close(&mut self, now: Instant) {
        self.owner = Owner::Nobody;
        match self.state {
            TcpState::SynSent => self.end(None),
            _ if !self.receive.queue.is_empty() || self.receive.has_gap() => self.abort(),
            TcpState::Closed => {}
            _ => {
                self.finish();
                self.timers
                    .set(Timer::Close, now + self.options.close_timeout);
            }
        }
    }

    /// Ends the connection by a reset (RFC 9293, section 3.10.5).
    pub(crate) fn abort(&mut self) {
        let must_tell = !matches!(
            self.state,
            TcpState::SynSent
                | TcpState::Closing
                | TcpState::LastAck
                | TcpState::TimeWait
                | TcpState::Closed
        );
        self.end(Some(TcpError::Aborted));
        self.wanted.reset = must_tell;
    }

    /// The connection has ended, because of `error` if there is one.
    pub(crate) fn end(&mut self, error: Option<TcpError>) {
        if self.state == TcpState::Closed {
            return;
        }
        self.state = TcpState::Closed;
        self.error = self.error.or(error);
        self.readiness.closed = true;
        self.wanted = Wanted::default();
        self.timers.clear_all();
        self.send.queue.clear();
        if self.owner == Owner::Nobody {
            self.receive.clear();
        }
    }

    /// Sets a new user timeout (RFC 5482).
    pub(crate) fn set_user_timeout(&mut self, timeout: Duration, now: Instant) {
        self.user_timeout = timeout.into();
        Arc::make_mut(&mut self.options).user_timeout = timeout;
        self.wanted.user_timeout = self.options.announce_user_timeout;
        if self.timers.is_set(Timer::User) {
            self.timers.set(Timer::User, now + timeout);
        }
    }

    /// Keepalive begins, or its setting has changed.
    pub(crate) fn start_keepalive(&mut self, now: Instant) {
        match self.options.keepalive {
            Some(keepalive) if self.state.is_synchronized() => {
                self.timers.set(Timer::Keepalive, now + keepalive.idle);
            }
            _ => self.timers.clear(Timer::Keepalive),
        }
    }
}
