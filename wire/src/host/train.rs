//! Trains: many datagrams to one peer in one packet, which the device or the driver cuts (USO).

use super::Host;
use super::family::Family;
use super::send::Local;
use crate::buffer::{Allocator, Buffer, Payload, allocate_up_to, extend};
use crate::drops::DropReason;
use crate::offload::{ChecksumState, Offload, PartialChecksum, SegmentKind, Segmentation};
use crate::time::Instant;
use crate::udp::{self, UdpSend};
use crate::{ethernet, ipv4};

/// Where the checksum is in a UDP header.
const CHECKSUM: usize = 6;

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
        let ready = self.prepare(now, local, send, partial_header::<F, B>, pool)?;
        if ready.plan.must_fragment(udp::HEADER + usize::from(size)) {
            return Err(DropReason::TooBig);
        }
        self.check_frames(&ready.plan, datagrams)?;
        if ready.plan.is_loopback() {
            return self.send_train_to_ourselves(now, local, send, size, pool);
        }
        // Where the UDP header of the frame will begin.
        let transport = ethernet::HEADER + F::HEADER;
        let mut packet = train_packet(transport, &ready.header, send, pool)?;
        let is_kept = packet.set_offload(Offload {
            checksum: ChecksumState::Partial(PartialChecksum {
                start: transport as u16,
                offset: CHECKSUM as u16,
            }),
            segmentation: Some(Segmentation {
                kind: SegmentKind::Udp,
                size,
                header_length: (transport + udp::HEADER) as u16,
            }),
        });
        if !is_kept {
            return Err(DropReason::TooBig);
        }
        F::output(self, &ready.plan, &ready.outgoing, packet);
        // One that waits for a neighbour uses up room when it is released.
        if ready.plan.is_direct() {
            self.use_room(datagrams - 1);
            self.has_offloads = true;
        }
        Ok(())
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

/// The UDP header of a train, of at most 65 507 bytes. The checksum is that of the pseudo-header
/// alone: whoever cuts the train reads all bytes anyway.
fn partial_header<F: Family, B: Buffer>(
    (source, source_port): (F, u16),
    (destination, destination_port): (F, u16),
    payload: &Payload<B>,
) -> [u8; udp::HEADER] {
    let length = udp::HEADER + payload.len();
    let sum = !F::pseudo_header(source, destination, ipv4::UDP, length as u16).finish();
    let fields = [source_port, destination_port, length as u16, sum];
    let mut header = [0; udp::HEADER];
    for (room, field) in header.chunks_exact_mut(2).zip(fields) {
        room.copy_from_slice(&field.to_be_bytes());
    }
    header
}

/// The header and the payload: where the payload lies if there is room in front of it, else a
/// copy.
fn train_packet<A: Allocator>(
    transport: usize,
    header: &[u8; udp::HEADER],
    send: &mut UdpSend<A::Buffer>,
    pool: &mut A,
) -> Result<A::Buffer, DropReason> {
    if let Payload::Buffer(buffer) = &mut send.payload
        && buffer.headroom() >= transport + udp::HEADER
        && let Some(room) = buffer.prepend(udp::HEADER)
    {
        room.copy_from_slice(header);
        let taken = std::mem::replace(&mut send.payload, Payload::Empty);
        if let Payload::Buffer(buffer) = taken {
            return Ok(buffer);
        }
    }
    let allocated = allocate_up_to(pool, udp::HEADER + send.payload.len());
    let (mut packet, _) = allocated.ok_or(DropReason::PoolEmpty)?;
    let mut is_whole = packet.extend_from_slice(header);
    send.payload.for_each_segment(|segment| {
        is_whole = is_whole && extend(&mut packet, segment, pool);
    });
    match is_whole {
        true => Ok(packet),
        false => Err(DropReason::PoolEmpty),
    }
}
