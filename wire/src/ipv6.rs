//! IPv6 headers and extension headers (RFC 8200).

mod extensions;

use std::net::Ipv6Addr;

use etherparse::Ipv6HeaderSlice;

use crate::drops::DropReason;

pub use extensions::{Extensions, Fragment, MOST_EXTENSIONS, Problem};

/// Bytes in an IPv6 header without extension headers.
pub const HEADER: usize = 40;

/// Bytes in a fragment header (RFC 8200, section 4.5).
pub const FRAGMENT_HEADER: usize = 8;

/// The longest payload of an IPv6 packet in bytes, extension headers included.
pub const MAX_PAYLOAD: usize = 65_535;

/// The smallest MTU in bytes that a link may have (RFC 8200, section 5).
pub const MIN_MTU: usize = 1280;

/// Next header: hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;

/// Next header: routing.
pub const ROUTING: u8 = 43;

/// Next header: fragment.
pub const FRAGMENT: u8 = 44;

/// Next header: ICMPv6.
pub const ICMP: u8 = 58;

/// Next header: there is none (RFC 8200, section 4.7).
pub const NO_NEXT_HEADER: u8 = 59;

/// Next header: destination options.
pub const DESTINATION_OPTIONS: u8 = 60;

/// Where in an IPv6 header the byte is that names what follows.
pub const NEXT_HEADER: usize = 6;

/// The fields of an IPv6 header, by value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Header {
    /// Who sent the packet.
    pub source: Ipv6Addr,
    /// Whom it is for.
    pub destination: Ipv6Addr,
    /// What follows the header: an extension header, or a transport.
    pub next_header: u8,
    /// How many more hops it may take.
    pub hop_limit: u8,
    /// The byte that holds DSCP (upper six bits) and ECN (lower two): the traffic class.
    pub dscp_ecn: u8,
    /// What tells flows apart for routers (RFC 6437): 20 bits, 0 if unused.
    pub flow_label: u32,
    /// Bytes in the packet, header and payload.
    pub total_length: usize,
}

impl Ipv6Header {
    /// Reads the header at the front of `head`, the first segment of a packet of `length` bytes
    /// (which may be more than `total_length`: Ethernet pads short frames).
    ///
    /// # Errors
    /// `Malformed` if it is no IPv6 header, or names more bytes than the packet has.
    pub fn parse(head: &[u8], length: usize) -> Result<Self, DropReason> {
        let slice = Ipv6HeaderSlice::from_slice(head).map_err(|_| DropReason::Malformed)?;
        let total_length = HEADER + usize::from(slice.payload_length());
        if total_length > length {
            return Err(DropReason::Malformed);
        }
        Ok(Ipv6Header {
            source: slice.source_addr(),
            destination: slice.destination_addr(),
            next_header: slice.next_header().0,
            hop_limit: slice.hop_limit(),
            dscp_ecn: slice.traffic_class(),
            flow_label: slice.flow_label().value(),
            total_length,
        })
    }

    /// The header as it goes on the wire. The flow label is cut to 20 bits, the length to 16.
    #[inline]
    pub fn to_bytes(&self) -> [u8; HEADER] {
        let first = 6 << 28 | u32::from(self.dscp_ecn) << 20 | self.flow_label & 0xf_ffff;
        let payload = self.total_length.saturating_sub(HEADER) as u16;
        let mut bytes = [0; HEADER];
        let (fixed, addresses) = bytes.split_at_mut(8);
        let (source, destination) = addresses.split_at_mut(16);
        let number = u64::from(first) << 32
            | u64::from(payload) << 16
            | u64::from(self.next_header) << 8
            | u64::from(self.hop_limit);
        fixed.copy_from_slice(&number.to_be_bytes());
        source.copy_from_slice(&self.source.octets());
        destination.copy_from_slice(&self.destination.octets());
        bytes
    }
}

/// Whether a host can have `address` (RFC 4291): neither the unspecified nor the loopback address,
/// no multicast group, and no IPv4 address in disguise.
#[inline]
pub fn is_unicast(address: Ipv6Addr) -> bool {
    !address.is_unspecified()
        && !address.is_loopback()
        && !address.is_multicast()
        && address.to_ipv4_mapped().is_none()
}

#[cfg(test)]
mod tests;
