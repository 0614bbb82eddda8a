//! virtio-net for user space: rings, DMA memory and frames, transports, and a software device.

#![warn(missing_docs)]

pub mod embedded;
pub mod features;
pub mod memory;
pub mod transport;
