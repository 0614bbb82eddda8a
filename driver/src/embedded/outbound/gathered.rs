//! What the driver sends: the header of a transmitted chain, and the frame behind it.

use super::super::backend::Packet;
use super::super::header::NetHeader;
use super::super::memory::GuestMemory;
use super::super::ring::{Chain, RingFault, Segment};

/// A transmitted chain.
pub(super) enum Gathered {
    /// Its header is in the packet, and, unless it stays where it is, so is the frame, of so many
    /// bytes.
    Frame(usize),
    /// Not looked at: this many bytes are too many.
    TooLong(usize),
}

/// Reads the header of a transmitted buffer into `packet`, however the driver split it (section
/// 2.7.4). The frame stays where it is.
pub(super) fn outline(
    memory: &GuestMemory,
    chain: &Chain,
    longest: usize,
    packet: &mut Packet,
) -> Result<Gathered, RingFault> {
    let Some(frame_length) = frame_length(chain) else {
        return Err(RingFault::Buffer);
    };
    if frame_length > longest {
        return Ok(Gathered::TooLong(frame_length));
    }
    let header = read_header(memory, chain.readable()).ok_or(RingFault::Address)?;
    packet.header = NetHeader::from_bytes(header);
    Ok(Gathered::Frame(frame_length))
}

/// The bytes of the header in front of `segments`, which have as many.
fn read_header(memory: &GuestMemory, segments: &[Segment]) -> Option<[u8; NetHeader::LENGTH]> {
    let mut header = [0; NetHeader::LENGTH];
    let mut rest = &mut header[..];
    for segment in segments {
        let (part, later) = rest.split_at_mut(segment.length.min(rest.len()));
        rest = later;
        if !memory.read_exact(segment.offset, part) {
            return None;
        }
        if rest.is_empty() {
            break;
        }
    }
    Some(header)
}

/// Bytes of the frame behind the header; `None` if the chain is none for sending.
fn frame_length(chain: &Chain) -> Option<usize> {
    let length = chain.readable_bytes().checked_sub(NetHeader::LENGTH);
    length.filter(|_| chain.writable().is_empty())
}

/// As [`outline`], and copies the frame into `packet` too.
#[inline(always)]
pub(super) fn gather(
    memory: &GuestMemory,
    chain: &Chain,
    longest: usize,
    packet: &mut Packet,
) -> Result<Gathered, RingFault> {
    packet.bytes.clear();
    match (chain.readable(), frame_length(chain)) {
        // Most frames lie in one piece.
        (&[Segment { offset, .. }], Some(length)) if length <= longest => {
            let header = memory.read_behind(offset, length, &mut packet.bytes);
            packet.header = NetHeader::from_bytes(header.ok_or(RingFault::Address)?);
            Ok(Gathered::Frame(length))
        }
        _ => gather_pieces(memory, chain, longest, packet),
    }
}

/// As [`gather`], of a frame in several pieces, or of one that is not taken.
#[inline(never)]
fn gather_pieces(
    memory: &GuestMemory,
    chain: &Chain,
    longest: usize,
    packet: &mut Packet,
) -> Result<Gathered, RingFault> {
    let outlined = outline(memory, chain, longest, packet)?;
    if matches!(outlined, Gathered::TooLong(_)) {
        return Ok(outlined);
    }
    let mut header = NetHeader::LENGTH;
    for &Segment { offset, length } in chain.readable() {
        let skipped = header.min(length);
        header -= skipped;
        if !memory.read(offset + skipped, length - skipped, &mut packet.bytes) {
            return Err(RingFault::Address);
        }
    }
    Ok(outlined)
}
