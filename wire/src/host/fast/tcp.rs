//! The common case of TCP, read straight from the frame: a segment in an unfragmented IPv4 packet
//! without options.

use std::net::Ipv4Addr;

use super::{HEADERS, Headers};
use crate::checksum;
use crate::mac::MacAddr;
use crate::{ethernet, ipv4};

/// A TCP segment that arrived: whose it is, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::host) struct FastTcp {
    pub(in crate::host) source: Ipv4Addr,
    pub(in crate::host) destination: Ipv4Addr,
    pub(in crate::host) dscp_ecn: u8,
    /// Bytes of the segment, its header included.
    pub(in crate::host) length: usize,
}

impl FastTcp {
    /// Bytes in front of the TCP header.
    pub(in crate::host) const IN_FRONT: usize = ethernet::HEADER + ipv4::HEADER;

    /// Looks at `frame`, of which all bytes are given, if it is for the station `mac`. Its
    /// TCP header is still to be read.
    #[inline]
    pub(in crate::host) fn parse(frame: &[u8], mac: MacAddr) -> Option<Self> {
        Self::parse_with::<true>(frame, mac)
    }

    /// As [`parse`](Self::parse), but the TCP checksum is not looked at: the device has verified it,
    /// or it was never completed.
    #[inline(never)]
    pub(in crate::host) fn parse_verified(frame: &[u8], mac: MacAddr) -> Option<Self> {
        Self::parse_with::<false>(frame, mac)
    }

    #[inline(always)]
    fn parse_with<const VERIFY: bool>(frame: &[u8], mac: MacAddr) -> Option<Self> {
        let headers = Headers::read(frame.first_chunk::<HEADERS>()?);
        let [first, hops, destination] = headers.network;
        let is_common = headers.is_plain_ipv4(mac) && (hops >> 48) as u8 == ipv4::TCP;
        if !is_common || !checksum::is_valid_sum(checksum::sum_numbers(headers.network)) {
            return None;
        }
        let length = usize::from((first >> 32) as u16).checked_sub(ipv4::HEADER)?;
        let segment = frame.get(Self::IN_FRONT..)?.get(..length)?;
        if VERIFY {
            // The pseudo-header (RFC 9293, section 3.1), and the segment.
            let source = u64::from(hops as u32);
            let kind_and_length = u64::from(ipv4::TCP) + length as u64;
            let bytes = checksum::sum_bytes(segment);
            let sum = [source, destination, kind_and_length, bytes];
            if !checksum::is_valid_sum(checksum::sum_numbers(sum)) {
                return None;
            }
        }
        Some(FastTcp {
            source: Ipv4Addr::from_bits(hops as u32),
            destination: Ipv4Addr::from_bits(destination as u32),
            dscp_ecn: (first >> 48) as u8,
            length,
        })
    }
}

#[cfg(test)]
mod tests;
