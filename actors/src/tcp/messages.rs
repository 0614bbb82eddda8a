//! The messages of TCP sockets, and what is sent through them.

use std::net::SocketAddr;

use actix::{Message, Recipient};
use bytes::Bytes;
use virtroupe_driver::{Chunk, Frame};
use virtroupe_wire::Buffer;
use virtroupe_wire::tcp::{ConnectionId, ListenerId, TcpError};

use super::error::TcpSendError;
use crate::burst::Burst;
use crate::messages::CloseReason;

/// Bytes that arrived on one connection, in order.
///
/// A frame is packet memory; its bytes may lie in several segments
/// ([`Buffer::for_each_segment`]). Who keeps many frames keeps memory from the device: what
/// arrives is then copied to the heap.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct TcpReceived {
    /// The connection that they arrived on.
    pub connection: ConnectionId,
    /// The bytes; no frame is empty.
    pub payload: Burst<Frame>,
}

impl TcpReceived {
    /// The number of bytes.
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.payload.iter().map(Frame::len).sum()
    }

    /// All bytes as one vector. Copies.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.len());
        for frame in self.payload.iter() {
            frame.for_each_segment(|segment| all.extend_from_slice(segment));
        }
        all
    }
}

/// Something happened to a connection, other than received bytes.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct TcpEvent {
    /// The connection.
    pub connection: ConnectionId,
    /// What happened.
    pub kind: TcpEventKind,
}

/// What happened to a connection. `EndOfStream`, `Ended` and `Closed` are told once each, behind
/// the last of the bytes that arrived before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TcpEventKind {
    /// There is room again: the notice that a refused sender asked for. One-shot.
    TxReady,
    /// The peer has finished; nothing more will arrive. This side may go on sending.
    EndOfStream,
    /// The peer has acknowledged everything that was sent, and that this side has finished.
    Finished,
    /// The connection is over: both sides have finished, or it failed.
    Ended(Option<TcpError>),
    /// The stack closed the connection.
    Closed(CloseReason),
}

/// A connection that a listener accepted, on its way to the actor that will serve it.
///
/// The connection lives on the cpu of its flow. There [`LocalStack::claim_tcp`] makes a stream of
/// it; an actor on another arbiter sends [`ClaimTcp`](super::services::ClaimTcp). Dropped
/// unclaimed, it is reset.
///
/// [`LocalStack::claim_tcp`]: crate::LocalStack::claim_tcp
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct TcpAccepted {
    /// The listener.
    pub listener: ListenerId,
    /// The name of the connection.
    pub connection: ConnectionId,
    /// The cpu on which the connection lives.
    pub cpu: u16,
    /// Our end.
    pub local: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
    /// Whom to tell if nobody claims it.
    pub(crate) unclaimed: Option<Recipient<Unclaimed>>,
}

impl TcpAccepted {
    /// The connection itself, for who serves it otherwise: nobody is told.
    pub(crate) fn into_connection(mut self) -> ConnectionId {
        self.unclaimed = None;
        self.connection
    }
}

impl Drop for TcpAccepted {
    fn drop(&mut self) {
        if let Some(cpu) = self.unclaimed.take() {
            // One for each connection, so the mailbox's bound is not needed.
            cpu.do_send(Unclaimed(self.connection));
        }
    }
}

/// An accepted connection was dropped.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Unclaimed(pub(crate) ConnectionId);

/// Bytes to send.
#[derive(Debug)]
pub enum TcpPayload {
    /// Shared packet memory, which is sent where it lies.
    Chunk(Chunk),
    /// Packet memory, received or asked for, which is sent where it lies.
    Frame(Frame),
    /// Other bytes, which are copied once.
    Bytes(Bytes),
}

impl TcpPayload {
    /// The number of bytes.
    pub fn len(&self) -> usize {
        match self {
            TcpPayload::Chunk(chunk) => chunk.len(),
            TcpPayload::Frame(frame) => frame.len(),
            TcpPayload::Bytes(bytes) => bytes.len(),
        }
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Chunk> for TcpPayload {
    fn from(chunk: Chunk) -> Self {
        TcpPayload::Chunk(chunk)
    }
}

impl From<Frame> for TcpPayload {
    fn from(frame: Frame) -> Self {
        TcpPayload::Frame(frame)
    }
}

impl From<Bytes> for TcpPayload {
    fn from(bytes: Bytes) -> Self {
        TcpPayload::Bytes(bytes)
    }
}

impl From<Vec<u8>> for TcpPayload {
    fn from(bytes: Vec<u8>) -> Self {
        TcpPayload::Bytes(bytes.into())
    }
}

impl From<&'static [u8]> for TcpPayload {
    fn from(bytes: &'static [u8]) -> Self {
        TcpPayload::Bytes(Bytes::from_static(bytes))
    }
}

/// What became of bytes that were offered for sending: `offered = accepted + refused`.
#[derive(Debug, Default)]
#[must_use = "what was refused is not sent"]
pub struct TcpSendOutcome {
    /// Bytes that the stack took.
    pub accepted: usize,
    /// What it did not take: the end of what was offered, or all.
    pub refused: Option<TcpRefused>,
}

/// Bytes that were not taken.
#[derive(Debug)]
pub struct TcpRefused {
    /// The bytes.
    pub payload: TcpPayload,
    /// Why.
    pub reason: TcpSendError,
}

impl TcpSendOutcome {
    /// Whether waiting for [`TcpEventKind::TxReady`] can help.
    pub fn would_block(&self) -> bool {
        let refused = self.refused.as_ref();
        refused.is_some_and(|refused| refused.reason.would_block())
    }
}
