//! The two halves of a stream, and the connection that they share.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use virtroupe_driver::Frame;
use virtroupe_wire::Buffer;
use virtroupe_wire::tcp::ConnectionId;

use super::error::TcpSendError;
use super::messages::{TcpPayload, TcpReceived, TcpSendOutcome};
use crate::burst::Burst;
use crate::shard::{Borrowed, ShardCell};

/// Frames in one burst that is received, at most.
const FRAMES: usize = 64;

/// A connection. It is closed when this goes.
pub(super) struct Connection {
    cell: ShardCell,
    pub(super) id: ConnectionId,
    at_end: Cell<AtEnd>,
    /// What is left of a frame of which a reader took a part.
    rest: Cell<Option<Frame>>,
}

/// What becomes of a connection when its handle goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtEnd {
    Close,
    Reset,
    /// It is known by name only.
    Nothing,
}

impl Connection {
    pub(super) fn new(cell: ShardCell, id: ConnectionId) -> Self {
        Connection {
            cell,
            id,
            at_end: Cell::new(AtEnd::Close),
            rest: Cell::new(None),
        }
    }

    pub(super) fn shard(&self) -> Borrowed<'_> {
        self.cell.borrow()
    }

    /// Makes the end a reset.
    pub(super) fn reset_at_end(&self, must_reset: bool) {
        self.at_end.set(match must_reset {
            true => AtEnd::Reset,
            false => AtEnd::Close,
        });
    }

    /// Whether its end is a reset.
    pub(super) fn is_to_be_reset(&self) -> bool {
        self.at_end.get() == AtEnd::Reset
    }

    /// Whether something arrived in order that was not taken.
    pub(super) fn has_unread(&self) -> bool {
        self.shard().has_received_tcp(self.id)
    }

    /// See [`TcpOptions::close_timeout`](super::TcpOptions::close_timeout).
    pub(super) fn close_timeout(&self) -> Duration {
        self.shard().close_timeout_tcp(self.id)
    }

    /// Resets the connection now: its handles find it gone.
    pub(super) fn abort(&self) {
        self.cell.try_with(|shard| shard.abort_tcp(self.id));
    }

    /// Leaves the connection alone when the handle goes.
    pub(super) fn forget(&self) {
        self.at_end.set(AtEnd::Nothing);
    }

    /// See [`TcpReadHalf::poll_receive`].
    pub(super) fn poll_receive(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Option<TcpReceived>>> {
        let id = self.id;
        let mut shard = self.shard();
        let Some(first) = self.rest.take().or_else(|| shard.receive_tcp(id)) else {
            return shard.poll_end(id, cx.waker()).map_ok(|()| None);
        };
        let mut payload = Burst::new();
        payload.push(first);
        while payload.len() < FRAMES
            && let Some(frame) = shard.receive_tcp(id)
        {
            payload.push(frame);
        }
        shard.received_tcp(id);
        Poll::Ready(Ok(Some(TcpReceived {
            connection: id,
            payload,
        })))
    }

    /// Copies what has arrived into `buf`.
    pub(super) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let id = self.id;
        let mut shard = self.shard();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        while buf.remaining() > 0
            && let Some(mut frame) = self.rest.take().or_else(|| shard.receive_tcp(id))
        {
            take(&mut frame, buf);
            if !frame.is_empty() {
                self.rest.set(Some(frame));
            }
        }
        if buf.filled().len() == before {
            ready!(shard.poll_end(id, cx.waker()))?;
        }
        shard.received_tcp(id);
        Poll::Ready(Ok(()))
    }

    /// Copies bytes into the send buffer.
    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.shard().poll_write_tcp(self.id, slices, cx)
    }

    /// See [`TcpWriteHalf::send`].
    pub(super) fn send(&self, payload: TcpPayload) -> TcpSendOutcome {
        self.shard().send_tcp(self.id, payload)
    }

    /// See [`TcpWriteHalf::room`].
    pub(super) fn room(&self) -> usize {
        self.shard().room_tcp(self.id)
    }

    /// See [`TcpWriteHalf::notify_when_ready`].
    pub(super) fn notify_when_ready(&self) -> bool {
        self.shard().notify_tcp(self.id)
    }

    /// See [`TcpWriteHalf::ready`].
    pub(super) async fn ready(&self) -> Result<(), TcpSendError> {
        poll_fn(|cx| self.shard().poll_ready_tcp(self.id, cx)).await
    }

    /// See [`TcpWriteHalf::finish`].
    pub(super) fn finish(&self) {
        self.shard().finish_tcp(self.id);
    }

    /// See [`TcpWriteHalf::finished`].
    pub(super) async fn finished(&self) -> io::Result<()> {
        poll_fn(|cx| self.shard().poll_finished(self.id, cx)).await
    }

    /// Nobody reads any more: the peer must not believe that what is left of a frame was read
    /// (RFC 9293, section 3.6.1).
    fn end_reading(&self) {
        if self.rest.take().is_some() {
            self.reset_at_end(true);
        }
    }
}

/// Moves bytes from the front of `frame` into `buf`, as many as it has room for.
fn take(frame: &mut Frame, buf: &mut ReadBuf<'_>) {
    let before = buf.filled().len();
    frame.for_each_segment(|segment| {
        let count = segment.len().min(buf.remaining());
        buf.put_slice(segment.get(..count).unwrap_or_default());
    });
    frame.trim_front(buf.filled().len() - before);
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.end_reading();
        self.cell.try_with(|shard| match self.at_end.get() {
            AtEnd::Close => shard.drop_tcp(self.id),
            AtEnd::Reset => shard.abort_tcp(self.id),
            AtEnd::Nothing => {}
        });
    }
}

/// The half of a [`TcpStream`](super::TcpStream) that reads.
///
/// When both halves are dropped the connection is closed.
pub struct TcpReadHalf {
    pub(super) connection: Rc<Connection>,
}

impl TcpReadHalf {
    pub(super) fn new(connection: Rc<Connection>) -> Self {
        TcpReadHalf { connection }
    }

    /// The next bytes, as they lie in packet memory; `None` at the end of the peer's stream.
    /// Waits until there are some. What a reader has left is given first.
    ///
    /// # Errors
    /// When the connection has failed, after everything that arrived before was given.
    pub async fn receive(&mut self) -> io::Result<Option<TcpReceived>> {
        poll_fn(|cx| self.poll_receive(cx)).await
    }

    /// As [`receive`](Self::receive), without waiting.
    ///
    /// # Errors
    /// As `receive`.
    pub fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<TcpReceived>>> {
        self.connection.poll_receive(cx)
    }
}

impl AsyncRead for TcpReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.connection.poll_read(cx, buf)
    }
}

impl Drop for TcpReadHalf {
    fn drop(&mut self) {
        self.connection.end_reading();
    }
}

impl fmt::Debug for TcpReadHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TcpReadHalf")
            .field(&self.connection.id)
            .finish()
    }
}

/// The half of a [`TcpStream`](super::TcpStream) that writes. Dropping it finishes this side, as
/// [`finish`](Self::finish) does.
///
/// When both halves are dropped the connection is closed.
pub struct TcpWriteHalf {
    pub(super) connection: Rc<Connection>,
}

impl TcpWriteHalf {
    pub(super) fn new(connection: Rc<Connection>) -> Self {
        TcpWriteHalf { connection }
    }

    /// Puts bytes into the send buffer and returns at once: what was accepted, and what was
    /// refused, with the reason. Packet memory is sent where it lies; other bytes are copied.
    pub fn send(&self, payload: impl Into<TcpPayload>) -> TcpSendOutcome {
        self.connection.send(payload.into())
    }

    /// Bytes that the send buffer has room for now; 0 if this side can not write any more. More
    /// is accepted of a [`Chunk`](virtroupe_driver::Chunk): one as long as there is any room.
    pub fn room(&self) -> usize {
        self.connection.room()
    }

    /// Asks for one [`TcpEventKind::TxReady`](super::TcpEventKind::TxReady) when there is room, to
    /// the actor that [`TcpStream::events_to`](super::TcpStream::events_to) has set before.
    /// Returns whether it will come: not if there is no such actor, or this side has finished.
    pub fn notify_when_ready(&self) -> bool {
        self.connection.notify_when_ready()
    }

    /// Waits until there is room.
    ///
    /// # Errors
    /// When this side can not write any more.
    pub async fn ready(&self) -> Result<(), TcpSendError> {
        self.connection.ready().await
    }

    /// Finishes this side: what was written is sent, and the end behind it. The peer may go on
    /// sending.
    pub fn finish(&self) {
        self.connection.finish();
    }

    /// Waits until the peer has acknowledged everything, the end included, or the connection is
    /// over. To be called after [`finish`](Self::finish).
    ///
    /// # Errors
    /// When the connection has failed.
    pub async fn finished(&self) -> io::Result<()> {
        self.connection.finished().await
    }
}

impl AsyncWrite for TcpWriteHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.connection.poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.connection.poll_write(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing waits here: what was written is on its way.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

impl Drop for TcpWriteHalf {
    fn drop(&mut self) {
        let connection = &self.connection;
        // If the other half is gone, too, the connection decides how it ends.
        if connection.at_end.get() != AtEnd::Nothing && Rc::strong_count(connection) > 1 {
            let id = connection.id;
            connection.cell.try_with(|shard| shard.finish_tcp(id));
        }
    }
}

impl fmt::Debug for TcpWriteHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TcpWriteHalf")
            .field(&self.connection.id)
            .finish()
    }
}
