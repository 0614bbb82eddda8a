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
    /// The Ethernet header, and two bytes more, so that it is copied at once.
    link: [u8; ethernet::HEADER + 2],
    /// The first 16 bytes of the IPv4 header, of a datagram without payload: no identification, no
    /// checksum, no source.
    network: [u64; 2],
    /// The sum over its fields, the destination among them. Much less than 2^64: fields of 32 bits
    /// can be added without a carry.
    network_sum: u64,
    /// The UDP header of such a datagram, without destination port and checksum.
    transport: u64,
    /// The sums over its fields, and over those of the pseudo-header.
    transport_sum: u64,
    pseudo_sum: u64,
}

impl Template {
    pub(super) fn new(path: &Path, local_port: u16, ttl: u8, dscp_ecn: u8) -> Self {
        const LENGTH: u64 = udp::HEADER as u64;
        const TOTAL: u64 = LENGTH + ipv4::HEADER as u64;
        let first = 0x4500_0000_0000_0000
            | u64::from(dscp_ecn) << 48
            | TOTAL << 32
            | u64::from(path.mtu.dont_fragment) << 14;
        let second = u64::from(ttl) << 56 | u64::from(ipv4::UDP) << 48;
        let peer = u64::from(path.destination.to_bits());
        Template {
            peer: path.destination,
            ttl,
            dscp_ecn,
            dont_fragment: path.mtu.dont_fragment,
            route_source: path.source,
            longest: path.mtu.mtu.saturating_sub(ipv4::HEADER + udp::HEADER),
            link: path.link,
            network: [first, second],
            network_sum: (first >> 32) + (first & 0xffff_ffff) + (second >> 48) + peer,
            transport: u64::from(local_port) << 48 | LENGTH << 16,
            transport_sum: u64::from(local_port) + LENGTH,
            pseudo_sum: peer + u64::from(ipv4::UDP) + LENGTH,
        }
    }

    /// Writes the headers of a datagram from `source` to `port`, with the identification `id`
    /// and a payload of `length` bytes, at most `longest`, whose sum is `payload`. Without that, the
    /// checksum is that of the pseudo-header alone, for the device to complete.
    #[inline(always)]
    pub(super) fn write(
        &self,
        room: &mut [u8; HEADERS],
        source: u32,
        port: u16,
        id: u16,
        (length, payload): (usize, Option<u64>),
    ) {
        let (source, port, id) = (u64::from(source), u64::from(port), u64::from(id));
        let length = length as u64;
        let [first, second] = self.network;
        let sum = checksum::finish_sum(self.network_sum + length + id + source);
        let first = first.wrapping_add(length << 32) | id << 16;
        let second = second | u64::from(sum) << 32 | source;
        let pseudo = self.pseudo_sum + length + source;
        let sum = match payload {
            Some(payload) => {
                let header = self.transport_sum + length + port;
                checksum::finish_udp_sum(checksum::sum_numbers([payload, pseudo + header]))
            }
            None => !checksum::finish_sum(pseudo),
        };
        let transport = self.transport.wrapping_add(length << 16) | port << 32 | u64::from(sum);
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
