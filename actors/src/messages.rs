//! The messages that applications exchange with the stack.
//!
//! Delivered by the stack: [`UdpReceived`], [`PacketsReceived`], [`SocketEvent`]. Order: packets
//! of one flow arrive in the order in which the device delivered them. A `SocketEvent` and an
//! `UdpReceived` that are on their way at the same time may arrive in either order.

use std::net::SocketAddr;

use actix::Message;
use virtroupe_driver::Frame;
use virtroupe_wire::DropReason;
use virtroupe_wire::host;
use virtroupe_wire::placement::SourcePortError;
use virtroupe_wire::tcp::ListenError;
use virtroupe_wire::udp::{UdpDatagram, UdpError, UdpSocketId};

use crate::burst::Burst;
use crate::outlet::Packets;

/// Datagrams for one socket, in order of arrival.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct UdpReceived {
    /// The socket that they arrived for.
    pub socket: UdpSocketId,
    /// The datagrams; never empty.
    pub datagrams: Burst<UdpDatagram<Frame>>,
}

/// Frames that matched the filter of a subscription, from the Ethernet header on.
///
/// With receive offloads ([`DeviceOptions::receive_offloads`](virtroupe_driver::DeviceOptions)) a
/// frame may be longer than the MTU, a chain, and its checksum not complete; its
/// [`offload`](virtroupe_wire::Buffer::offload) says what is left to do for it. A frame that is
/// sent on keeps that, and it is done then, by the device or in software. Whoever answers in the
/// memory of a frame with a checksum of his own first takes it off, by
/// [`set_offload`](virtroupe_wire::Buffer::set_offload) with `Offload::NONE`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct PacketsReceived {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// The frames; never empty.
    pub frames: Burst<Frame>,
}

/// Something happened to a socket or a subscription, other than received packets.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub enum SocketEvent {
    /// There is room again: the notice that a refused sender asked for. One-shot.
    TxReady,
    /// The network reported an error about a datagram that this socket sent.
    Failed(UdpError),
    /// The stack closed the socket; nothing will arrive any more.
    Closed(CloseReason),
}

/// Why the stack closed a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseReason {
    /// The stack shuts down.
    Shutdown,
    /// The device is lost or broken. Says what was seen.
    DeviceLost(String),
    /// The actor of the cpu has ended. Says how.
    CpuLost(String),
}

/// Under which reason the packets of the socket are dropped.
impl From<&CloseReason> for DropReason {
    fn from(reason: &CloseReason) -> Self {
        match reason {
            CloseReason::Shutdown => DropReason::Shutdown,
            CloseReason::DeviceLost(_) => DropReason::DeviceLost,
            CloseReason::CpuLost(_) => DropReason::CpuGone,
        }
    }
}

/// Why a socket can not be bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// This cpu's engine refuses.
    #[error(transparent)]
    Host(#[from] host::BindError),
    /// A socket on another cpu is bound to the address.
    #[error("{local} is in use on cpu {cpu}; close that socket or choose another port (0: any)")]
    InUseOnOtherCpu {
        /// The address.
        local: SocketAddr,
        /// Who has it.
        cpu: u16,
    },
    /// Another cpu did not take note of the binding.
    #[error("cpu {cpu} does not answer: an actor on it blocks; let it return, or bind again later")]
    NoAnswer {
        /// Which.
        cpu: u16,
    },
    /// The cpus know of as many bound addresses as they can.
    #[error("131072 addresses and ports are bound; close some sockets")]
    TooManyBindings,
    /// The TCP engine refuses.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// TCP is switched off.
    #[error("TCP is switched off; set tcp.enabled")]
    TcpDisabled,
    /// The stack was shut down or has lost its device.
    #[error("the stack is stopped; start it again")]
    Stopped,
}

/// Why no connected socket can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The peer is not one.
    #[error(transparent)]
    Host(#[from] host::ConnectError),
    /// No route leads to the peer.
    #[error("no route leads to {0}; set a gateway or a route")]
    NoRoute(SocketAddr),
    /// No port has replies that reach this cpu.
    #[error(transparent)]
    Port(#[from] SourcePortError),
    /// The port can not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
}

/// Names a subscription of the packet API on its cpu.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionId(pub(crate) u64);

impl Packets for UdpReceived {
    fn packets(&self) -> u64 {
        self.datagrams.len() as u64
    }
}

impl Packets for PacketsReceived {
    fn packets(&self) -> u64 {
        self.frames.len() as u64
    }
}

/// What became of a burst that was offered for sending: `offered = accepted + refused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SendOutcome {
    /// Packets that the stack took. They left the caller's vector.
    pub accepted: usize,
    /// Packets that stayed in the caller's vector. Each was counted as dropped once; offering
    /// it again is a new offer.
    pub refused: usize,
    /// Why the first of them was refused.
    pub reason: Option<DropReason>,
}

impl SendOutcome {
    /// Whether waiting for [`SocketEvent::TxReady`] can help.
    pub fn would_block(&self) -> bool {
        matches!(
            self.reason,
            Some(DropReason::RingFull | DropReason::NoCredit | DropReason::PoolEmpty)
        )
    }
}
