//! The stream.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use virtroupe_wire::tcp::{ConnectionId, ConnectionStats, Keepalive};

use super::error::TcpSendError;
use super::halves::{Connection, TcpReadHalf, TcpWriteHalf};
use super::messages::{TcpEvent, TcpPayload, TcpReceived, TcpSendOutcome};
use super::send::SendTcpStream;
use crate::outlet::IntoRecipient;

/// A TCP connection on its own cpu.
///
/// Reading is done in one of three ways: as [`AsyncRead`], by [`receive`](Self::receive), which
/// copies nothing, or by an actor ([`deliver_to`](Self::deliver_to)). Writing is done as
/// [`AsyncWrite`], which waits for room, or by [`send`](Self::send), which does not.
///
/// Dropping it closes the connection as BSD sockets do: what was written is sent, and the end
/// behind it; but if something that arrived was not read, the connection is reset, so that the peer
/// does not believe that it was.
pub struct TcpStream(Held);

/// How a stream holds its connection: most are never split, and need no count of their handles.
enum Held {
    Whole(Connection),
    /// They were brought together again.
    Halves(TcpReadHalf, TcpWriteHalf),
}

impl TcpStream {
    pub(super) fn new(connection: Connection) -> Self {
        TcpStream(Held::Whole(connection))
    }

    fn connection(&self) -> &Connection {
        match &self.0 {
            Held::Whole(connection) => connection,
            Held::Halves(reader, _) => &reader.connection,
        }
    }

    /// The name of the connection in [`TcpReceived`] and [`TcpEvent`].
    pub fn id(&self) -> ConnectionId {
        self.connection().id
    }

    /// Our end; `None` when the connection is gone.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        let ends = self.connection().shard().tcp_ends(self.id())?;
        Some(ends.0)
    }

    /// The other end; `None` when the connection is gone.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        let ends = self.connection().shard().tcp_ends(self.id())?;
        Some(ends.1)
    }

    /// Why the connection has failed, if it has.
    pub fn error(&self) -> Option<io::Error> {
        self.connection().shard().tcp_error(self.id())
    }

    /// What is known about the connection: state, round-trip time, windows, retransmissions.
    pub fn stats(&self) -> Option<ConnectionStats> {
        self.connection().shard().tcp_stats(self.id())
    }

    /// The two halves, which can go to different tasks of this arbiter.
    pub fn into_split(self) -> (TcpReadHalf, TcpWriteHalf) {
        match self.0 {
            Held::Whole(connection) => {
                let connection = Rc::new(connection);
                let reader = TcpReadHalf::new(connection.clone());
                (reader, TcpWriteHalf::new(connection))
            }
            Held::Halves(reader, writer) => (reader, writer),
        }
    }

    /// Lets go of the handle without closing the connection: it is known by name from now on.
    pub(super) fn into_remote(self) -> (ConnectionId, Option<(SocketAddr, SocketAddr)>) {
        let id = self.id();
        let ends = self.connection().shard().tcp_ends(id);
        self.connection().forget();
        (id, ends)
    }

    /// The stream that two halves belong to.
    ///
    /// # Errors
    /// The halves as they were, if they are of different connections.
    pub fn reunite(
        reader: TcpReadHalf,
        writer: TcpWriteHalf,
    ) -> Result<TcpStream, (TcpReadHalf, TcpWriteHalf)> {
        match Rc::ptr_eq(&reader.connection, &writer.connection) {
            true => Ok(TcpStream(Held::Halves(reader, writer))),
            false => Err((reader, writer)),
        }
    }

    /// A stream that can be sent to other threads, at some cost: see there.
    pub fn into_send(self) -> SendTcpStream {
        SendTcpStream::new(self)
    }

    /// See [`TcpReadHalf::receive`].
    ///
    /// # Errors
    /// When the connection has failed, after everything that arrived before was given.
    pub async fn receive(&mut self) -> io::Result<Option<TcpReceived>> {
        poll_fn(|cx| self.poll_receive(cx)).await
    }

    /// See [`TcpReadHalf::receive`].
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<TcpReceived>>> {
        self.connection().poll_receive(cx)
    }

    /// See [`TcpWriteHalf::send`].
    pub fn send(&self, payload: impl Into<TcpPayload>) -> TcpSendOutcome {
        self.connection().send(payload.into())
    }

    /// See [`TcpWriteHalf::room`].
    pub fn room(&self) -> usize {
        self.connection().room()
    }

    /// See [`TcpWriteHalf::notify_when_ready`].
    pub fn notify_when_ready(&self) -> bool {
        self.connection().notify_when_ready()
    }

    /// See [`TcpWriteHalf::ready`].
    ///
    /// # Errors
    /// When this side can not write any more.
    pub async fn ready(&self) -> Result<(), TcpSendError> {
        self.connection().ready().await
    }

    /// Sets the actor that gets what arrives, in bursts and in order; from then on nobody else
    /// should read. What finds its mailbox full stays in the stack until there is room, and the
    /// peer's window closes.
    pub fn deliver_to(&self, recipient: impl IntoRecipient<TcpReceived>) {
        let recipient = recipient.into_recipient();
        self.connection()
            .shard()
            .deliver_tcp_to(self.id(), recipient);
    }

    /// Sets the actor that gets room notices, the end of the peer's stream, and the end of the
    /// connection. If it is the one that gets the bytes, each arrives behind all bytes before it.
    pub fn events_to(&self, recipient: impl IntoRecipient<TcpEvent>) {
        let recipient = recipient.into_recipient();
        self.connection()
            .shard()
            .tcp_events_to(self.id(), recipient);
    }

    /// See [`TcpWriteHalf::finish`].
    pub fn finish(&self) {
        self.connection().finish();
    }

    /// See [`TcpWriteHalf::finished`].
    ///
    /// # Errors
    /// When the connection has failed.
    pub async fn finished(&self) -> io::Result<()> {
        self.connection().finished().await
    }

    /// Closes the connection, as dropping it does.
    pub fn close(self) {}

    /// Closes the connection, and waits until the peer has acknowledged everything, or the
    /// connection is over (what `SO_LINGER` is for Linux).
    ///
    /// # Errors
    /// When the connection has failed before.
    pub async fn linger(self) -> io::Result<()> {
        self.finish();
        self.finished().await
    }

    /// Resets the connection.
    pub fn abort(self) {
        self.connection().reset_at_end(true);
    }

    /// Whether dropping the stream resets the connection: what `SO_LINGER` with zero is for
    /// Linux. Default: no.
    pub fn set_reset_on_drop(&self, must_reset: bool) {
        self.connection().reset_at_end(must_reset);
    }

    /// Turns Nagle's algorithm off (`true`) or on.
    pub fn set_nodelay(&self, nodelay: bool) {
        self.connection().shard().set_nodelay(self.id(), nodelay);
    }

    /// Turns keepalive on or off, or changes it.
    pub fn set_keepalive(&self, keepalive: Option<Keepalive>) {
        self.connection()
            .shard()
            .set_keepalive(self.id(), keepalive);
    }

    /// Sets the differentiated services code point of what is sent, 0 to 63.
    pub fn set_dscp(&self, dscp: u8) {
        self.connection().shard().set_dscp(self.id(), dscp);
    }

    /// Sets the time without acknowledgment of what was sent after which the connection ends.
    pub fn set_user_timeout(&self, timeout: Duration) {
        self.connection()
            .shard()
            .set_user_timeout(self.id(), timeout);
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.connection().poll_read(cx, buf)
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.connection().poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.connection().poll_write(cx, slices)
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

impl fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TcpStream").field(&self.id()).finish()
    }
}
