//! The actors of the Virtroupe network stack.
//!
//! ```text
//!   DeviceActor        owns the device; gives each cpu its queues or a way to another's
//!       |
//!   QueueActor         one for each queue pair, on the arbiter of the cpu that owns it
//!   ProxyActor         one on each cpu that owns none
//!       |-- poll loop  harvests bursts, flushes what is to be sent, sleeps when idle
//!       |-- Ports      the queue pair or virtual queue, and the lanes to other cpus
//!       `-- Shard      engines, sockets, subscriptions: everything the cpu has
//!             ^
//!   LocalStack, UdpSocket, PacketSocket,    handles on the same arbiter
//!   TcpListener, TcpStream
//! ```
//!
//! | part | what it is |
//! |---|---|
//! | [`device`], [`cpu_actor`] | the actors |
//! | [`plan`], [`cpu`] | who gets what of a device, and how the stack of a cpu comes to be |
//! | [`poll`], [`clock`], [`burst`] | the poll loop, its time, and bursts whose memory is used again |
//! | [`shard`] | what a cpu has: the host, the TCP engine, sockets, subscriptions |
//! | [`local`], [`messages`] | handles for actors of the same arbiter, and what is delivered to them |
//! | [`tcp`] | listeners, connections and streams |
//! | [`services`] | messages for actors of other arbiters |
//! | [`crossings`], [`lane`], [`bell`] | how frames cross between cpus |
//! | [`peers`] | the other cpus, for what crosses seldom |
//! | `virtual_queue`, `credits`, `egress`, `ports` | how a cpu sends: by its own ring or another's |
//! | [`registry`] | the ports in use on all cpus |
//! | `outlet` | a full mailbox is waited for, within a bound |
//! | [`stats`] | counters |
//!
//! A flow belongs to one cpu (`virtroupe_wire::placement`). Frames that arrive elsewhere cross to
//! it in lanes, bounded rings of one sender and one receiver each, and what a proxy sends crosses
//! in a virtual queue, whose credits bound it. Messages of actix only wake who sleeps, carry
//! requests, and deliver to applications.
//!
//! # Where application actors run
//!
//! An application actor runs on the arbiter of its cpu. It gets there by
//! [`RunLocal`](services::RunLocal) (or the supervisor's `run_on`, which wraps it): a closure that
//! is executed there with the cpu's [`LocalStack`], and starts the actor. From then on every
//! send is a function call, whose outcome is known when it returns, and every received burst is
//! one message. An actor on any other arbiter sends the messages in [`services`] and
//! [`tcp::services`] instead; each crosses threads, which costs some hundred nanoseconds a burst.
//!
//! # Back-pressure
//!
//! Sending never waits. What finds no room stays with the caller, counted as dropped once, and
//! [`SocketEvent::TxReady`] tells when there is room. Receiving has two bounds: the mailbox of
//! the receiver, and the device's ring behind it. Of TCP, the bound of receiving is the window:
//! see [`tcp`].

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod bell;
pub mod burst;
pub mod clock;
pub mod cpu;
pub mod cpu_actor;
mod credits;
pub mod crossings;
pub mod device;
mod egress;
#[cfg(all(test, virtroupe_loom))]
mod interleavings;
pub mod lane;
pub mod local;
pub mod messages;
mod outlet;
pub mod peers;
pub mod plan;
pub mod poll;
mod ports;
pub mod registry;
pub mod services;
pub mod shard;
pub mod stats;
mod sync;
pub mod tcp;
mod virtual_queue;

pub use burst::Burst;
pub use cpu_actor::{CpuAddr, CpuRole, ProxyActor, QueueActor};
pub use local::{LocalStack, PacketSocket, UdpSocket};
pub use messages::{
    BindError, CloseReason, ConnectError, PacketsReceived, SendOutcome, SocketEvent,
    SubscriptionId, UdpReceived,
};
pub use outlet::IntoRecipient;
pub use shard::{Capture, TxReadyPolicy};
pub use tcp::{
    SendTcpStream, TcpAccepted, TcpConnectError, TcpEvent, TcpEventKind, TcpListener, TcpPayload,
    TcpReadHalf, TcpReceived, TcpSendError, TcpSendOutcome, TcpStream, TcpWriteHalf,
};
