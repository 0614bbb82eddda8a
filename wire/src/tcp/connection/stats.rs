//! What is known about a connection, for its owner.

use super::Connection;
use crate::buffer::Buffer;
use crate::tcp::counters::ConnectionStats;
use crate::tcp::payload::SharedPayload;
use crate::tcp::sequence::Origin;

impl<B: Buffer, S: SharedPayload> Connection<B, S> {
    /// What is known about the connection.
    pub(crate) fn stats(&self) -> ConnectionStats {
        ConnectionStats {
            state: self.state,
            rtt: self.rtt.smoothed().into(),
            rtt_variation: self.rtt.variation().into(),
            least_rtt: self.rtt.least().into(),
            timeout: self.rtt.timeout().into(),
            congestion_window: self.congestion_window(),
            slow_start_threshold: self.congestion.get().slow_start_threshold(),
            in_flight: self.in_flight(),
            peer_window: self.send.window,
            receive_window: self.receive.window(),
            segment_size: self.segment_size() as u16,
            unacknowledged: self.send.queue.end().saturating_sub(self.send.una),
            acknowledged: bytes_before(self.send.una, self.send.is_fin_acknowledged()),
            received: bytes_before(self.receive.next, self.receive.is_finished()),
            retransmits: self.retransmits,
            timeouts: self.timeouts,
            undone: self.undone,
            records: self.send.board.records() + self.receive.pieces(),
            ecn: self.negotiated.ecn,
            sack: self.negotiated.sack,
            timestamps: self.negotiated.timestamps,
        }
    }
}

/// Bytes of data before `position`, behind the SYN and, with `has_fin`, a FIN.
fn bytes_before(position: u64, has_fin: bool) -> u64 {
    position.saturating_sub(Origin::SYN + 1 + u64::from(has_fin))
}
