//! The common case of TCP, read straight from the frame: a segment in an unfragmented IPv4 packet
//! without options.

use std::net::Ipv4Addr;

use super::{HEADERS, Headers};
use crate::checksum;
use crate::mac::MacAddr;
use crate::tcp::header::TcpHeader;
use crate::{ethernet, ipv4};

/// Bytes in front of the TCP header.
const IN_FRONT: usize = ethernet::HEADER + ipv4::HEADER;

/// A TCP segment that arrived: its fields, and where its payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::host) struct FastTcp {
    pub(in crate::host) source: Ipv4Addr,
    pub(in crate::host) destination: Ipv4Addr,
    pub(in crate::host) dscp_ecn: u8,
    pub(in crate::host) header: TcpHeader,
    /// Bytes of all headers.
    pub(in crate::host) headers: usize,
    /// Bytes of payload behind them.
    pub(in crate::host) payload: usize,
}

impl FastTcp {
    /// Reads `frame`, of which all bytes are given, if it is for the station `mac`.
    #[inline(always)]
    pub(in crate::host) fn parse(frame: &[u8], mac: MacAddr) -> Option<Self> {
        let headers = Headers::read(frame.first_chunk::<HEADERS>()?);
        let [first, hops, destination] = headers.network;
        let is_common = headers.is_plain_ipv4(mac) && (hops >> 48) as u8 == ipv4::TCP;
        if !is_common || !checksum::is_valid_sum(checksum::sum_numbers(headers.network)) {
            return None;
        }
        let length = usize::from((first >> 32) as u16).checked_sub(ipv4::HEADER)?;
        let segment = frame.get(IN_FRONT..)?.get(..length)?;
        // The pseudo-header (RFC 9293, section 3.1), and the segment.
        let source = u64::from(hops as u32);
        let kind_and_length = u64::from(ipv4::TCP) + length as u64;
        let bytes = checksum::sum_bytes(segment);
        let sum = [source, destination, kind_and_length, bytes];
        if !checksum::is_valid_sum(checksum::sum_numbers(sum)) {
            return None;
        }
        let (header, header_length) = TcpHeader::parse(segment).ok()?;
        Some(FastTcp {
            source: Ipv4Addr::from_bits(hops as u32),
            destination: Ipv4Addr::from_bits(destination as u32),
            dscp_ecn: (first >> 48) as u8,
            header,
            headers: IN_FRONT + header_length,
            payload: length - header_length,
        })
    }
}

#[cfg(test)]
mod tests;
