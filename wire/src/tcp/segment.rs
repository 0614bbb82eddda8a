//! Segments as they enter and leave the engine.

use std::net::IpAddr;

use super::checksum;
use super::flow::Flow;
use super::header::{COMMON, HEADER, TcpFlags, TcpHeader};
use super::payload::{Attach, SharedPayload};
use super::sequence::SeqNumber;
use crate::buffer::{Allocator, Buffer};
use crate::drops::DropReason;
use crate::offload::{ChecksumState, Offload, PartialChecksum, SegmentKind, Segmentation};

/// Bytes of payload for which there is room behind a header, at most.
const MOST_COPIED: usize = 256;

/// A segment that arrived.
#[derive(Debug)]
pub struct Segment<B> {
    /// From whom to whom; `local` is the destination of the packet.
    pub flow: Flow,
    /// The header.
    pub header: TcpHeader,
    /// What is behind the header. Its headers may have become headroom.
    pub payload: B,
    /// The ECN bits of the IP header: 3 is "congestion experienced" (RFC 3168).
    pub ecn: u8,
    /// Segments as the sender sent them that were merged into this one; 1 if none were.
    pub merged: u16,
}

/// A segment while it is handled. What is long of it stays where it lies; so little is moved from
/// call to call.
#[derive(Debug)]
pub(crate) struct Handled<'a, B> {
    pub(crate) flow: &'a Flow,
    pub(crate) header: &'a mut TcpHeader,
    pub(crate) payload: B,
    pub(crate) ecn: u8,
    pub(crate) merged: u16,
}

impl<B: Buffer> Segment<B> {
    /// Reads a segment: `packet` is the IP payload, and begins with the TCP header. With
    /// `verify` its checksum must be right; leave it out where a device has verified it.
    ///
    /// # Errors
    /// `Malformed` if the header does not fit, `Checksum` if the checksum is wrong.
    pub fn parse(
        source: IpAddr,
        destination: IpAddr,
        ecn: u8,
        packet: B,
        verify: bool,
    ) -> Result<Self, DropReason> {
        if verify && !checksum::is_intact(source, destination, &packet) {
            return Err(DropReason::Checksum);
        }
        let mut segment = Self::unread(packet);
        segment.read((source, destination), ecn, 0)?;
        Ok(segment)
    }

    /// A segment whose payload is still the whole `packet`, and which says nothing else yet.
    #[inline]
    pub(crate) fn unread(packet: B) -> Self {
        Segment {
            flow: Flow::NOBODY,
            header: TcpHeader::default(),
            payload: packet,
            ecn: 0,
            merged: 1,
        }
    }

    /// Reads the header, which begins behind `start` bytes of the payload, and takes both off.
    ///
    /// # Errors
    /// `Malformed` if the header does not fit.
    #[inline]
    pub(crate) fn read(
        &mut self,
        (source, destination): (IpAddr, IpAddr),
        dscp_ecn: u8,
        start: usize,
    ) -> Result<(), DropReason> {
        let bytes = self.payload.head().get(start..).unwrap_or_default();
        let length = self.header.read(bytes)?;
        self.ecn = dscp_ecn & 3;
        let (local, remote) = (self.header.destination_port, self.header.source_port);
        self.flow = Flow::between((destination, local), (source, remote));
        self.payload.trim_front(start + length);
        Ok(())
    }
}

/// A segment to send. One is reused for all: the engine fills it in.
#[derive(Debug)]
pub struct Outgoing<S> {
    /// From whom to whom.
    pub flow: Flow,
    /// The header.
    pub header: TcpHeader,
    /// What is behind the header, in order.
    pub payload: Vec<S>,
    /// Payload bytes in each segment but the last, if this is to be split on its way out (TSO);
    /// 0 if the payload fits into one segment.
    pub segment_size: u16,
    /// The byte that holds DSCP (upper six bits) and ECN (lower two).
    pub dscp_ecn: u8,
}

impl<S: SharedPayload> Default for Outgoing<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: SharedPayload> Outgoing<S> {
    /// An empty one, for [`poll_transmit`](super::TcpEngine::poll_transmit) to fill in.
    pub fn new() -> Self {
        Outgoing {
            flow: Flow::NOBODY,
            header: TcpHeader::default(),
            payload: Vec::new(),
            segment_size: 0,
            dscp_ecn: 0,
        }
    }

    /// Bytes of payload.
    pub fn payload_length(&self) -> usize {
        self.payload.iter().map(|part| part.as_ref().len()).sum()
    }

    /// How a device is to split this and to complete its checksum, behind `headers` bytes of
    /// Ethernet and IP; nothing if it is not to be split.
    pub fn offload(&self, headers: usize) -> Offload {
        if self.segment_size == 0 {
            return Offload::NONE;
        }
        let transport = HEADER + self.header.options.length();
        Offload {
            checksum: ChecksumState::Partial(PartialChecksum {
                start: headers as u16,
                offset: 16,
            }),
            segmentation: Some(Segmentation {
                kind: SegmentKind::Tcp {
                    ecn: self.header.flags.contains(TcpFlags::CWR),
                },
                size: self.segment_size,
                header_length: (headers + transport) as u16,
            }),
        }
    }

    /// Splits what is longer than a segment in software, as a device would (TSO): moves the first
    /// segment into `first`, and keeps the rest. False if what is left is one segment.
    ///
    /// FIN and PSH go with the last segment, CWR with the first (RFC 3168, section 6.1.2).
    pub fn split_first(&mut self, first: &mut Outgoing<S>) -> bool {
        let size = usize::from(self.segment_size);
        if size == 0 || self.payload_length() <= size {
            self.segment_size = 0;
            return false;
        }
        first.flow = self.flow;
        first.header = self.header;
        first.dscp_ecn = self.dscp_ecn;
        first.segment_size = 0;
        first.payload.clear();
        let last_only = TcpFlags::FIN.with(TcpFlags::PSH);
        first.header.flags = TcpFlags(self.header.flags.0 & !last_only.0);
        self.header.flags = TcpFlags(self.header.flags.0 & !TcpFlags::CWR.0);
        self.header.sequence = self.header.sequence + u32::from(self.segment_size);
        let mut left = size;
        self.payload.retain_mut(|part| {
            let length = part.as_ref().len();
            let taken = length.min(left);
            if taken > 0 {
                left -= taken;
                first.payload.push(part.slice(0, taken));
                *part = part.slice(taken, length);
            }
            taken < length
        });
        true
    }

    /// Makes the IP payload: the header with its checksum, in memory from `pool`, and the
    /// payload behind it. The payload leaves `self`. `None` if memory is short.
    ///
    /// A segment that is to be split carries the sum of the pseudo-header, for whoever splits it
    /// to complete.
    pub fn take_packet<A>(&mut self, pool: &mut A) -> Option<A::Buffer>
    where
        A: Allocator,
        A::Buffer: Attach<S>,
    {
        let payload = self.payload.iter().map(S::as_ref);
        let length = self.payload_length();
        // In numbers where that goes: bytes that were stored one by one have to be waited for
        // before they can be summed.
        let mut packet = if let Some(mut numbers) = self.header.common_numbers()
            && self.segment_size == 0
        {
            let sum = checksum::of_numbers(&self.flow, numbers, (length, payload));
            let [_, _, third, _] = &mut numbers;
            *third |= u64::from(sum) << 48;
            let mut bytes = [0; COMMON];
            for (room, number) in bytes.as_chunks_mut().0.iter_mut().zip(numbers) {
                *room = number.to_be_bytes();
            }
            allocate(pool, &bytes, length)
        } else {
            let (mut bytes, used) = self.header.to_bytes();
            let header = bytes.get_mut(..used)?;
            let sum = match self.segment_size {
                0 => checksum::of(&self.flow, header, (length, payload)),
                _ => checksum::partial(&self.flow, used + length),
            };
            header.get_mut(16..18)?.copy_from_slice(&sum.to_be_bytes());
            allocate(pool, header, length)
        };
        // It is not moved any more: a handle that was just changed has to be waited for.
        let mut parts = self.payload.drain(..);
        if !packet
            .as_mut()
            .is_some_and(|packet| parts.all(|part| packet.attach(part)))
        {
            packet = None;
        }
        packet
    }
}

/// Memory with `header`, and room for a short payload behind it, which may be copied there.
#[inline]
fn allocate<A: Allocator>(pool: &mut A, header: &[u8], payload: usize) -> Option<A::Buffer> {
    let mut packet = pool.allocate(header.len() + payload.min(MOST_COPIED));
    if !packet
        .as_mut()
        .is_some_and(|packet| packet.extend_from_slice(header))
    {
        packet = None;
    }
    packet
}

/// An ICMP error about a segment of ours (RFC 792, RFC 4443).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpIcmp {
    /// The flow of the segment that it cites.
    pub flow: Flow,
    /// The sequence number of that segment.
    pub sequence: SeqNumber,
    /// What it says.
    pub kind: TcpIcmpKind,
}

/// What an ICMP error says about a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TcpIcmpKind {
    /// It was longer than a link on the path, which takes IP packets of `mtu` bytes.
    TooBig {
        /// Bytes in an IP packet.
        mtu: u16,
    },
    /// The destination does not want it: protocol or port unreachable, or prohibited.
    Refused,
    /// It can not get there now: network or host unreachable, or time exceeded.
    Unreachable,
    /// Our own host says so: there is no route, or the neighbour does not answer. Nobody can have
    /// forged that, so an attempt to connect ends at once; an open connection goes on trying (RFC
    /// 1122, section 4.2.3.9).
    NoNeighbor,
}

#[cfg(test)]
mod tests;
