//! Trains: many datagrams to one peer in one packet, which the device or the driver cuts (USO).

use super::Host;
use super::family::Family;
use super::long::partial_header;
use super::output::Plan;
use super::send::Local;
use crate::buffer::{Allocator, Buffer, Payload};
use crate::drops::DropReason;
use crate::offload::SegmentKind;
use crate::time::Instant;
use crate::udp::{self, UdpSend};

impl<B: Buffer> Host<B> {
    /// Sends the payload of `send` in datagrams of `size` bytes each.
    pub(super) fn send_train<F: Family, A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        local: &Local<F>,
        send: &mut UdpSend<B>,
        size: u16,
        pool: &mut A,
    ) -> Result<(), DropReason> {
        let datagrams = send.payload.len().div_ceil(usize::from(size).max(1));
        if size == 0 || datagrams > udp::LONGEST_TRAIN {
            return Err(DropReason::TooBig);
        }
        let header = |_: &Plan<F>, source, destination, payload: &_| {
            partial_header(source, destination, payload)
        };
        let ready = self.prepare(now, local, send, header, pool)?;
        if ready.plan.must_fragment(udp::HEADER + usize::from(size)) {
            return Err(DropReason::TooBig);
        }
        let frames = self.room_of(&ready.plan, SegmentKind::Udp, &send.payload, datagrams);
        self.check_frames(&ready.plan, frames)?;
        if ready.plan.is_loopback() {
            return self.send_train_to_ourselves(now, local, send, size, pool);
        }
        self.send_described(&ready, send, (SegmentKind::Udp, size), frames, pool)
    }

    /// Nobody cuts what stays here. All of it stays, or nothing: who is refused offers all again.
    #[cold]
    fn send_train_to_ourselves<F: Family, A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        local: &Local<F>,
        send: &mut UdpSend<B>,
        size: u16,
        pool: &mut A,
    ) -> Result<(), DropReason> {
        let mut bytes = Vec::with_capacity(send.payload.len());
        send.payload
            .for_each_segment(|segment| bytes.extend_from_slice(segment));
        let before = self.looped.len();
        for datagram in bytes.chunks(usize::from(size)) {
            let mut single = UdpSend {
                payload: Payload::from(bytes::Bytes::copy_from_slice(datagram)),
                segment_size: None,
                refused: None,
                ..*send
            };
            if let Err(reason) = self.send_slow(now, local, &mut single, pool) {
                self.looped.truncate(before);
                return Err(reason);
            }
        }
        Ok(())
    }
}
