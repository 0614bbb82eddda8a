//! Bytes of connections: frames out of the engine, chunks into it.
//!
//! What is written is copied once, into slots of the shard's pool: long ones, which nobody else
//! takes, where there is enough for one, or no other is left. Of the others, writers together leave
//! a quarter to all others, so that received packets need not be copied to the heap; one that waits
//! for memory is woken in its turn.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use virtroupe_driver::Frame;
use virtroupe_wire::Buffer;
use virtroupe_wire::tcp::ConnectionId;

use super::Tcp;
use super::connections::keep;
use crate::egress::Egress;
use crate::messages::CloseReason;
use crate::shard::Shard;
use crate::tcp::{StackClosed, TcpEventKind, TcpPayload, TcpRefused, TcpSendError, TcpSendOutcome};

/// Bytes that a connection may write to the heap at once when slots are short, if it has no more
/// under way: enough to keep a fast link busy.
const ON_HEAP: usize = 32 << 10;

/// Bytes from which on a write takes a long slot, if one is free.
const LONG: usize = 8 << 10;

/// Bytes that a stream may write in one turn of the loop. What is written lies in the caches then
/// when it is sent, and a writer that never waits lets the loop and other tasks run.
const IN_ONE_TURN: usize = 256 << 10;

/// The bytes of several slices, from front to back.
struct Gather<'a> {
    slices: &'a [IoSlice<'a>],
    /// Bytes of the first slice that were taken.
    taken: usize,
}

impl<'a> Gather<'a> {
    fn new(slices: &'a [IoSlice<'a>]) -> Self {
        Gather { slices, taken: 0 }
    }

    /// The next bytes, without a gap; `None` if there are no more.
    fn next(&mut self) -> Option<&'a [u8]> {
        while let Some((first, rest)) = self.slices.split_first() {
            let first: &'a [u8] = first;
            match first.get(self.taken..) {
                Some(bytes) if !bytes.is_empty() => return Some(bytes),
                _ => (self.slices, self.taken) = (rest, 0),
            }
        }
        None
    }

    /// Whether at least `count` bytes are left.
    fn has(&self, count: usize) -> bool {
        let mut left = 0;
        self.slices.iter().any(|slice| {
            left += slice.len();
            left >= count + self.taken
        })
    }

    /// Copies up to `limit` bytes into `frame`, which has room for them. Returns how many.
    fn copy_into(&mut self, frame: &mut Frame, limit: usize) -> usize {
        let mut copied = 0;
        while copied < limit
            && let Some(bytes) = self.next()
        {
            let (now, _) = bytes.split_at(bytes.len().min(limit - copied));
            if !frame.extend_from_slice(now) {
                break;
            }
            copied += now.len();
            self.taken += now.len();
        }
        copied
    }
}

impl Shard {
    /// The next frame that a connection received.
    pub(crate) fn receive_tcp(&mut self, id: ConnectionId) -> Option<Frame> {
        self.tcp.engine.read(self.now(), id)
    }

    /// Whether a connection received something that was not taken.
    pub(crate) fn has_received_tcp(&self, id: ConnectionId) -> bool {
        self.tcp.engine.has_received(id)
    }

    /// After something was taken, or was not there: the window may have opened, and the end may
    /// have been reached.
    pub(crate) fn received_tcp(&mut self, id: ConnectionId) {
        if self.tcp.engine.has_output() {
            self.wake();
        }
        if self.tcp.deliveries > 0 {
            self.tell_end(id);
        }
    }

    /// What comes when there is nothing to read: the end of the stream, an error, or more later,
    /// for which `waker` is kept.
    pub(crate) fn poll_end(&mut self, id: ConnectionId, waker: &Waker) -> Poll<io::Result<()>> {
        if self.tcp.engine.is_at_end(id) {
            return Poll::Ready(Ok(()));
        }
        match self.tcp.sockets.get_mut(&id) {
            // If it is over since, it will be told.
            Some(socket) if !socket.flags.is_over && self.closed.is_none() => {
                keep(&mut socket.reader, waker);
                Poll::Pending
            }
            _ => Poll::Ready(self.end_of(id)),
        }
    }

    /// How a connection has ended that was over before the end of the peer's stream came.
    #[cold]
    fn end_of(&self, id: ConnectionId) -> io::Result<()> {
        match (self.tcp_error(id), self.tcp.engine.state(id)) {
            (Some(error), _) => Err(error),
            (None, Some(_)) => Ok(()),
            (None, None) => Err(self.end_error(id)),
        }
    }

    /// Why a connection takes no bytes, if it takes none; else how many it does.
    fn tcp_room(&self, id: ConnectionId) -> Result<usize, TcpSendError> {
        let engine = &self.tcp.engine;
        match engine.room(id) {
            room @ 1.. if engine.can_write(id) && self.closed.is_none() => Ok(room),
            _ => Err(self.refusal(id)),
        }
    }

    /// Why a connection takes no bytes.
    #[cold]
    fn refusal(&self, id: ConnectionId) -> TcpSendError {
        if let Some(reason) = &self.closed {
            return StackClosed(reason.clone()).into();
        }
        let engine = &self.tcp.engine;
        if let Some(error) = engine.error(id) {
            return error.into();
        }
        match self.tcp.drain {
            _ if engine.can_write(id) => TcpSendError::Full,
            Some(_) => StackClosed(CloseReason::Shutdown).into(),
            None => TcpSendError::Finished,
        }
    }

    /// Bytes that a connection takes now.
    pub(crate) fn room_tcp(&self, id: ConnectionId) -> usize {
        self.tcp_room(id).unwrap_or(0)
    }

    /// Slots that writers may use now.
    pub(super) fn spare_slots(egress: &mut Egress) -> usize {
        let reserve = egress.pool().capacity() / 4;
        egress.free_slots(reserve + 1).saturating_sub(reserve)
    }

    /// Copies bytes into the send buffer, as many as there is room for. Returns how many: 0 only
    /// if there were none.
    pub(crate) fn write_tcp(
        &mut self,
        id: ConnectionId,
        slices: &[IoSlice<'_>],
    ) -> Result<usize, TcpSendError> {
        let mut source = Gather::new(slices);
        if source.next().is_none() {
            return Ok(0);
        }
        let mut room = self.tcp_room(id)?;
        let now = self.now();
        let mut written = 0;
        {
            let ports = self.ports.clone();
            let mut ports = ports.borrow_mut();
            let mut spare = Self::spare_slots(&mut ports.egress);
            let pool = ports.egress.pool();
            let mut finds_long = true;
            while room > 0 && source.next().is_some() {
                finds_long = finds_long && room >= LONG && source.has(LONG);
                let long = if finds_long { pool.long_frame() } else { None };
                finds_long = long.is_some();
                let frame = long.or_else(|| match spare.checked_sub(1) {
                    Some(left) => {
                        spare = left;
                        pool.frame()
                    }
                    None => pool.long_frame(),
                });
                let Some(mut frame) = frame else { break };
                let limit = frame.tailroom().min(room);
                let copied = source.copy_into(&mut frame, limit);
                self.tcp.chunks.push(frame.freeze());
                room -= copied;
                written += copied;
            }
        }
        if written > 0 {
            let Tcp { engine, chunks, .. } = &mut self.tcp;
            let accepted = engine.write_all(now, id, chunks.drain(..));
            accepted.map_err(|_| TcpSendError::Finished)?;
        }
        if written == 0 {
            written = self.write_to_heap(id, &mut source)?;
        }
        self.wake();
        Ok(written)
    }

    /// A connection with little under way can always write something: it may be what others wait
    /// for that hold the memory, as an echo does whose peer's bytes fill it.
    #[cold]
    fn write_to_heap(
        &mut self,
        id: ConnectionId,
        source: &mut Gather<'_>,
    ) -> Result<usize, TcpSendError> {
        if !self.tcp.may_use_heap(id) {
            return Err(TcpSendError::PoolEmpty);
        }
        let bytes = source.next().unwrap_or_default();
        let bytes = bytes.get(..ON_HEAP).unwrap_or(bytes);
        let chunk = Frame::on_heap(bytes).freeze();
        let now = self.now();
        let written = self.tcp.engine.write(now, id, chunk);
        written.map_err(|_| TcpSendError::Finished)?;
        Ok(bytes.len())
    }

    /// As [`write_tcp`](Self::write_tcp); waits for room if there is none, and for the next turn
    /// of the loop after much was written in this one.
    pub(crate) fn poll_write_tcp(
        &mut self,
        id: ConnectionId,
        slices: &[IoSlice<'_>],
        cx: &Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Some(socket) = self.tcp.sockets.get_mut(&id)
            && socket.written >= IN_ONE_TURN
        {
            socket.flags.is_ahead = true;
            keep(&mut socket.writer, cx.waker());
            self.wake();
            return Poll::Pending;
        }
        loop {
            match self.write_tcp(id, slices) {
                Ok(written) => {
                    self.count_written(id, written);
                    return Poll::Ready(Ok(written));
                }
                Err(reason) if reason.would_block() => {
                    if self.wait_for_tcp_room(id, &reason) {
                        if let Some(socket) = self.tcp.sockets.get_mut(&id) {
                            keep(&mut socket.writer, cx.waker());
                        }
                        return Poll::Pending;
                    }
                }
                Err(reason) => return Poll::Ready(Err(reason.into())),
            }
        }
    }

    fn count_written(&mut self, id: ConnectionId, written: usize) {
        if let Some(socket) = self.tcp.sockets.get_mut(&id)
            && written > 0
        {
            if socket.written == 0 {
                self.tcp.written.push(id);
            }
            socket.written += written;
        }
    }

    /// A turn of the loop has passed: streams may write again.
    pub(super) fn begin_turn_of_writers(&mut self) {
        while let Some(id) = self.tcp.written.pop() {
            if let Some(socket) = self.tcp.sockets.get_mut(&id) {
                socket.written = 0;
                if std::mem::take(&mut socket.flags.is_ahead) {
                    self.wakes.take_from(&mut socket.writer);
                }
            }
        }
    }

    /// Waits until a connection takes bytes, or never will.
    pub(crate) fn poll_ready_tcp(
        &mut self,
        id: ConnectionId,
        cx: &Context<'_>,
    ) -> Poll<Result<(), TcpSendError>> {
        loop {
            let reason = match self.tcp_room(id) {
                Ok(_) => match self.has_slots() || self.tcp.may_use_heap(id) {
                    true => return Poll::Ready(Ok(())),
                    false => TcpSendError::PoolEmpty,
                },
                Err(TcpSendError::Full) => TcpSendError::Full,
                Err(reason) => return Poll::Ready(Err(reason)),
            };
            if self.wait_for_tcp_room(id, &reason) {
                if let Some(socket) = self.tcp.sockets.get_mut(&id) {
                    keep(&mut socket.writer, cx.waker());
                }
                return Poll::Pending;
            }
        }
    }

    fn has_slots(&self) -> bool {
        let egress = &mut self.ports.borrow_mut().egress;
        Self::spare_slots(egress) > 0 || egress.pool().available_long() > 0
    }

    /// Sees to it that a connection is told when there is room. Returns false if there is some
    /// now.
    fn wait_for_tcp_room(&mut self, id: ConnectionId, reason: &TcpSendError) -> bool {
        if *reason == TcpSendError::Full {
            return self.tcp.engine.want_room(self.now(), id);
        }
        if self.has_slots() || self.tcp.may_use_heap(id) {
            return false;
        }
        if let Some(socket) = self.tcp.sockets.get_mut(&id)
            && !std::mem::replace(&mut socket.flags.is_short, true)
        {
            self.tcp.short.push(id);
            self.wake();
        }
        true
    }

    /// Puts bytes into the send buffer: at once, as far as there is room.
    pub(crate) fn send_tcp(&mut self, id: ConnectionId, payload: TcpPayload) -> TcpSendOutcome {
        let outcome = match payload {
            TcpPayload::Frame(frame) => self.send_frame(id, frame),
            TcpPayload::Bytes(bytes) => self.send_bytes(id, bytes),
            TcpPayload::Chunk(chunk) => match self.tcp_room(id) {
                Err(reason) => refused(0, chunk.into(), reason),
                Ok(_) => {
                    let accepted = chunk.len();
                    match self.tcp.engine.write(self.now(), id, chunk) {
                        Ok(()) => TcpSendOutcome {
                            accepted,
                            refused: None,
                        },
                        Err((_, chunk)) => refused(0, chunk.into(), TcpSendError::Finished),
                    }
                }
            },
        };
        if let Some(refused) = &outcome.refused {
            self.tcp.refused_bytes += refused.payload.len() as u64;
        }
        if outcome.accepted > 0 {
            self.wake();
        }
        outcome
    }

    /// Sends the segments of a frame where they lie.
    fn send_frame(&mut self, id: ConnectionId, frame: Frame) -> TcpSendOutcome {
        let now = self.now();
        let mut accepted = 0;
        let mut rest = Some(frame);
        while let Some(frame) = rest {
            if let Err(reason) = self.tcp_room(id) {
                return refused(accepted, frame.into(), reason);
            }
            let (head, tail) = frame.split_head();
            let length = head.len();
            if let Err((_, chunk)) = self.tcp.engine.write(now, id, head.freeze()) {
                return refused(accepted, chunk.into(), TcpSendError::Finished);
            }
            accepted += length;
            rest = tail;
        }
        TcpSendOutcome {
            accepted,
            refused: None,
        }
    }

    fn send_bytes(&mut self, id: ConnectionId, mut bytes: Bytes) -> TcpSendOutcome {
        let mut accepted = 0;
        while !bytes.is_empty() {
            match self.write_tcp(id, &[IoSlice::new(&bytes)]) {
                Ok(written) => {
                    accepted += written;
                    drop(bytes.split_to(written));
                }
                Err(reason) => return refused(accepted, bytes.into(), reason),
            }
        }
        TcpSendOutcome {
            accepted,
            refused: None,
        }
    }

    /// Asks for a notice when there is room. Returns whether it will come.
    pub(crate) fn notify_tcp(&mut self, id: ConnectionId) -> bool {
        let Some(socket) = self.tcp.sockets.get_mut(&id) else {
            return false;
        };
        let delivery = socket.delivery.as_ref();
        if delivery.is_none_or(|delivery| delivery.events.is_none()) {
            return false;
        }
        let reason = match self.tcp_room(id) {
            Ok(_) => TcpSendError::PoolEmpty,
            Err(TcpSendError::Full) => TcpSendError::Full,
            Err(_) => return false,
        };
        let must_wait = self.wait_for_tcp_room(id, &reason);
        if let Some(socket) = self.tcp.sockets.get_mut(&id) {
            if must_wait {
                socket.flags.owes_notice = true;
            } else if let Some(delivery) = &socket.delivery {
                delivery.tell(id, TcpEventKind::TxReady);
            }
        }
        true
    }
}

impl Tcp {
    /// Whether so little is under way that more can be written whatever packet memory there is.
    pub(super) fn may_use_heap(&self, id: ConnectionId) -> bool {
        let stats = self.engine.stats(id);
        stats.is_some_and(|stats| stats.unacknowledged <= ON_HEAP as u64)
    }
}

fn refused(accepted: usize, payload: TcpPayload, reason: TcpSendError) -> TcpSendOutcome {
    TcpSendOutcome {
        accepted,
        refused: Some(TcpRefused { payload, reason }),
    }
}
