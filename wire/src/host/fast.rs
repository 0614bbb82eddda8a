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
        let (to, rest) = frame.split_first_chunk::<6>()?;
        let (link, packet) = rest.split_first_chunk::<8>()?;
        let [.., 0x08, 0x00] = link else {
            return None;
        };
        let (header, rest) = packet.split_first_chunk::<{ ipv4::HEADER }>()?;
        let [
            0x45,
            dscp_ecn,
            l0,
            l1,
            _,
            _,
            f0,
            f1,
            ttl,
            ipv4::UDP,
            _,
            _,
            s0,
            s1,
            s2,
            s3,
            d0,
            d1,
            d2,
            d3,
        ] = *header
        else {
            return None;
        };
        let total = usize::from(u16::from_be_bytes([l0, l1]));
        let segment = rest.get(..total.checked_sub(ipv4::HEADER)?)?;
        let [p0, p1, q0, q1, u0, u1, c0, c1] = *segment.first_chunk::<{ udp::HEADER }>()?;
        let length = u16::from_be_bytes([u0, u1]);
        // The top bit of the flags is reserved, the next is "don't fragment".
        let is_whole = f0 & 0x3f == 0 && f1 == 0;
        if *to != mac.0
            || !is_whole
            || usize::from(length) != segment.len()
            || !checksum::is_valid(header)
        {
            return None;
        }
        let source = Ipv4Addr::new(s0, s1, s2, s3);
        let destination = Ipv4Addr::new(d0, d1, d2, d3);
        if [c0, c1] != [0, 0] {
            let mut sum = Checksum::pseudo_header(source, destination, ipv4::UDP, length);
            sum.add(segment);
            if !sum.is_valid() {
                return None;
            }
        }
        Some(FastUdp {
            source,
            destination,
            source_port: u16::from_be_bytes([p0, p1]),
            destination_port: u16::from_be_bytes([q0, q1]),
            ttl,
            dscp_ecn,
            payload: segment.len().checked_sub(udp::HEADER)?,
        })
    }
}

#[cfg(test)]
mod tests;
