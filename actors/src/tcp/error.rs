//! Why a connection was not made, why bytes were not taken, and both as [`io::Error`].

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};

use virtroupe_wire::placement::SourcePortError;
use virtroupe_wire::tcp::{TcpConnectError as AttemptError, TcpError};

use crate::messages::CloseReason;

/// Why there is no connection to a peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TcpConnectError {
    /// No route leads to the peer.
    #[error("no route leads to {0}; set a gateway or a route")]
    NoRoute(SocketAddr),
    /// The address to connect from is not ours.
    #[error("{0} is not an address of this host; use one of its addresses")]
    NotOurs(IpAddr),
    /// No port has replies that reach this cpu.
    #[error(transparent)]
    Port(#[from] SourcePortError),
    /// No attempt was made.
    #[error(transparent)]
    Attempt(#[from] AttemptError),
    /// The attempt failed: refused, timed out, or unreachable.
    #[error("no connection to {peer}: {error}")]
    Failed {
        /// Whom it was to reach.
        peer: SocketAddr,
        /// How it failed.
        #[source]
        error: TcpError,
    },
    /// TCP is switched off.
    #[error("TCP is switched off; set tcp.enabled")]
    Disabled,
    /// The stack was shut down or has lost its device.
    #[error(transparent)]
    Stopped(#[from] StackClosed),
}

impl From<TcpConnectError> for io::Error {
    fn from(error: TcpConnectError) -> Self {
        let kind = match &error {
            TcpConnectError::NoRoute(_) => ErrorKind::NetworkUnreachable,
            TcpConnectError::NotOurs(_) => ErrorKind::AddrNotAvailable,
            TcpConnectError::Port(_) => ErrorKind::AddrNotAvailable,
            TcpConnectError::Attempt(AttemptError::InUse(_)) => ErrorKind::AddrInUse,
            TcpConnectError::Attempt(AttemptError::NoPort) => ErrorKind::AddrNotAvailable,
            TcpConnectError::Attempt(
                AttemptError::BadPeer(_) | AttemptError::OtherFamily { .. },
            ) => ErrorKind::InvalidInput,
            TcpConnectError::Attempt(AttemptError::TooMany) => ErrorKind::QuotaExceeded,
            TcpConnectError::Failed { error, .. } => kind_of(*error),
            TcpConnectError::Disabled => ErrorKind::Unsupported,
            TcpConnectError::Stopped(_) => ErrorKind::ConnectionAborted,
        };
        io::Error::new(kind, error)
    }
}

/// The stack closed the connection or the listener. Nothing of it is left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", describe(.0))]
pub struct StackClosed(pub CloseReason);

fn describe(reason: &CloseReason) -> String {
    match reason {
        CloseReason::Shutdown => "the stack was shut down; start it again".into(),
        CloseReason::DeviceLost(how) => format!("the stack has lost its device: {how}"),
        CloseReason::CpuLost(how) => format!("the stack has lost this cpu: {how}"),
    }
}

impl From<StackClosed> for io::Error {
    fn from(closed: StackClosed) -> Self {
        io::Error::new(ErrorKind::ConnectionAborted, closed)
    }
}

/// Why bytes were not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TcpSendError {
    /// The send buffer is full.
    #[error("the send buffer is full; wait until there is room")]
    Full,
    /// Packet memory is short.
    #[error("packet memory is short; wait until there is room, or raise options.pool_frames")]
    PoolEmpty,
    /// This side has finished, or was not opened.
    #[error("this side of the connection has finished")]
    Finished,
    /// The connection has failed.
    #[error(transparent)]
    Failed(#[from] TcpError),
    /// The stack closed the connection.
    #[error(transparent)]
    Closed(#[from] StackClosed),
}

impl TcpSendError {
    /// Whether waiting for room can help.
    pub fn would_block(&self) -> bool {
        matches!(self, TcpSendError::Full | TcpSendError::PoolEmpty)
    }
}

impl From<TcpSendError> for io::Error {
    fn from(error: TcpSendError) -> Self {
        match error {
            TcpSendError::Full | TcpSendError::PoolEmpty => {
                io::Error::new(ErrorKind::WouldBlock, error)
            }
            TcpSendError::Finished => io::Error::new(ErrorKind::BrokenPipe, error),
            TcpSendError::Failed(error) => io_error(error),
            TcpSendError::Closed(closed) => closed.into(),
        }
    }
}

/// A failed connection as an [`io::Error`], which has `error` as its source.
pub(crate) fn io_error(error: TcpError) -> io::Error {
    io::Error::new(kind_of(error), error)
}

fn kind_of(error: TcpError) -> ErrorKind {
    match error {
        TcpError::Reset => ErrorKind::ConnectionReset,
        TcpError::Refused => ErrorKind::ConnectionRefused,
        TcpError::ConnectTimedOut | TcpError::TimedOut | TcpError::KeepaliveTimedOut => {
            ErrorKind::TimedOut
        }
        TcpError::Unreachable => ErrorKind::HostUnreachable,
        _ => ErrorKind::ConnectionAborted,
    }
}
