//! TCP for applications: listeners, connections and streams, in three forms over one socket.
//!
//! ```text
//! messages   TcpAccepted, TcpReceived, TcpEvent to an actor; TcpStream::send, which never waits
//! async      TcpListener::accept, TcpStream with AsyncRead and AsyncWrite: hyper, rustls, codecs
//! zero-copy  TcpStream::receive gives packet memory, TcpStream::send takes it
//! ```
//!
//! A listener and a stream live on one cpu and are not `Send`: every call is a function call into
//! that cpu's shard. A listener on one cpu ([`LocalStack::listen_tcp`]) has all its connections
//! there; listeners on each ([`LocalStack::listen_tcp_per_cpu`]) accept each connection where its
//! flow belongs. For code that must be `Send` there is [`SendTcpStream`]; actors on other arbiters
//! use the messages in [`services`].
//!
//! [`LocalStack::listen_tcp`]: crate::LocalStack::listen_tcp
//! [`LocalStack::listen_tcp_per_cpu`]: crate::LocalStack::listen_tcp_per_cpu
//!
//! # Memory and back-pressure
//!
//! What arrives stays in the engine until it is read, and the window closes when that is too
//! much; so a slow reader, or an actor whose mailbox is full, slows down its peer and nobody else.
//! What is written is copied once into packet memory; when that is short, or the send buffer is
//! full, asynchronous writers wait, and [`TcpStream::send`] says so.

mod connect;
mod error;
mod halves;
mod listener;
mod messages;
mod send;
pub mod services;
mod settings;
mod stream;

pub use error::{StackClosed, TcpConnectError, TcpSendError};
pub use halves::{TcpReadHalf, TcpWriteHalf};
pub use listener::TcpListener;
pub use messages::{
    TcpAccepted, TcpEvent, TcpEventKind, TcpPayload, TcpReceived, TcpRefused, TcpSendOutcome,
    Unclaimed,
};
pub use send::SendTcpStream;
pub use settings::TcpSettings;
pub use stream::TcpStream;
pub use virtroupe_wire::tcp::{
    Congestion, ConnectionId, ConnectionStats, Keepalive, ListenOptions, ListenerId, TcpError,
    TcpOptions, TcpState,
};

pub(crate) use error::io_error;
