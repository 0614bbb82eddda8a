//! IPv4 headers (RFC 791), validated as RFC 1122 section 3.2.1 asks.

use std::net::Ipv4Addr;

use etherparse::Ipv4HeaderSlice;

use crate::checksum;
use crate::drops::DropReason;

/// Bytes in an IPv4 header without options.
pub const HEADER: usize = 20;

/// The longest IPv4 packet in bytes.
pub const MAX_PACKET: usize = 65_535;

/// The smallest MTU in bytes that a link may have (RFC 791, section 3.2).
pub const MIN_MTU: usize = 68;

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;

/// Protocol number of TCP.
pub const TCP: u8 = 6;

/// Protocol number of UDP.
pub const UDP: u8 = 17;

/// Option type of a loose source route.
const LOOSE_SOURCE_ROUTE: u8 = 131;
/// Option type of a strict source route.
const STRICT_SOURCE_ROUTE: u8 = 137;

/// The fields of an IPv4 header, by value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4Header {
    /// Who sent the packet.
    pub source: Ipv4Addr,
    /// Whom it is for.
    pub destination: Ipv4Addr,
    /// What it carries.
    pub protocol: u8,
    /// How many more hops it may take.
    pub ttl: u8,
    /// The byte that holds DSCP (upper six bits) and ECN (lower two).
    pub dscp_ecn: u8,
    /// Identification: equal in all fragments of one datagram.
    pub id: u16,
    /// Whether routers must not fragment the packet.
    pub dont_fragment: bool,
    /// Whether a further fragment follows this one.
    pub more_fragments: bool,
    /// Where in its datagram the payload begins, in bytes; a multiple of 8.
    pub fragment_offset: usize,
    /// Bytes in the header with its options: 20 to 60.
    pub header_length: usize,
    /// Bytes in the packet, header and payload.
    pub total_length: usize,
}

impl Ipv4Header {
    /// Reads the header at the front of `head`, the first segment of a packet of `length` bytes
    /// (which may be more than `total_length`: Ethernet pads short frames).
    ///
    /// # Errors
    /// `Malformed` if a field contradicts another or the packet's length, `Checksum` if the
    /// header checksum is wrong, `SourceRoute` if an option asks for a source route.
    pub fn parse(head: &[u8], length: usize) -> Result<Self, DropReason> {
        let slice = Ipv4HeaderSlice::from_slice(head).map_err(|_| DropReason::Malformed)?;
        let header_length = slice.slice().len();
        let total_length = usize::from(slice.total_len());
        if total_length < header_length || total_length > length {
            return Err(DropReason::Malformed);
        }
        if !checksum::is_valid(slice.slice()) {
            return Err(DropReason::Checksum);
        }
        check_options(slice.options())?;
        Ok(Ipv4Header {
            source: slice.source_addr(),
            destination: slice.destination_addr(),
            protocol: slice.protocol().0,
            ttl: slice.ttl(),
            dscp_ecn: slice.dcp().value() << 2 | slice.ecn().value(),
            id: slice.identification(),
            dont_fragment: slice.dont_fragment(),
            more_fragments: slice.more_fragments(),
            fragment_offset: usize::from(slice.fragments_offset().value()) * 8,
            header_length,
            total_length,
        })
    }

    /// Whether the packet is a part of a datagram.
    pub fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset != 0
    }

    /// Bytes behind the header.
    pub fn payload_length(&self) -> usize {
        self.total_length.saturating_sub(self.header_length)
    }

    /// The header without options as it goes on the wire, its checksum included.
    /// `header_length` is taken to be 20; lengths are cut to 16 bits.
    #[inline]
    pub fn to_bytes(&self) -> [u8; HEADER] {
        let fragment = u16::from(self.dont_fragment) << 14
            | u16::from(self.more_fragments) << 13
            | (self.fragment_offset / 8) as u16 & 0x1fff;
        let first = 0x45 << 56
            | u64::from(self.dscp_ecn) << 48
            | u64::from(self.total_length as u16) << 32
            | u64::from(self.id) << 16
            | u64::from(fragment);
        let second = u64::from(self.ttl) << 56
            | u64::from(self.protocol) << 48
            | u64::from(self.source.to_bits());
        let destination = self.destination.to_bits();
        let sum = checksum::sum_numbers([first, second, destination.into()]);
        let second = second | u64::from(checksum::finish_sum(sum)) << 32;
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&first.to_be_bytes());
        bytes[8..16].copy_from_slice(&second.to_be_bytes());
        bytes[16..].copy_from_slice(&destination.to_be_bytes());
        bytes
    }
}

/// Options are accepted and ignored (RFC 1122, section 3.2.1.8), except that their lengths must
/// make sense and that a source route is refused: a host must not forward, and replies would
/// follow a path that the sender chose.
fn check_options(mut options: &[u8]) -> Result<(), DropReason> {
    while let Some((kind, rest)) = options.split_first() {
        match *kind {
            0 => return Ok(()),
            1 => options = rest,
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return Err(DropReason::SourceRoute),
            _ => {
                let length = rest.first().copied().map_or(0, usize::from);
                if length < 2 {
                    return Err(DropReason::Malformed);
                }
                options = options.get(length..).ok_or(DropReason::Malformed)?;
            }
        }
    }
    Ok(())
}
