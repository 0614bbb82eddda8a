//! The embedded transport: a software virtio-net device in this process.
//!
//! The device has its own code for the device's side of the rings and treats what its driver
//! writes as untrusted, as a device made by others would. Behind it stands a [`Backend`]: an
//! in-memory [`Link`] to a second device, a packet source and sink, or a TAP interface.
//!
//! ```text
//! driver -> EmbeddedTransport      (control path)
//!        -> rings in DmaMemory <-> Pair <-> Port (link, source, TAP)
//!                                   ^ stepped by a thread of the device, or inline
//! ```
//!
//! Two devices on a link that loses one frame in a hundred, each with a thread of its own:
//!
//! ```
//! use virtroupe_driver::embedded::{DeviceThread, EmbeddedConfig, EmbeddedTransport, Link, LinkConfig};
//!
//! let (left, right) = Link::pair(LinkConfig { loss: 0.01, seed: 7, ..LinkConfig::default() });
//! let monitor = left.monitor();
//! let thread = DeviceThread::default();
//! let (left, _) = EmbeddedTransport::threaded(EmbeddedConfig::default(), left, thread)?;
//! let (right, handle) = EmbeddedTransport::threaded(EmbeddedConfig::default(), right, thread)?;
//! // Each transport goes to a driver; the handle and the monitor stay here.
//! assert_eq!(handle.stats().to_driver.frames, monitor.outbound().delivered);
//! # Ok::<(), virtroupe_driver::transport::TransportError>(())
//! ```

pub mod backend;
pub mod config;
mod device;
pub mod header;
mod inbound;
pub mod link;
mod memory;
mod offloads;
mod outbound;
mod pair;
pub mod ring;
mod runner;
pub mod source;
pub mod stats;
mod steering;
pub mod tap;
mod transport;

pub use backend::{Attachment, Backend, Deliver, Delivery, LentFrame, Packet, Port};
pub use config::{DeviceThread, EmbeddedConfig};
pub use header::NetHeader;
pub use link::{Link, LinkConfig, LinkEnd, LinkMonitor, LinkStats};
pub use ring::RingFault;
pub use runner::monotonic_now;
pub use source::{PacketSource, SourceConfig, SourceMonitor, SourceStats};
pub use stats::{Count, EmbeddedStats};
pub use tap::{Tap, TapConfig};
pub use transport::{EmbeddedHandle, EmbeddedStepper, EmbeddedTransport};
