//! virtio-net for user space: rings, DMA memory and frames, transports, and a software device.

#![warn(missing_docs)]

pub mod chunk;
pub mod features;
pub mod frame;
pub mod memory;
pub mod pool;
pub mod transport;
