//! The headers of UDP datagrams to one host, of which most is the same each time.

use std::net::Ipv4Addr;

use super::paths::Path;
use crate::checksum;
use crate::{ethernet, ipv4, udp};

/// Bytes in front of the payload.
pub(super) const HEADERS: usize = ethernet::HEADER + ipv4::HEADER + udp::HEADER;

/// What the headers of unfragmented datagrams from one port to one host have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Template {
    pub(super) peer: Ipv4Addr,
    pub(super) ttl: u8,
    pub(super) dscp_ecn: u8,
    /// Whether no router may fragment them.
    pub(super) dont_fragment: bool,
    /// Our address on the route.
    pub(super) route_source: Ipv4Addr,
    /// The longest payload in bytes that fits into one packet.
    pub(super) longest: usize,
    local_port: u16,
    /// The Ethernet header, and two bytes more, so that it is copied at once.
    link: [u8; ethernet::HEADER + 2],
    /// The first 8 bytes of the IPv4 header, without total length and identification.
    network: u64,
    /// The sum over the fields of the IPv4 header that are known. Much less than 2^64: fields of
    /// 32 bits can be added without a carry.
    network_sum: u64,
    /// The same for the pseudo-header and the UDP header.
    transport_sum: u64,
}

impl Template {
    pub(super) fn new(path: &Path, local_port: u16, ttl: u8, dscp_ecn: u8) -> Self {
        let network = 0x4500_0000_0000_0000
            | u64::from(dscp_ecn) << 48
            | u64::from(path.mtu.dont_fragment) << 14;
        let peer = u64::from(path.destination.to_bits());
        Template {
            peer: path.destination,
            ttl,
            dscp_ecn,
            dont_fragment: path.mtu.dont_fragment,
            route_source: path.source,
            longest: path.mtu.mtu.saturating_sub(ipv4::HEADER + udp::HEADER),
            local_port,
            link: path.link,
            network,
            network_sum: (network >> 48)
                + (network & 0xffff)
                + (u64::from(ttl) << 8 | u64::from(ipv4::UDP))
                + peer,
            transport_sum: peer + u64::from(ipv4::UDP) + u64::from(local_port),
        }
    }

    /// Writes the headers of a datagram from `source` to `port`, with the identification `id`
    /// and a payload of `length` bytes, at most `longest`, whose sum is `payload`.
    #[inline(always)]
    pub(super) fn write(
        &self,
        room: &mut [u8; HEADERS],
        source: Ipv4Addr,
        port: u16,
        id: u16,
        (length, payload): (usize, u64),
    ) {
        let source = u64::from(source.to_bits());
        let length = (length + udp::HEADER) as u64;
        let total = length + ipv4::HEADER as u64;
        let sum = checksum::finish_sum(self.network_sum + total + u64::from(id) + source);
        let first = self.network | total << 32 | u64::from(id) << 16;
        let second =
            u64::from(self.ttl) << 56 | u64::from(ipv4::UDP) << 48 | u64::from(sum) << 32 | source;
        // The length counts twice: in the pseudo-header and in the header (RFC 768).
        let known = self.transport_sum + 2 * length + u64::from(port) + source;
        let sum = checksum::finish_udp_sum(checksum::sum_numbers([payload, known]));
        let transport = u64::from(self.local_port) << 48
            | u64::from(port) << 32
            | length << 16
            | u64::from(sum);
        // All of it in one store; the IPv4 header then covers what is too much.
        put::<0, { ethernet::HEADER + 2 }>(room, self.link);
        put::<14, 8>(room, first.to_be_bytes());
        put::<22, 8>(room, second.to_be_bytes());
        put::<30, 4>(room, self.peer.octets());
        put::<34, 8>(room, transport.to_be_bytes());
    }
}

/// Writes `bytes` at `START`. The compiler knows that there is room.
#[inline(always)]
fn put<const START: usize, const LENGTH: usize>(room: &mut [u8; HEADERS], bytes: [u8; LENGTH]) {
    let place = room
        .get_mut(START..)
        .and_then(|room| room.first_chunk_mut());
    if let Some(place) = place {
        *place = bytes;
    }
}
