//! ICMPv6 (RFC 4443): answers echo requests, reports errors within the rate that IPv4 shares, and
//! passes received errors on to the sockets and connections that they concern.

use std::net::{Ipv6Addr, SocketAddrV6};

use super::super::Host;
use super::super::icmp::{Cited, quote};
use super::super::output::Outgoing;
use super::super::receive::{Link, add_range};
use super::receive::Arrival;
use crate::buffer::{Allocator, Buffer};
use crate::checksum::Checksum;
use crate::drops::DropReason;
use crate::ipv6::{self, Extensions, Ipv6Header};
use crate::tcp::TcpIcmpKind;
use crate::time::Instant;
use crate::udp::UdpErrorKind;
use crate::{icmp6, ipv4};

/// Bytes of the original packet in an error: with headers the packet is as long as every link
/// takes (RFC 4443, section 2.4 (c)).
const QUOTE: usize = ipv6::MIN_MTU - ipv6::HEADER - icmp6::HEADER;

/// [`QUOTE`] and the ICMPv6 header.
const ERROR: usize = icmp6::HEADER + QUOTE;

/// What an error says.
#[derive(Debug, Clone, Copy)]
struct Said {
    kind: u8,
    code: u8,
    /// An MTU or a pointer.
    word: u32,
}

impl<B: Buffer> Host<B> {
    pub(super) fn receive_icmp_v6<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        packet: B,
        arrival: &Arrival,
        chain: &Extensions,
        pool: &mut A,
    ) {
        let (header, start) = (&arrival.header, chain.header_length);
        let message = packet.head().get(start..).unwrap_or_default();
        let Some([kind, code, _, _, word @ ..]) = message.first_chunk::<{ icmp6::HEADER }>() else {
            return self.drop_received(DropReason::Malformed);
        };
        let said = Said {
            kind: *kind,
            code: *code,
            word: u32::from_be_bytes(*word),
        };
        if !sum_of(&packet, start, (header.source, header.destination)).is_valid() {
            return self.drop_received(DropReason::Checksum);
        }
        if header.source.is_unspecified() && said.kind != icmp6::NEIGHBOR_SOLICITATION {
            return self.drop_received(DropReason::BadSource);
        }
        let outcome = match said.kind {
            icmp6::ECHO_REQUEST => return self.echo_v6(now, packet, arrival, start, pool),
            icmp6::NEIGHBOR_SOLICITATION => self.receive_solicitation(now, message, arrival, pool),
            icmp6::UNREACHABLE
            | icmp6::PACKET_TOO_BIG
            | icmp6::TIME_EXCEEDED
            | icmp6::PARAMETER_PROBLEM
                if !arrival.is_group =>
            {
                let body = message.get(icmp6::HEADER..).unwrap_or_default();
                Cited::parse_v6(body).and_then(|cited| self.receive_error_v6(now, &cited, said))
            }
            _ => Err(DropReason::IcmpIgnored),
        };
        match outcome {
            Ok(()) => self.counters.consumed += 1,
            Err(reason) => self.drop_received(reason),
        }
    }

    /// Answers an echo request with the memory that it came in. One to a group is answered too
    /// (RFC 4443, section 4.2), from an address of ours.
    fn echo_v6<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        mut packet: B,
        arrival: &Arrival,
        start: usize,
        pool: &mut A,
    ) {
        let header = &arrival.header;
        self.counters.consumed += 1;
        let source = match arrival.is_group {
            true => self.v6.addresses.source_for(header.source),
            false => Some(header.destination),
        };
        let Some(source) = source else {
            return self.drop_sent(DropReason::NoRoute);
        };
        packet.trim_front(start);
        if let Some(front) = packet.head_mut().first_chunk_mut::<4>() {
            *front = [icmp6::ECHO_REPLY, 0, 0, 0];
        }
        let sum = sum_of(&packet, 0, (source, header.source));
        if let Some(field) = packet.head_mut().get_mut(2..4) {
            field.copy_from_slice(&sum.finish().to_be_bytes());
        }
        let outgoing = Outgoing {
            source,
            destination: header.source,
            protocol: ipv6::ICMP,
            ttl: self.ttl,
            // As over IPv4: the same class; its ECN bits mean the path.
            dscp_ecn: header.dscp_ecn & 0xfc,
            sender: None,
        };
        match self.send_message(now, &outgoing, packet, pool) {
            Ok(()) => self.counters.echo_replies += 1,
            Err(reason) => self.drop_sent(reason),
        }
    }

    /// Reports an error, given as type, code and the word behind them, about `packet` to its
    /// sender, if RFC 4443 section 2.4 (e) allows: never about an ICMPv6 error, a packet to a
    /// group, or a source that is no single host.
    pub(super) fn send_error_v6<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        packet: &B,
        arrival: &Arrival,
        (kind, code, word): (u8, u8, u32),
        pool: &mut A,
    ) {
        let header = &arrival.header;
        let is_group = arrival.is_group || arrival.link == Link::Broadcast;
        if is_group || is_error(header, packet.head()) || !ipv6::is_unicast(header.source) {
            return;
        }
        if !self.errors.take(now) {
            return self.drop_sent(DropReason::RateLimited);
        }
        // A parameter problem may be about a packet to a group.
        let source = match self.v6.addresses.is_own(header.destination) {
            true => Some(header.destination),
            false => self.v6.addresses.source_for(header.source),
        };
        let Some(source) = source else {
            return self.drop_sent(DropReason::NoRoute);
        };
        let [w0, w1, w2, w3] = word.to_be_bytes();
        let front = [kind, code, 0, 0, w0, w1, w2, w3];
        let length = (icmp6::HEADER + packet.len().min(QUOTE)) as u32;
        let sum = Checksum::pseudo_header_v6(source, header.source, ipv6::ICMP, length);
        let Some(message) = quote::<ERROR, A>(packet, front, sum, pool) else {
            return self.drop_sent(DropReason::PoolEmpty);
        };
        let outgoing = Outgoing {
            source,
            destination: header.source,
            protocol: ipv6::ICMP,
            ttl: self.ttl,
            dscp_ecn: 0,
            sender: None,
        };
        match self.send_message(now, &outgoing, message, pool) {
            Ok(()) => self.counters.icmp_errors_sent += 1,
            Err(reason) => self.drop_sent(reason),
        }
    }

    /// Passes an error on to whoever sent the packet that it cites.
    fn receive_error_v6(
        &mut self,
        now: Instant,
        cited: &Cited,
        said: Said,
    ) -> Result<(), DropReason> {
        if !self.is_own_address(cited.local.ip()) {
            return Err(DropReason::NoSocket);
        }
        let mtu = u16::try_from(said.word).unwrap_or(u16::MAX);
        if cited.protocol == ipv4::TCP {
            let kind = said.for_tcp(mtu).ok_or(DropReason::IcmpIgnored)?;
            return self.report_to_tcp(cited, kind);
        }
        let socket = self.cited_socket::<Ipv6Addr>(cited)?;
        let kind = match said.kind {
            icmp6::PACKET_TOO_BIG => {
                let mtu = self.lower_path_mtu(now, cited, mtu);
                let mtu = mtu.ok_or(DropReason::IcmpIgnored)?;
                UdpErrorKind::FragmentationNeeded { mtu }
            }
            _ => said.for_udp().ok_or(DropReason::IcmpIgnored)?,
        };
        self.deliver_cited(socket, cited, kind)
    }
}

impl Said {
    fn for_tcp(self, mtu: u16) -> Option<TcpIcmpKind> {
        match (self.kind, self.code) {
            // What every link carries is never too big (RFC 8201, section 4).
            (icmp6::PACKET_TOO_BIG, _) => {
                (usize::from(mtu) >= ipv6::MIN_MTU).then_some(TcpIcmpKind::TooBig { mtu })
            }
            // Port unreachable, what a firewall says, and no engine for TCP.
            (icmp6::UNREACHABLE, 1 | 4 | 5 | 6)
            | (icmp6::PARAMETER_PROBLEM, icmp6::UNKNOWN_NEXT_HEADER) => Some(TcpIcmpKind::Refused),
            (icmp6::PARAMETER_PROBLEM, _) => None,
            _ => Some(TcpIcmpKind::Unreachable),
        }
    }

    /// What it means (RFC 4443, section 3), other than "packet too big".
    fn for_udp(self) -> Option<UdpErrorKind> {
        match (self.kind, self.code) {
            (icmp6::UNREACHABLE, 0) => Some(UdpErrorKind::NetworkUnreachable),
            (icmp6::UNREACHABLE, 3) => Some(UdpErrorKind::HostUnreachable),
            (icmp6::UNREACHABLE, icmp6::PORT_UNREACHABLE) => Some(UdpErrorKind::PortUnreachable),
            (icmp6::UNREACHABLE, 1 | 5 | 6) => Some(UdpErrorKind::Prohibited),
            (icmp6::UNREACHABLE, code) => Some(UdpErrorKind::Unreachable { code }),
            (icmp6::TIME_EXCEEDED, 0) => Some(UdpErrorKind::TtlExceeded),
            (icmp6::TIME_EXCEEDED, icmp6::REASSEMBLY_TIME_EXCEEDED) => {
                Some(UdpErrorKind::ReassemblyTimeExceeded)
            }
            (icmp6::PARAMETER_PROBLEM, icmp6::UNKNOWN_NEXT_HEADER) => {
                Some(UdpErrorKind::ProtocolUnreachable)
            }
            _ => None,
        }
    }
}

impl Cited {
    /// The start of a packet of ours: an IPv6 header and the first 8 bytes behind it. We send no
    /// extension header but that of fragments.
    fn parse_v6(body: &[u8]) -> Result<Self, DropReason> {
        let header = Ipv6Header::parse(body, usize::MAX)?;
        let (protocol, start) = match header.next_header {
            ipv6::FRAGMENT => match body.get(ipv6::HEADER..).unwrap_or_default() {
                [protocol, _, 0, 0..8, ..] => (*protocol, ipv6::HEADER + ipv6::FRAGMENT_HEADER),
                _ => return Err(DropReason::IcmpIgnored),
            },
            protocol => (protocol, ipv6::HEADER),
        };
        if !matches!(protocol, ipv4::UDP | ipv4::TCP) {
            return Err(DropReason::IcmpIgnored);
        }
        let segment = body.get(start..).unwrap_or_default();
        let [s0, s1, d0, d1, b0, b1, b2, b3] =
            *segment.first_chunk::<8>().ok_or(DropReason::Malformed)?;
        let local_port = u16::from_be_bytes([s0, s1]);
        let peer_port = u16::from_be_bytes([d0, d1]);
        Ok(Cited {
            local: SocketAddrV6::new(header.source, local_port, 0, 0).into(),
            peer: SocketAddrV6::new(header.destination, peer_port, 0, 0).into(),
            total_length: header.total_length,
            dont_fragment: true,
            protocol,
            behind_ports: u32::from_be_bytes([b0, b1, b2, b3]),
        })
    }
}

/// Whether the packet carries an ICMPv6 error. What can not be read may be one.
fn is_error(header: &Ipv6Header, head: &[u8]) -> bool {
    // If the chain is refused, what is behind it is not known: looked through without judging.
    let (mut protocol, mut start) = (header.next_header, ipv6::HEADER);
    for _ in 0..ipv6::MOST_EXTENSIONS {
        let rest = head.get(start..).unwrap_or_default();
        let length = match (protocol, rest) {
            (ipv6::FRAGMENT, _) => ipv6::FRAGMENT_HEADER,
            (ipv6::HOP_BY_HOP | ipv6::ROUTING | ipv6::DESTINATION_OPTIONS, [_, length, ..]) => {
                (usize::from(*length) + 1) * 8
            }
            _ => break,
        };
        protocol = rest.first().copied().unwrap_or(ipv6::ICMP);
        start += length;
    }
    protocol == ipv6::ICMP && head.get(start).copied().is_none_or(icmp6::is_error)
}

/// The sum over the ICMPv6 message from `start` on, between these addresses.
fn sum_of<B: Buffer>(
    packet: &B,
    start: usize,
    (source, destination): (Ipv6Addr, Ipv6Addr),
) -> Checksum {
    let length = packet.len().saturating_sub(start);
    let mut sum = Checksum::pseudo_header_v6(source, destination, ipv6::ICMP, length as u32);
    add_range(&mut sum, packet, start, length);
    sum
}
