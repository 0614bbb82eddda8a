//! The states of a connection, why it ended, and what its owner is told.

use std::net::{IpAddr, SocketAddr};

/// The state of a connection (RFC 9293, section 3.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TcpState {
    /// We asked for a connection.
    SynSent,
    /// Both asked for one at once, and the peer has not acknowledged our SYN.
    SynReceived,
    /// Open; both may send.
    Established,
    /// We have finished; the peer has not acknowledged that.
    FinWait1,
    /// We have finished, and the peer knows it; it may send.
    FinWait2,
    /// The peer has finished; we may send.
    CloseWait,
    /// Both have finished at once; the peer has not acknowledged that we have.
    Closing,
    /// The peer finished, then we; the peer has not acknowledged that we have.
    LastAck,
    /// Both have finished and know it; what is still on the network is waited out.
    TimeWait,
    /// Ended.
    Closed,
}

impl TcpState {
    /// Whether both SYNs have been acknowledged, and there is no end yet.
    pub const fn is_synchronized(self) -> bool {
        !matches!(
            self,
            TcpState::SynSent | TcpState::SynReceived | TcpState::Closed
        )
    }

    /// Whether the application may still write.
    pub const fn can_write(self) -> bool {
        matches!(
            self,
            TcpState::SynSent | TcpState::SynReceived | TcpState::Established | TcpState::CloseWait
        )
    }

    /// Whether the peer may still send.
    pub const fn can_receive(self) -> bool {
        matches!(
            self,
            TcpState::SynReceived | TcpState::Established | TcpState::FinWait1 | TcpState::FinWait2
        )
    }
}

/// Why a connection ended, if not by both sides finishing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum TcpError {
    /// The peer reset the connection.
    #[error("the peer reset the connection")]
    Reset,
    /// The peer refused the connection.
    #[error("the peer refused the connection; does it listen on this port?")]
    Refused,
    /// The peer did not answer an attempt to connect.
    #[error("the peer did not answer; is it up, and does a firewall drop what we send?")]
    ConnectTimedOut,
    /// The peer did not acknowledge what was sent for the user timeout.
    #[error("the peer did not acknowledge what was sent in time; connect again")]
    TimedOut,
    /// The peer did not answer keepalive probes.
    #[error("the peer did not answer keepalive probes; it has gone")]
    KeepaliveTimedOut,
    /// A router or firewall said that the peer can not be reached.
    #[error("the peer can not be reached; is there a route, and is it up?")]
    Unreachable,
    /// We aborted the connection.
    #[error("the connection was aborted on this side")]
    Aborted,
}

/// Why something can not be written. The payload comes back with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum WriteError {
    /// The send buffer is full.
    #[error("the send buffer is full; wait until the connection is writable")]
    Full,
    /// This side has finished, or the connection has ended.
    #[error("this side of the connection has finished")]
    Finished,
    /// There is no such connection.
    #[error("there is no such connection; it was closed")]
    Gone,
}

/// Why a listener can not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ListenError {
    /// Another listener has the address and port.
    #[error("another listener has {0}; use another port")]
    InUse(SocketAddr),
    /// Port 0 is no port.
    #[error("a listener needs a port; use 1 to 65 535")]
    NoPort,
    /// There are as many listeners as there may be.
    #[error("there are too many listeners; raise the limit of listeners")]
    TooMany,
}

/// Why no attempt to connect was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TcpConnectError {
    /// The other end can not be one: port 0, or no address of one host.
    #[error("{0} is not the address and port of one host")]
    BadPeer(SocketAddr),
    /// One end is of IPv4 and the other of IPv6: no packet goes from one to the other.
    #[error("{local} and {remote} are of different families; use an address of the peer's")]
    OtherFamily {
        /// The address to connect from.
        local: IpAddr,
        /// The other end.
        remote: SocketAddr,
    },
    /// All acceptable ports are in use with this peer.
    #[error("no port is free for this peer; close connections or use another local address")]
    NoPort,
    /// There is a connection between the same ends.
    #[error("there is a connection from {0} to this peer already")]
    InUse(SocketAddr),
    /// There are as many connections as there may be.
    #[error("there are too many connections; raise the limit of connections")]
    TooMany,
}

/// What happened to a connection since its owner was last told. Several may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Readiness {
    /// An attempt to connect succeeded.
    pub connected: bool,
    /// Data, or the end of the peer's stream, can be read.
    pub readable: bool,
    /// There is room in the send buffer again, after a write was refused.
    pub writable: bool,
    /// The peer has acknowledged everything that was written, and that this side has finished.
    pub finished: bool,
    /// The connection has ended; [`error`](super::TcpEngine::error) says why.
    pub closed: bool,
}

impl Readiness {
    /// Whether there is something to tell.
    pub const fn is_any(self) -> bool {
        let Readiness {
            connected,
            readable,
            writable,
            finished,
            closed,
        } = self;
        connected || readable || writable || finished || closed
    }
}
