//! The actors of the Virtroupe network stack.
//!
//! ```text
//!   DeviceActor        owns the device; gives each cpu its queue
//!       |
//!   QueueActor         one for each cpu with a queue, on that cpu's arbiter
//!       |-- poll loop  harvests bursts, flushes what is to be sent, sleeps when idle
//!       `-- Shard      engines, sockets, subscriptions: everything the cpu has
//!             ^
//!   LocalStack, UdpSocket, PacketSocket     handles on the same arbiter
//! ```
//!
//! # Where application actors run
//!
//! An application actor runs on the arbiter of its cpu. It gets there by
//! [`RunLocal`](queue::RunLocal) (or the supervisor's `run_on`, which wraps it): a closure that
//! is executed there with the cpu's [`LocalStack`], and starts the actor. From then on every
//! send is a function call, whose outcome is known when it returns, and every received burst is
//! one message. An actor on any other arbiter sends the messages in [`queue`] instead; each
//! crosses threads, which costs some hundred nanoseconds a burst.
//!
//! # Back-pressure
//!
//! Sending never waits. What finds no room stays with the caller, counted as dropped once, and
//! [`SocketEvent::TxReady`] tells when there is room. Receiving has two bounds: the mailbox of
//! the receiver, and the device's ring behind it.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod burst;
pub mod clock;
pub mod cpu;
pub mod device;
pub mod local;
pub mod messages;
mod outlet;
pub mod poll;
pub mod queue;
pub mod registry;
pub mod shard;

pub use burst::Burst;
pub use local::{LocalStack, PacketSocket, UdpSocket};
pub use messages::{
    BindError, CloseReason, PacketsReceived, SendOutcome, SocketEvent, SubscriptionId, UdpReceived,
};
pub use outlet::IntoRecipient;
pub use shard::Capture;
