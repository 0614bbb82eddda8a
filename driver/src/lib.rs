//! virtio-net for user space: rings, DMA memory and frames, transports, and a software device.
//!
//! ```text
//!   Device            initialised once: features, memory, transport
//!     |-- Transport   the control path: vhost-user, embedded, ...
//!     `-- QueuePair   one for each cpu that has one: the data path
//!           |-- receive queue    posts empty slots, takes frames; on a split or a packed ring
//!           |-- transmit queue   hands frames to the device, takes slots back
//!           `-- Pool             the slots; a Frame is the handle to one
//! ```
//!
//! | part | what it is |
//! |---|---|
//! | [`device`], [`features`] | start-up by the options of the caller, and what was negotiated |
//! | [`transport`], [`vhost_user`], [`embedded`] | the control path as a trait, and its two implementations; the second has the software device |
//! | [`memory`] | memory that a device can reach |
//! | [`pool`], [`frame`], [`chunk`] | slots of it, the unique handle to one, and its shared form, which TCP sends from |
//! | [`queue_pair`], [`receive`], [`transmit`] | the data path, by the burst |
//! | [`ring`] | split and packed rings behind one trait |
//! | [`offload`], and [`receive`] | checksums and segmentation: what the device does, what is done in software |
//! | `attach` | how a chunk gets behind the headers of a segment: by reference where it can |
//!
//! A queue pair belongs to one thread and needs no lock. A [`Frame`] is `Send` and finds its
//! way home from wherever it is dropped. The device is not trusted: every id, length and index
//! that it writes is compared with a private shadow, and a [`Violation`] makes the pair unusable
//! until the device was reset.
//!
//! This is the only crate of the project with `unsafe` code.

#![warn(missing_docs)]

mod attach;
pub mod chunk;
pub mod device;
pub mod embedded;
pub mod features;
pub mod frame;
pub mod memory;
pub mod offload;
pub mod pool;
mod queue;
pub mod queue_pair;
pub mod receive;
pub mod ring;
mod sync;
pub mod transmit;
pub mod transport;
pub mod vhost_user;

pub use chunk::Chunk;
pub use device::{
    Device, DeviceError, DeviceOptions, DeviceParts, Features, Mergeable, ReceiveOffloadMode,
    RingFormat,
};
pub use features::FeatureBits;
pub use frame::Frame;
pub use offload::TransmitOffloads;
pub use pool::{Pool, UnboundPool, batch_returns, drop_burst};
pub use queue_pair::{QueuePair, UnboundQueuePair};
pub use receive::ReceiveOffloads;
pub use ring::Violation;
pub use transport::Transport;
