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

/// Copies: into the last segment where it has room, else into one on the heap.
impl Attach<Chunk> for Frame {
    fn attach(&mut self, payload: Chunk) -> bool {
        if !self.extend_from_slice(&payload) {
            self.append(Frame::on_heap(&payload));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_lies_behind_the_headers_however_often_it_is_sent() {
        let payload = Frame::on_heap(b"hello, world").freeze();
        for _ in 0..2 {
            let mut packet = Frame::on_heap(b"header:");
            assert!(packet.attach(SharedPayload::slice(&payload, 7, 99)));
            assert_eq!(packet.to_vec(), b"header:world");
        }
    }
}
