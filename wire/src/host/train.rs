//! Trains: many datagrams to one peer in one packet, which the device or the driver cuts (USO).

use std::net::SocketAddrV4;

use super::Host;
use super::send::Local;
use crate::buffer::{Allocator, Buffer, Payload, allocate_up_to, extend};
use crate::drops::DropReason;
use crate::offload::{
    ChecksumState, Offload, PartialChecksum, SegmentKind, Segmentation, pseudo_header_sum,
};
use crate::time::Instant;
use crate::udp::{self, UdpSend};
use crate::{ethernet, ipv4};

/// Where the UDP header of a frame begins.
const TRANSPORT: usize = ethernet::HEADER + ipv4::HEADER;

/// Where the checksum is in a UDP header.
const CHECKSUM: usize = 6;

impl<B: Buffer> Host<B> {
    /// Sends the payload of `send` in datagrams of `size` bytes each.
    pub(super) fn send_train<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        local: &Local,
        send: &mut UdpSend<B>,
        size: u16,
        pool: &mut A,
    ) -> Result<(), DropReason> {
        let datagrams = send.payload.len().div_ceil(usize::from(size).max(1));
        if size == 0 || datagrams > udp::LONGEST_TRAIN {
            return Err(DropReason::TooBig);
        }
        let ready = self.prepare(now, local, send, partial_header, pool)?;
        if ready.plan.must_fragment(udp::HEADER + usize::from(size)) {
            return Err(DropReason::TooBig);
        }
        let length = TRANSPORT + udp::HEADER + send.payload.len();
        let is_cut = self
            .device_segmentation
            .cuts(SegmentKind::Udp, false, length);
        // What waits for a neighbour is bounded for the sake of memory, whoever cuts it.
        let frames = match is_cut && ready.plan.is_direct() {
            true => 1,
            false => datagrams,
        };
        self.check_frames(&ready.plan, frames)?;
        if ready.plan.is_loopback() {
            return self.send_train_to_ourselves(now, local, send, size, pool);
        }
        let mut packet = train_packet(&ready.header, send, pool)?;
        let is_kept = packet.set_offload(Offload {
            checksum: ChecksumState::Partial(PartialChecksum {
                start: TRANSPORT as u16,
                offset: CHECKSUM as u16,
            }),
            segmentation: Some(Segmentation {
                kind: SegmentKind::Udp,
                size,
                header_length: (TRANSPORT + udp::HEADER) as u16,
            }),
        });
        if !is_kept {
            return Err(DropReason::TooBig);
        }
        self.output(&ready.plan, &ready.outgoing, packet);
        // One that waits for a neighbour uses up room when it is released.
        if ready.plan.is_direct() {
            self.use_room(frames - 1);
            self.has_offloads = true;
        }
        Ok(())
    }

    /// Nobody cuts what stays here. All of it stays, or nothing: who is refused offers all again.
    #[cold]
    fn send_train_to_ourselves<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        local: &Local,
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
fn partial_header<B: Buffer>(
    source: SocketAddrV4,
    destination: SocketAddrV4,
    payload: &Payload<B>,
) -> [u8; udp::HEADER] {
    let length = udp::HEADER + payload.len();
    let [s0, s1, s2, s3] = source.ip().octets();
    let [d0, d1, d2, d3] = destination.ip().octets();
    let addresses = [s0, s1, s2, s3, d0, d1, d2, d3];
    let sum = pseudo_header_sum(&addresses, ipv4::UDP, length);
    let fields = [source.port(), destination.port(), length as u16, sum];
    let mut header = [0; udp::HEADER];
    for (room, field) in header.chunks_exact_mut(2).zip(fields) {
        room.copy_from_slice(&field.to_be_bytes());
    }
    header
}

/// The header and the payload: where the payload lies if there is room in front of it, else a
/// copy.
fn train_packet<A: Allocator>(
    header: &[u8; udp::HEADER],
    send: &mut UdpSend<A::Buffer>,
    pool: &mut A,
) -> Result<A::Buffer, DropReason> {
    if let Payload::Buffer(buffer) = &mut send.payload
        && buffer.headroom() >= TRANSPORT + udp::HEADER
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
