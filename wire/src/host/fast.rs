//! The common case of receiving, read straight from the frame: a whole UDP datagram in an
//! unfragmented IPv4 packet without options.
//!
//! [`FastUdp::parse`] accepts nothing that the slow path would refuse, and reads the same values
//! (property-tested). What it does not accept, valid or not, is left to the slow path.

use std::net::Ipv4Addr;

use crate::checksum::{self, Checksum};
use crate::mac::MacAddr;
use crate::{ethernet, ipv4, udp};

/// Bytes of Ethernet, IPv4 and UDP headers.
pub(super) const HEADERS: usize = ethernet::HEADER + ipv4::HEADER + udp::HEADER;

/// The fields of a UDP datagram that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FastUdp {
    pub(super) source: Ipv4Addr,
    pub(super) destination: Ipv4Addr,
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
    pub(super) ttl: u8,
    pub(super) dscp_ecn: u8,
    /// Bytes of UDP payload.
    pub(super) payload: usize,
}

impl FastUdp {
    /// Reads `frame`, of which all bytes are given, if it is for the station `mac`.
    #[inline]
    pub(super) fn parse(frame: &[u8], mac: MacAddr) -> Option<Self> {
        let (headers, _) = frame.split_first_chunk::<HEADERS>()?;
        let (to, rest) = headers.split_first_chunk::<6>()?;
        let (_, rest) = rest.split_first_chunk::<6>()?;
        let (kind, rest) = rest.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (fragment, rest) = rest.split_first_chunk::<2>()?;
        let (hops, rest) = rest.split_first_chunk::<4>()?;
        let (source, rest) = rest.split_first_chunk::<4>()?;
        let (destination, rest) = rest.split_first_chunk::<4>()?;
        let (source_port, rest) = rest.split_first_chunk::<2>()?;
        let (destination_port, rest) = rest.split_first_chunk::<2>()?;
        let (udp_length, rest) = rest.split_first_chunk::<2>()?;
        let udp_sum = rest.first_chunk::<2>()?;
        let header = frame
            .get(ethernet::HEADER..)?
            .first_chunk::<{ ipv4::HEADER }>()?;

        let [ether_high, ether_low, version, dscp_ecn] = *kind;
        let [total_high, total_low, _, _] = *length;
        let [ttl, protocol, _, _] = *hops;
        let total = usize::from(u16::from_be_bytes([total_high, total_low]));
        let end = ethernet::HEADER + total;
        let segment = frame.get(ethernet::HEADER + ipv4::HEADER..end)?;
        let udp_length = u16::from_be_bytes(*udp_length);
        // All but "don't fragment" is zero: the reserved flag, which the slow path ignores, too.
        let is_whole = u16::from_be_bytes(*fragment) & 0xbfff == 0;
        let is_ipv4 = u16::from_be_bytes([ether_high, ether_low]) == ethernet::IPV4;
        if *to != mac.0
            || !is_ipv4
            || version != 0x45
            || protocol != ipv4::UDP
            || !is_whole
            || usize::from(udp_length) != segment.len()
            || !checksum::is_header_valid(header)
        {
            return None;
        }
        let source = Ipv4Addr::from(*source);
        let destination = Ipv4Addr::from(*destination);
        if *udp_sum != [0, 0] {
            let mut sum = Checksum::pseudo_header(source, destination, ipv4::UDP, udp_length);
            sum.add(segment);
            if !sum.is_valid() {
                return None;
            }
        }
        Some(FastUdp {
            source,
            destination,
            source_port: u16::from_be_bytes(*source_port),
            destination_port: u16::from_be_bytes(*destination_port),
            ttl,
            dscp_ecn,
            payload: segment.len().checked_sub(udp::HEADER)?,
        })
    }
}

#[cfg(test)]
mod tests;
