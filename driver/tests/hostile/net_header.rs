//! What must come of the virtio-net header of a received frame (virtio 1.3, section 5.1.6.4), told
//! by rules in the order of the standard, and headers out of plain numbers.

use virtroupe_driver::Violation;
use virtroupe_driver::features::FeatureBits;
use virtroupe_wire::offload::{ChecksumState, PartialChecksum, SegmentKind, Segmentation};
use virtroupe_wire::{DropReason, Offload};

use super::device::HEADER;

/// Every receive offload.
pub const ALL: FeatureBits = FeatureBits(0b111 << 7 | 1 << 10 | 1 << 1 | 0b11 << 54);

/// What becomes of a frame of `length` bytes that begins with `head`: its description, or the reason
/// why it is dropped; or a violation, if the device may not say what is in `header` of any frame.
pub fn judge(
    features: FeatureBits,
    header: &[u8],
    head: &[u8],
    length: u32,
) -> Result<Result<Offload, DropReason>, Violation> {
    let number = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let (flags, gso_type) = (header[0], header[1]);
    let (size, start, offset) = (number(4), number(6), number(8));
    let is_partial = flags & 1 != 0;
    if features.0 & ALL.0 == 0 || (flags, gso_type) == (0, 0) {
        return Ok(Ok(Offload::NONE));
    }
    let ecn = gso_type & 0x80 != 0;
    let has = |bit: u32| features.0 >> bit & 1 != 0;
    let is_kind_taken = match gso_type & 0x7f {
        0 => true,
        1 => has(7),
        3 => has(10),
        4 => has(8),
        5 => has(54) || has(55),
        _ => false,
    };
    let is_beyond = is_partial && u32::from(start) + u32::from(offset) + 2 > length;
    if !is_kind_taken || (ecn && !has(9)) || is_beyond {
        return Err(Violation::NetHeader {
            flags,
            gso_type,
            gso_size: size,
            checksum: (start, offset),
            length,
        });
    }
    let checksum = match flags & 3 {
        0 => ChecksumState::Plain,
        2 => ChecksumState::Valid,
        _ => ChecksumState::Partial(PartialChecksum { start, offset }),
    };
    if gso_type == 0 {
        return Ok(Ok(Offload {
            checksum,
            segmentation: None,
        }));
    }
    if !is_partial {
        return Ok(Err(DropReason::Malformed));
    }
    let is_ipv4 = match ethertype(head) {
        Some(0x0800) => true,
        Some(0x86dd) => false,
        Some(_) => return Ok(Err(DropReason::UnknownEtherType)),
        None => return Ok(Err(DropReason::Malformed)),
    };
    let kind = match gso_type & 0x7f {
        1 if is_ipv4 => SegmentKind::Tcp { ecn },
        4 if !is_ipv4 => SegmentKind::Tcp { ecn },
        3 if !ecn => SegmentKind::UdpFragments,
        5 if !ecn && has(if is_ipv4 { 54 } else { 55 }) => SegmentKind::Udp,
        _ => return Ok(Err(DropReason::Malformed)),
    };
    let transport = match kind {
        SegmentKind::Tcp { .. } => head
            .get(usize::from(start) + 12)
            .map_or(0, |field| usize::from(field >> 4) * 4),
        _ => 8,
    };
    let is_tcp = matches!(kind, SegmentKind::Tcp { .. });
    let header_length = usize::from(start) + transport;
    if size == 0 || (is_tcp && transport < 20) || header_length > head.len() {
        return Ok(Err(DropReason::Malformed));
    }
    Ok(Ok(Offload {
        checksum,
        segmentation: Some(Segmentation {
            kind,
            size,
            header_length: header_length as u16,
        }),
    }))
}

/// Behind at most two VLAN tags; the third, if there are more. `None` if the frame ends before.
fn ethertype(head: &[u8]) -> Option<u16> {
    let field = |at: usize| Some(u16::from_be_bytes([*head.get(at)?, *head.get(at + 1)?]));
    let mut at = 12;
    while at < 20 && matches!(field(at), Some(0x8100 | 0x88a8)) {
        at += 4;
    }
    field(at)
}

/// A header, and the beginning of a frame that it may be about: often what is right, and seldom far
/// from it.
pub fn crafted(a: u16, b: u16, c: u16) -> ([u8; HEADER], [u8; 60]) {
    let mut header = [0; HEADER];
    header[0] = a as u8 & 7;
    header[1] = [0, 1, 4, 3, 5, 0x81, 0x84, 0x85, 2][usize::from(a >> 3) % 9];
    header[2..4].copy_from_slice(&c.to_le_bytes());
    header[4..6].copy_from_slice(&(b % 8).to_le_bytes());
    header[6..8].copy_from_slice(&(20 + c % 40).to_le_bytes());
    header[8..10].copy_from_slice(&(b >> 6 & 31).to_le_bytes());
    header[10] = 1;
    let mut head = [0x50; 60];
    let right = match header[1] & 0x7f {
        4 => [0x86, 0xdd],
        _ => [8, 0],
    };
    let ethertype = [right, right, [0x81, 0], [8, 6]][usize::from(a >> 8) % 4];
    head[12..14].copy_from_slice(&ethertype);
    let inner = [[8, 0], [0x88, 0xa8], [0x86, 0xdd], [0x88, 0x47]][usize::from(a >> 10) % 4];
    head[16..18].copy_from_slice(&inner);
    let innermost = [[8, 0], [0x81, 0]][usize::from(a >> 12) % 2];
    head[20..22].copy_from_slice(&innermost);
    (header, head)
}
