//! What must come of the virtio-net header of a received frame (virtio 1.3, section 5.1.6.4), told
//! by rules in the order of the standard, and headers out of plain numbers.

use virtroupe_driver::Violation;
use virtroupe_driver::features::FeatureBits;
use virtroupe_wire::Offload;
use virtroupe_wire::offload::{ChecksumState, PartialChecksum, SegmentKind, Segmentation};

use super::device::HEADER;

/// Every receive offload.
pub const ALL: FeatureBits = FeatureBits(0b111 << 7 | 1 << 10 | 1 << 1 | 0b11 << 54);

/// The description of a frame of `length` bytes that begins with `head`, if the device may say
/// what is in `header`.
pub fn judge(
    features: FeatureBits,
    header: &[u8],
    head: &[u8],
    length: u32,
) -> Result<Offload, Violation> {
    let number = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let (flags, gso_type) = (header[0], header[1]);
    let (size, start, offset) = (number(4), number(6), number(8));
    let refused = Err(Violation::NetHeader {
        flags,
        gso_type,
        gso_size: size,
        checksum: (start, offset),
        length,
    });
    let is_partial = flags & 1 != 0;
    if features.0 & ALL.0 == 0 || (flags, gso_type) == (0, 0) {
        return Ok(Offload::NONE);
    }
    if is_partial && u32::from(start) + u32::from(offset) + 2 > length {
        return refused;
    }
    let checksum = match flags & 3 {
        0 => ChecksumState::Plain,
        2 => ChecksumState::Valid,
        _ => ChecksumState::Partial(PartialChecksum { start, offset }),
    };
    if gso_type == 0 {
        return Ok(Offload {
            checksum,
            segmentation: None,
        });
    }
    let ecn = gso_type & 0x80 != 0;
    let is_ipv4 = ethertype(head) == Some(0x0800);
    let is_ipv6 = ethertype(head) == Some(0x86dd);
    let tcp = SegmentKind::Tcp { ecn };
    let known = [
        (1, is_ipv4, 7, tcp),
        (4, is_ipv6, 8, tcp),
        (3, is_ipv4 || is_ipv6, 10, SegmentKind::UdpFragments),
        (5, is_ipv4, 54, SegmentKind::Udp),
        (5, is_ipv6, 55, SegmentKind::Udp),
    ];
    let has = |bit: u32| features.0 >> bit & 1 != 0;
    let found = known.iter().find(|(kind, fits, bit, _)| {
        *kind == gso_type & 0x7f && *fits && has(*bit) && (*kind % 3 == 1 || !ecn)
    });
    let Some((.., kind)) = found.filter(|_| is_partial && size > 0 && (!ecn || has(9))) else {
        return refused;
    };
    let header = match kind {
        SegmentKind::Tcp { .. } => match head.get(usize::from(start) + 12) {
            Some(field) if field >> 4 >= 5 => usize::from(field >> 4) * 4,
            _ => return refused,
        },
        _ => 8,
    };
    let header_length = usize::from(start) + header;
    if header_length > head.len() {
        return refused;
    }
    Ok(Offload {
        checksum,
        segmentation: Some(Segmentation {
            kind: *kind,
            size,
            header_length: header_length as u16,
        }),
    })
}

/// Behind at most two VLAN tags.
fn ethertype(head: &[u8]) -> Option<u16> {
    (0..3)
        .map_while(|tags| head.get(12 + 4 * tags..14 + 4 * tags))
        .map(|field| u16::from_be_bytes([field[0], field[1]]))
        .find(|ethertype| ![0x8100, 0x88a8].contains(ethertype))
}

/// A header, and the beginning of a frame that it may be about: often what is right, and seldom far
/// from it.
pub fn crafted(a: u16, b: u16, c: u16) -> ([u8; HEADER], [u8; 60]) {
    let mut header = [0; HEADER];
    header[0] = a as u8 & 7;
    header[1] = [0, 1, 4, 3, 5, 0x81, 0x84, 0x85, 2][usize::from(a >> 3) % 9];
    header[2..4].copy_from_slice(&c.to_le_bytes());
    header[4..6].copy_from_slice(&(b % 64).to_le_bytes());
    header[6..8].copy_from_slice(&(20 + c % 40).to_le_bytes());
    header[8..10].copy_from_slice(&(b >> 6 & 31).to_le_bytes());
    header[10] = 1;
    let mut head = [0x50; 60];
    let ethertype = [[8, 0], [0x86, 0xdd], [0x81, 0], [8, 6]][usize::from(a >> 8) % 4];
    head[12..14].copy_from_slice(&ethertype);
    head[16..18].copy_from_slice(&[8, 0]);
    (header, head)
}
