//! Payload on its way out: shared, so that it can be sent again while a device still reads it.

use bytes::Bytes;

use crate::buffer::{Buffer, HeapBuffer};

/// Immutable bytes behind a reference count: what the send queue holds until they are
/// acknowledged, and what each segment under way holds until the device is done with it.
///
/// Cloning and slicing must share the bytes. [`Bytes`] is one such type, the driver's chunk of
/// packet memory another.
pub trait SharedPayload: Clone + AsRef<[u8]> {
    /// The bytes from `start` up to, but without, `end`; cut to what there is. Shares memory.
    fn slice(&self, start: usize, end: usize) -> Self;
}

impl SharedPayload for Bytes {
    fn slice(&self, start: usize, end: usize) -> Self {
        let end = end.min(self.len());
        Bytes::slice(self, start.min(end)..end)
    }
}

/// Packet memory behind which shared payload can be put.
pub trait Attach<S>: Buffer {
    /// Puts `payload` behind the last byte: as a further segment where the memory allows, else
    /// by copying. Returns false, and leaves the packet as it was, if neither works.
    fn attach(&mut self, payload: S) -> bool;
}

/// Copies.
impl Attach<Bytes> for HeapBuffer {
    fn attach(&mut self, payload: Bytes) -> bool {
        self.extend_from_slice(&payload)
    }
}
