//! Formats and protocol engines of the Virtroupe network stack.
//!
//! Everything here is *sans-IO*: bytes and the time go in, bytes and events come out. There is
//! no socket, no clock, no thread and no actor, and no `unsafe`.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod buffer;
pub mod drops;
pub mod mac;
pub mod time;

pub use buffer::{Allocator, Buffer, Heap, HeapBuffer, Payload};
pub use drops::{DropReason, Drops};
pub use mac::MacAddr;
pub use time::Instant;
