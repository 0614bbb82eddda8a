//! Chunks as the payload of TCP: what its send queue holds, and puts behind the headers of each
//! segment.

use virtroupe_wire::Buffer;
use virtroupe_wire::tcp::{Attach, SharedPayload};

use crate::chunk::Chunk;
use crate::frame::Frame;

impl SharedPayload for Chunk {
    fn slice(&self, start: usize, end: usize) -> Self {
        Chunk::slice(self, start..end)
    }
}

/// What is not longer is copied where the last segment has room: that costs less than another
/// descriptor and its link.
const COPYBREAK: usize = 256;

/// Without a copy where chunk and frame lie in the memory of one device, and the frame's pool is
/// this thread's. What is short is copied into the last segment if it has room; what lies elsewhere
/// is copied once, into the pool as long as that has slots. A chunk may be attached to any number of
/// frames at a time.
impl Attach<Chunk> for Frame {
    fn attach(&mut self, payload: Chunk) -> bool {
        let is_short = payload.len() <= COPYBREAK;
        if is_short && self.extend_from_slice(&payload) {
            return true;
        }
        if let Err(payload) = self.append_link(payload) {
            self.append_copy(&payload);
        }
        true
    }
}

#[cfg(all(test, not(virtroupe_loom)))]
mod tests;
