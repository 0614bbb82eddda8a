//! What stands in the place of a port that is gone.

use std::io;

use virtroupe_wire::Instant;

use super::super::backend::{Deliver, Packet, Port};
use super::super::stats::Count;

/// The port of a pair that is closed.
pub(super) struct Closed;

impl Port for Closed {
    fn transmit(&mut self, _now: Instant, burst: &mut [Packet]) -> Count {
        let mut refused = Count::default();
        for packet in burst.iter() {
            refused.add(packet.bytes.len());
        }
        refused
    }

    fn receive(&mut self, _: Instant, _: usize, _: &mut Deliver<'_>) -> io::Result<usize> {
        Ok(0)
    }
}
