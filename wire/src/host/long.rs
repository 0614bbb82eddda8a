//! Packets that are longer than their path allows and leave as one frame all the same, with a
//! description of how they are cut: trains (USO), and datagrams in fragments (UFO).

use super::Host;
use super::family::Family;
use super::output::Plan;
use super::send::Ready;
use crate::buffer::{Allocator, Buffer, Payload, allocate_up_to, extend};
use crate::drops::DropReason;
use crate::offload::{ChecksumState, Offload, PartialChecksum, SegmentKind, Segmentation};
use crate::udp::{self, UdpSend};
use crate::{ethernet, ipv4};

/// Where the UDP header of a frame begins.
const fn transport<F: Family>() -> usize {
    ethernet::HEADER + F::HEADER
}

impl<B: Buffer> Host<B> {
    /// Sends the payload of `send` in one frame that uses up room for `frames`, which there is. The header in `ready` is a [`partial_header`].
    ///
    /// # Errors
    /// `PoolEmpty`; or `TooBig` if this kind of memory can not keep a description. The payload is
    /// then where it was.
    pub(super) fn send_described<F: Family, A: Allocator<Buffer = B>>(
        &mut self,
        ready: &Ready<F>,
        send: &mut UdpSend<B>,
        (kind, size): (SegmentKind, u16),
        frames: usize,
        pool: &mut A,
    ) -> Result<(), DropReason> {
        let offload = Offload {
            checksum: ChecksumState::Partial(PartialChecksum {
                start: transport::<F>() as u16,
                offset: udp::CHECKSUM as u16,
            }),
            segmentation: Some(Segmentation {
                kind,
                size,
                header_length: (transport::<F>() + udp::HEADER) as u16,
            }),
        };
        let packet = whole_packet::<F, A>(&ready.header, offload, send, pool)?;
        F::output(self, &ready.plan, &ready.outgoing, packet);
        // One that waits for a neighbour uses up room when it is released.
        if ready.plan.is_direct() {
            self.use_room(frames - 1);
            self.has_offloads = true;
            self.counters.tx_segmented += 1;
        }
        Ok(())
    }

    /// How much room a UDP packet takes that is cut into `pieces` of `kind`: one place if the
    /// device does it. What waits for a neighbour is bounded for the sake of memory, whoever cuts
    /// it.
    pub(super) fn room_of<F: Family>(
        &self,
        plan: &Plan<F>,
        kind: SegmentKind,
        payload: &Payload<B>,
        pieces: usize,
    ) -> usize {
        let length = transport::<F>() + udp::HEADER + payload.len();
        let is_cut = self.device_segmentation.cuts(kind, F::IS_IPV6, length);
        match is_cut && plan.is_direct() {
            true => 1,
            false => pieces,
        }
    }

    /// Sends a datagram that the device cuts into fragments. There is room for them.
    #[inline(never)]
    pub(super) fn send_to_be_fragmented<F: Family, A: Allocator<Buffer = B>>(
        &mut self,
        ready: Ready<F>,
        send: &mut UdpSend<B>,
        pool: &mut A,
    ) -> Result<(), DropReason> {
        let pieces = ready.plan.frames(udp::HEADER + send.payload.len());
        let kind = SegmentKind::UdpFragments;
        let frames = self.room_of(&ready.plan, kind, &send.payload, pieces);
        // The greatest packet, less its header.
        let size = ready.plan.per_fragment() as u16;
        let ready = Ready {
            plan: ready.plan.for_fragments(),
            ..ready
        };
        self.send_described(&ready, send, (kind, size), frames, pool)?;
        self.counters.fragmented += 1;
        Ok(())
    }
}

/// The UDP header of a long packet, with a payload of at most 65 507 bytes. The checksum is that
/// of the pseudo-header alone: whoever cuts the packet reads all bytes anyway.
pub(super) fn partial_header<F: Family, B: Buffer>(
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

/// The header and the payload, with the description: where the payload lies if there is room in
/// front of it, else a copy.
fn whole_packet<F: Family, A: Allocator>(
    header: &[u8; udp::HEADER],
    offload: Offload,
    send: &mut UdpSend<A::Buffer>,
    pool: &mut A,
) -> Result<A::Buffer, DropReason> {
    if let Payload::Buffer(buffer) = &mut send.payload
        && buffer.headroom() >= transport::<F>() + udp::HEADER
        && buffer.set_offload(offload)
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
    if !packet.set_offload(offload) {
        return Err(DropReason::TooBig);
    }
    let mut is_whole = packet.extend_from_slice(header);
    send.payload.for_each_segment(|segment| {
        is_whole = is_whole && extend(&mut packet, segment, pool);
    });
    match is_whole {
        true => Ok(packet),
        false => Err(DropReason::PoolEmpty),
    }
}
