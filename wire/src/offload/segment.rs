//! Segmentation in software: one long packet becomes what a device would make of it.

use super::{
    ChecksumState, Offload, PartialChecksum, SegmentKind, Segmentation, complete, complete_checksum,
};
use crate::buffer::{Allocator, Buffer, allocate_up_to, extend};
use crate::checksum;
use crate::drops::DropReason;
use crate::{ethernet, ipv4, ipv6, udp};

/// The least TCP header (RFC 9293, section 3.1).
const TCP_HEADER: usize = 20;
/// Where the flags of a TCP header are.
const TCP_FLAGS: usize = 13;
/// Flags that only the last segment may have: FIN and PSH.
const LAST_FLAGS: u8 = 0x01 | 0x08;
/// The flag that only the first segment has: CWR (RFC 3168, section 6.1.2).
const CWR: u8 = 0x80;

/// Which IP carries the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V4,
    V6,
}

/// Where the headers of a long packet are.
#[derive(Debug, Clone, Copy)]
struct Layout {
    version: Version,
    /// Where the IP header begins.
    network: usize,
    /// Where the transport header begins.
    transport: usize,
    /// Bytes that every piece repeats.
    repeated: usize,
    /// Bytes of payload in each piece.
    size: usize,
}

/// Cuts `packet` as `offload` says and puts the pieces behind `out`, each complete, with right
/// lengths and checksums, in memory of `pool`. IPv4 identifications count up from the packet's, as
/// those that Linux makes.
///
/// # Errors
/// `Malformed` if the headers are not where they are said to be (behind at most one VLAN tag, and in
/// IPv6 without extension headers), or the packet is longer than IP allows; `PoolEmpty` if memory is
/// short. `out` is then as it was.
pub fn segment<A: Allocator>(
    packet: &mut A::Buffer,
    offload: &Offload,
    pool: &mut A,
    out: &mut Vec<A::Buffer>,
) -> Result<(), DropReason> {
    let before = out.len();
    let result = cut(packet, offload, pool, out);
    if result.is_err() {
        out.truncate(before);
    }
    result
}

fn cut<A: Allocator>(
    packet: &mut A::Buffer,
    offload: &Offload,
    pool: &mut A,
    out: &mut Vec<A::Buffer>,
) -> Result<(), DropReason> {
    let segmentation = offload.segmentation.ok_or(DropReason::Malformed)?;
    let layout = layout(packet.head(), &segmentation).ok_or(DropReason::Malformed)?;
    // Lengths and offsets have 16 bits; that of IPv6 does not count its own header.
    let uncounted = match layout.version {
        Version::V4 => layout.network,
        Version::V6 => layout.network + ipv6::HEADER,
    };
    if packet.len() > uncounted + ipv4::MAX_PACKET {
        return Err(DropReason::Malformed);
    }
    if segmentation.kind == SegmentKind::UdpFragments
        && let ChecksumState::Partial(partial) = offload.checksum
        && !complete_checksum(packet, partial)
    {
        return Err(DropReason::Malformed);
    }
    let first = out.len();
    copy_pieces(packet, &layout, pool, out)?;
    let pieces = out.get_mut(first..).unwrap_or_default();
    let last = pieces.len().saturating_sub(1);
    for (index, piece) in pieces.iter_mut().enumerate() {
        let place = Place {
            index,
            is_last: index == last,
        };
        finish(piece, place, &layout, segmentation.kind).ok_or(DropReason::Malformed)?;
    }
    Ok(())
}

/// Finds the headers; `None` if they are not what `segmentation` says.
fn layout(head: &[u8], segmentation: &Segmentation) -> Option<Layout> {
    let (ethertype, network) = ethernet::carried(head)?;
    let first = *head.get(network)?;
    let (version, length, protocol) = match (ethertype, first >> 4) {
        (ethernet::IPV4, 4) if first & 0xf >= 5 => (
            Version::V4,
            usize::from(first & 0xf) * 4,
            *head.get(network + 9)?,
        ),
        // Behind extension headers it is unknown what is to be counted and summed.
        (ethernet::IPV6, 6) => (Version::V6, ipv6::HEADER, *head.get(network + 6)?),
        _ => return None,
    };
    let transport = network + length;
    let headers = usize::from(segmentation.header_length);
    let (repeated, is_right) = match segmentation.kind {
        SegmentKind::Tcp { .. } => (
            headers,
            protocol == ipv4::TCP && headers >= transport + TCP_HEADER,
        ),
        SegmentKind::Udp => (
            headers,
            protocol == ipv4::UDP && headers == transport + udp::HEADER,
        ),
        SegmentKind::UdpFragments => {
            let is_whole = version == Version::V4 && segmentation.size.is_multiple_of(8);
            (
                transport,
                is_whole && protocol == ipv4::UDP && headers == transport + udp::HEADER,
            )
        }
    };
    (is_right && segmentation.size > 0 && head.len() >= headers).then_some(Layout {
        version,
        network,
        transport,
        repeated,
        size: usize::from(segmentation.size),
    })
}

/// Copies headers and payload into pieces: one pass over the packet.
fn copy_pieces<A: Allocator>(
    packet: &A::Buffer,
    layout: &Layout,
    pool: &mut A,
    out: &mut Vec<A::Buffer>,
) -> Result<(), DropReason> {
    let header = packet.head().get(..layout.repeated).unwrap_or_default();
    let mut left = packet.len().saturating_sub(layout.repeated);
    let mut skip = layout.repeated;
    let mut result = begin(header, layout.size.min(left), pool, out);
    let mut room = layout.size;
    packet.for_each_segment(|bytes| {
        let skipped = skip.min(bytes.len());
        skip -= skipped;
        let mut bytes = bytes.get(skipped..).unwrap_or_default();
        while !bytes.is_empty() && result.is_ok() {
            if room == 0 {
                room = layout.size;
                result = begin(header, room.min(left), pool, out);
            }
            let (now, later) = bytes.split_at(bytes.len().min(room));
            if !out.last_mut().is_some_and(|piece| extend(piece, now, pool)) {
                result = Err(DropReason::PoolEmpty);
            }
            room -= now.len();
            left -= now.len();
            bytes = later;
        }
    });
    result
}

/// Puts a piece behind `out` that holds the headers and has room for `length` bytes more, in one
/// segment if there are such.
fn begin<A: Allocator>(
    header: &[u8],
    length: usize,
    pool: &mut A,
    out: &mut Vec<A::Buffer>,
) -> Result<(), DropReason> {
    let piece = allocate_up_to(pool, header.len() + length);
    let (mut piece, _) = piece.ok_or(DropReason::PoolEmpty)?;
    if !piece.extend_from_slice(header) {
        return Err(DropReason::PoolEmpty);
    }
    out.push(piece);
    Ok(())
}

/// A piece among the others.
#[derive(Debug, Clone, Copy)]
struct Place {
    index: usize,
    is_last: bool,
}

/// Makes the headers of a piece, which still are those of the whole packet, its own.
fn finish<B: Buffer>(
    piece: &mut B,
    place: Place,
    layout: &Layout,
    kind: SegmentKind,
) -> Option<()> {
    let length = piece.len();
    match kind {
        SegmentKind::Tcp { .. } => {
            finish_network(piece.head_mut(), length, place.index, layout)?;
            finish_tcp(piece, place, layout)
        }
        SegmentKind::Udp => {
            finish_network(piece.head_mut(), length, place.index, layout)?;
            let datagram = (length.checked_sub(layout.transport)? as u16).to_be_bytes();
            let field = layout.transport + 4;
            piece
                .head_mut()
                .get_mut(field..field + 2)?
                .copy_from_slice(&datagram);
            finish_checksum(piece, layout, 6, ipv4::UDP)
        }
        SegmentKind::UdpFragments => finish_fragment(piece.head_mut(), length, place, layout),
    }
}

/// Length and identification of the IP header.
fn finish_network(head: &mut [u8], length: usize, index: usize, layout: &Layout) -> Option<()> {
    let network = head.get_mut(layout.network..layout.transport)?;
    let packet = length.checked_sub(layout.network)?;
    match layout.version {
        Version::V4 => {
            network
                .get_mut(2..4)?
                .copy_from_slice(&(packet as u16).to_be_bytes());
            let id = u16::from_be_bytes(*network.get(4..)?.first_chunk()?);
            let id = id.wrapping_add(index as u16);
            network.get_mut(4..6)?.copy_from_slice(&id.to_be_bytes());
            finish_network_checksum(network)
        }
        Version::V6 => {
            let payload = packet.checked_sub(ipv6::HEADER)? as u16;
            network
                .get_mut(4..6)?
                .copy_from_slice(&payload.to_be_bytes());
            Some(())
        }
    }
}

fn finish_network_checksum(network: &mut [u8]) -> Option<()> {
    network.get_mut(10..12)?.fill(0);
    let sum = checksum::checksum(network);
    network.get_mut(10..12)?.copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// Sequence number, flags and checksum of a TCP segment.
fn finish_tcp<B: Buffer>(piece: &mut B, place: Place, layout: &Layout) -> Option<()> {
    let segment = piece.head_mut().get_mut(layout.transport..)?;
    let before = (place.index as u32).wrapping_mul(layout.size as u32);
    let sequence = u32::from_be_bytes(*segment.get(4..)?.first_chunk()?).wrapping_add(before);
    segment
        .get_mut(4..8)?
        .copy_from_slice(&sequence.to_be_bytes());
    let flags = segment.get_mut(TCP_FLAGS)?;
    if !place.is_last {
        *flags &= !LAST_FLAGS;
    }
    if place.index > 0 {
        *flags &= !CWR;
    }
    finish_checksum(piece, layout, 16, ipv4::TCP)
}

/// Offset and flags of an IPv4 fragment. The checksum of the datagram is complete.
fn finish_fragment(head: &mut [u8], length: usize, place: Place, layout: &Layout) -> Option<()> {
    let network = head.get_mut(layout.network..layout.transport)?;
    let packet = length.checked_sub(layout.network)? as u16;
    let more = u16::from(!place.is_last) << 13;
    let offset = (place.index * layout.size / 8) as u16;
    network
        .get_mut(2..4)?
        .copy_from_slice(&packet.to_be_bytes());
    network
        .get_mut(6..8)?
        .copy_from_slice(&(more | offset).to_be_bytes());
    finish_network_checksum(network)
}

/// Writes the pseudo-header's sum into the checksum field, which is at `offset` of the transport
/// header, and completes it.
fn finish_checksum<B: Buffer>(
    piece: &mut B,
    layout: &Layout,
    offset: usize,
    protocol: u8,
) -> Option<()> {
    let length = piece.len().checked_sub(layout.transport)?;
    let head = piece.head_mut();
    let addresses = match layout.version {
        Version::V4 => head.get(layout.network + 12..layout.network + 20)?,
        Version::V6 => head.get(layout.network + 8..layout.network + ipv6::HEADER)?,
    };
    let sum = pseudo_header_sum(addresses, protocol, length);
    let field = layout.transport + offset;
    head.get_mut(field..field + 2)?
        .copy_from_slice(&sum.to_be_bytes());
    let partial = PartialChecksum {
        start: layout.transport as u16,
        offset: offset as u16,
    };
    // Zero says that there is no checksum in UDP alone (RFC 768).
    let zero = if protocol == ipv4::UDP { 0xffff } else { 0 };
    complete(piece, partial, zero).then_some(())
}

/// The sum of a pseudo-header (RFC 768, RFC 8200 section 8.1), not complemented: what the field of
/// a partial checksum holds. `addresses` are source and destination of either version.
pub(super) fn pseudo_header_sum(addresses: &[u8], protocol: u8, length: usize) -> u16 {
    let mut sum = checksum::Checksum::new();
    sum.add(addresses);
    sum.add(&(length as u32).to_be_bytes());
    sum.add(&[0, 0, 0, protocol]);
    !sum.finish()
}
