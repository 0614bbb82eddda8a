//! The common case of receiving, read straight from the frame: a whole UDP datagram in an
//! unfragmented IPv4 packet without options; that of TCP is in `tcp`.
//!
//! [`FastUdp::parse`] accepts nothing that the slow path would refuse, and reads the same values
//! (property-tested). What it does not accept, valid or not, is left to the slow path.

mod tcp;

use std::net::Ipv4Addr;

use crate::checksum;
use crate::mac::MacAddr;
use crate::{ethernet, ipv4, udp};

pub(super) use tcp::FastTcp;

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
    pub(super) payload: u16,
}

impl FastUdp {
    /// Whether both came from one socket and are for one socket address.
    #[inline]
    pub(super) fn is_same_flow(&self, other: &Self) -> bool {
        (self.source, self.source_port) == (other.source, other.source_port)
            && (self.destination, self.destination_port)
                == (other.destination, other.destination_port)
    }

    /// Reads `frame`, of which all bytes are given, if it is for the station `mac`.
    #[inline(always)]
    pub(super) fn parse(frame: &[u8], mac: MacAddr) -> Option<Self> {
        Self::parse_with::<true>(frame, mac)
    }

    /// As [`parse`](Self::parse), but the UDP checksum is not looked at: the device has verified
    /// it, or it was never completed.
    #[inline(never)]
    pub(super) fn parse_verified(frame: &[u8], mac: MacAddr) -> Option<Self> {
        Self::parse_with::<false>(frame, mac)
    }

    #[inline(always)]
    fn parse_with<const VERIFY: bool>(frame: &[u8], mac: MacAddr) -> Option<Self> {
        let headers = Headers::read(frame.first_chunk::<HEADERS>()?);
        let total = usize::from((headers.network[0] >> 32) as u16);
        let length = usize::from((headers.transport >> 16) as u16);
        let is_common = headers.is_plain_ipv4(mac)
            && (headers.network[1] >> 48) as u8 == ipv4::UDP
            && total == length + ipv4::HEADER
            && checksum::is_valid_sum(checksum::sum_numbers(headers.network));
        if !is_common {
            return None;
        }
        let payload = frame
            .get(HEADERS..)?
            .get(..length.checked_sub(udp::HEADER)?)?;
        let [_, hops, destination] = headers.network;
        if VERIFY && headers.transport as u16 != 0 {
            // The pseudo-header (RFC 768), the header, the payload.
            let source = u64::from(hops as u32);
            let kind_and_length = u64::from(ipv4::UDP) + length as u64;
            let bytes = checksum::sum_bytes(payload);
            let sum = [
                source,
                destination,
                kind_and_length,
                headers.transport,
                bytes,
            ];
            if !checksum::is_valid_sum(checksum::sum_numbers(sum)) {
                return None;
            }
        }
        Some(FastUdp {
            source: Ipv4Addr::from_bits(hops as u32),
            destination: Ipv4Addr::from_bits(destination as u32),
            source_port: (headers.transport >> 48) as u16,
            destination_port: (headers.transport >> 32) as u16,
            ttl: (hops >> 56) as u8,
            dscp_ecn: (headers.network[0] >> 48) as u8,
            payload: payload.len() as u16,
        })
    }
}

/// The headers in as few numbers as they can be loaded in.
struct Headers {
    /// The destination of the frame, in the upper 48 bits.
    station: u64,
    ethertype: u16,
    /// The IPv4 header: 8, 8 and 4 bytes.
    network: [u64; 3],
    /// The UDP header.
    transport: u64,
}

impl Headers {
    #[inline(always)]
    fn read(bytes: &[u8; HEADERS]) -> Self {
        Headers {
            station: u64::from_be_bytes(part::<0, 8>(bytes)) & !0xffff,
            ethertype: u16::from_be_bytes(part::<12, 2>(bytes)),
            network: [
                u64::from_be_bytes(part::<14, 8>(bytes)),
                u64::from_be_bytes(part::<22, 8>(bytes)),
                u64::from(u32::from_be_bytes(part::<30, 4>(bytes))),
            ],
            transport: u64::from_be_bytes(part::<34, 8>(bytes)),
        }
    }

    /// Whether this is an IPv4 packet for the station `mac`, whole and without options.
    #[inline(always)]
    fn is_plain_ipv4(&self, mac: MacAddr) -> bool {
        self.station == u64::from_be_bytes(widen(mac.0))
            && self.ethertype == ethernet::IPV4
            // Version 4, no options; and no fragment: all but "don't fragment" is zero. (Of the
            // reserved flag the slow path takes no notice.)
            && self.network[0] & 0xff00_0000_0000_bfff == 0x4500_0000_0000_0000
    }
}

/// `LENGTH` bytes from `START` on. The compiler knows that they are there.
#[inline(always)]
fn part<const START: usize, const LENGTH: usize>(bytes: &[u8; HEADERS]) -> [u8; LENGTH] {
    let part = bytes.get(START..).and_then(|bytes| bytes.first_chunk());
    part.copied().unwrap_or([0; LENGTH])
}

/// The address, and two bytes of zero.
#[inline(always)]
fn widen([a, b, c, d, e, f]: [u8; 6]) -> [u8; 8] {
    [a, b, c, d, e, f, 0, 0]
}

#[cfg(test)]
mod tests;
