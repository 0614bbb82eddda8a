//! A port for tests of what the device does with a frame.

use std::io;

use virtroupe_wire::Instant;

use super::{Count, Deliver, Delivery, NetHeader, Packet, Port};

/// Always has this frame once more, and would have it at once.
pub(in super::super) struct OneFrame(pub(in super::super) Vec<u8>);

impl Port for OneFrame {
    fn transmit(&mut self, _now: Instant, _burst: &mut [Packet]) -> Count {
        Count::default()
    }

    fn receive(
        &mut self,
        _now: Instant,
        _limit: usize,
        deliver: &mut Deliver<'_>,
    ) -> io::Result<usize> {
        let taken = deliver(&NetHeader::default(), &self.0) == Delivery::Taken;
        Ok(usize::from(taken))
    }

    fn deadline(&self) -> Option<Instant> {
        Some(Instant::ZERO)
    }
}
