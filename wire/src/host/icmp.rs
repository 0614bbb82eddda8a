//! ICMP (RFC 792): answers echo requests, reports errors within a rate, and passes received
//! errors on to the sockets that they concern.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use etherparse::Ipv4HeaderSlice;

use super::Host;
use super::family::Family;
use super::output::Outgoing;
use super::paths;
use super::receive::{Arrival, Link, add_range};
use crate::buffer::{Allocator, Buffer, Payload};
use crate::checksum::{self, Checksum};
use crate::drops::DropReason;
use crate::time::Instant;
use crate::udp::{UdpError, UdpErrorKind, UdpSocketId};
use crate::{ethernet, icmp, ipv4};

/// Bytes of the original packet in an error: with headers the packet has at most 576 bytes
/// (RFC 1812, section 4.3.2.3).
const QUOTE: usize = 576 - ipv4::HEADER - icmp::HEADER;

/// [`QUOTE`] and the ICMP header.
const ERROR: usize = icmp::HEADER + QUOTE;

/// The packet of ours that an ICMP error cites.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cited {
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
    pub(super) total_length: usize,
    /// Whether it was not to be fragmented on the way; of IPv6 always.
    pub(super) dont_fragment: bool,
    pub(super) protocol: u8,
    /// The four bytes behind the ports: of TCP, the sequence number.
    pub(super) behind_ports: u32,
}

impl<B: Buffer> Host<B> {
    pub(super) fn receive_icmp<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        packet: B,
        arrival: &Arrival,
        pool: &mut A,
    ) {
        let header = &arrival.header;
        let message = packet
            .head()
            .get(header.header_length..)
            .unwrap_or_default();
        let Some([kind, code, _, _, _, _, m0, m1]) = message.first_chunk::<{ icmp::HEADER }>()
        else {
            return self.drop_received(DropReason::Malformed);
        };
        let mut sum = Checksum::new();
        add_range(
            &mut sum,
            &packet,
            header.header_length,
            header.payload_length(),
        );
        if !sum.is_valid() {
            return self.drop_received(DropReason::Checksum);
        }
        let (kind, code, mtu) = (*kind, *code, u16::from_be_bytes([*m0, *m1]));
        match kind {
            // RFC 1122, section 3.2.2.6: a broadcast echo request may be ignored.
            icmp::ECHO_REQUEST if !arrival.is_broadcast => self.echo(now, packet, arrival, pool),
            icmp::UNREACHABLE | icmp::TIME_EXCEEDED => {
                match self.receive_error(now, &packet, arrival, (kind, code), mtu) {
                    Ok(()) => self.counters.consumed += 1,
                    Err(reason) => self.drop_received(reason),
                }
            }
            _ => self.drop_received(DropReason::IcmpIgnored),
        }
    }

    /// Answers an echo request with the memory that it came in. IP options are not returned.
    fn echo<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        mut packet: B,
        arrival: &Arrival,
        pool: &mut A,
    ) {
        packet.trim_front(arrival.header.header_length);
        if let Some([kind, code, c0, c1]) = packet.head_mut().first_chunk_mut::<4>() {
            let old = u16::from_be_bytes([*kind, *code]);
            let new = u16::from_be_bytes([icmp::ECHO_REPLY, *code]);
            let sum = checksum::update(u16::from_be_bytes([*c0, *c1]), old, new);
            *kind = icmp::ECHO_REPLY;
            [*c0, *c1] = sum.to_be_bytes();
        }
        self.counters.consumed += 1;
        let outgoing = Outgoing {
            source: arrival.header.destination,
            destination: arrival.header.source,
            protocol: ipv4::ICMP,
            ttl: self.ttl,
            // RFC 1122, section 3.2.2.6: the same type of service; its ECN bits mean the path.
            dscp_ecn: arrival.header.dscp_ecn & 0xfc,
            sender: None,
        };
        match self.send_message(now, &outgoing, packet, pool) {
            Ok(()) => self.counters.echo_replies += 1,
            Err(reason) => self.drop_sent(reason),
        }
    }

    /// Reports an error about `packet` to its sender, if RFC 1122 section 3.2.2 allows: never
    /// about an ICMP error, a broadcast, a fragment other than the first, or a source that is no
    /// single host (which was refused before).
    pub(super) fn send_error<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        packet: &B,
        arrival: &Arrival,
        kind: u8,
        code: u8,
        pool: &mut A,
    ) {
        let header = &arrival.header;
        let message = packet.head().get(header.header_length).copied();
        let is_error = header.protocol == ipv4::ICMP && message.is_none_or(icmp::is_error);
        let is_group = arrival.is_broadcast || arrival.link == Link::Broadcast;
        if is_error || is_group || header.fragment_offset != 0 {
            return;
        }
        if !self.errors.take(now) {
            return self.drop_sent(DropReason::RateLimited);
        }
        let front = [kind, code, 0, 0, 0, 0, 0, 0];
        let sum = Checksum::new();
        let Some(message) = quote::<ERROR, A>(packet, front, sum, pool) else {
            return self.drop_sent(DropReason::PoolEmpty);
        };
        let outgoing = Outgoing {
            source: header.destination,
            destination: header.source,
            protocol: ipv4::ICMP,
            ttl: self.ttl,
            dscp_ecn: 0,
            sender: None,
        };
        match self.send_message(now, &outgoing, message, pool) {
            Ok(()) => self.counters.icmp_errors_sent += 1,
            Err(reason) => self.drop_sent(reason),
        }
    }

    pub(super) fn send_message<F: Family, A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        outgoing: &Outgoing<F>,
        message: B,
        pool: &mut A,
    ) -> Result<(), DropReason> {
        let length = message.len();
        let plan = F::plan(self, now, outgoing.destination, pool)?;
        self.check_room(&plan, length)?;
        let is_in_place = message.headroom() >= ethernet::HEADER + F::HEADER;
        if is_in_place && !plan.must_fragment(length) {
            F::output(self, &plan, outgoing, message);
            return Ok(());
        }
        if !self.copy(&plan, &[], &Payload::Buffer(message), pool) {
            return Err(DropReason::PoolEmpty);
        }
        F::output_pieces(self, &plan, outgoing);
        Ok(())
    }

    /// Passes an error on to the socket that sent the packet which it cites.
    fn receive_error(
        &mut self,
        now: Instant,
        packet: &B,
        arrival: &Arrival,
        (kind, code): (u8, u8),
        mtu: u16,
    ) -> Result<(), DropReason> {
        if arrival.is_broadcast {
            return Err(DropReason::IcmpIgnored);
        }
        let start = arrival.header.header_length + icmp::HEADER;
        let body = packet.head().get(start..).unwrap_or_default();
        let cited = Cited::parse(body)?;
        if !self.is_own_address(cited.local.ip()) {
            return Err(DropReason::NoSocket);
        }
        if cited.protocol == ipv4::TCP {
            return self.receive_tcp_error(&cited, (kind, code), mtu);
        }
        let socket = self.cited_socket::<Ipv4Addr>(&cited)?;
        let kind = match (kind, code) {
            (icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED) => {
                let mtu = self.lower_path_mtu(now, &cited, mtu);
                let mtu = mtu.ok_or(DropReason::IcmpIgnored)?;
                UdpErrorKind::FragmentationNeeded { mtu }
            }
            (icmp::UNREACHABLE, code) => unreachable_kind(code),
            (_, 0) => UdpErrorKind::TtlExceeded,
            (_, icmp::REASSEMBLY_TIME_EXCEEDED) => UdpErrorKind::ReassemblyTimeExceeded,
            _ => return Err(DropReason::IcmpIgnored),
        };
        self.deliver_cited(socket, &cited, kind)
    }

    /// The socket that sent the packet which an error cites.
    pub(super) fn cited_socket<F: Family>(
        &mut self,
        cited: &Cited,
    ) -> Result<UdpSocketId, DropReason> {
        let end = |end: SocketAddr| Some(F::of(end.ip())?.endpoint(end.port()));
        let ends = end(cited.peer).zip(end(cited.local));
        ends.and_then(|(peer, local)| F::sockets_mut(self).find(peer, local, false))
            .ok_or(DropReason::NoSocket)
    }

    /// Tells a socket what became of the packet that an error cites.
    pub(super) fn deliver_cited(
        &mut self,
        socket: UdpSocketId,
        cited: &Cited,
        kind: UdpErrorKind,
    ) -> Result<(), DropReason> {
        let error = UdpError {
            peer: cited.peer,
            local: cited.local,
            kind,
        };
        if !self.deliver_error(socket, error) {
            return Err(DropReason::MailboxFull);
        }
        self.counters.udp_errors += 1;
        self.counters.icmp_errors_received += 1;
        Ok(())
    }

    /// The new path MTU, if the report lowers it.
    pub(super) fn lower_path_mtu(&mut self, now: Instant, cited: &Cited, mtu: u16) -> Option<u16> {
        if !cited.dont_fragment {
            return None;
        }
        let destination = cited.peer.ip();
        let length = cited.total_length;
        let mtu = self
            .path_mtus
            .report(now, destination, length, usize::from(mtu))?;
        match destination {
            IpAddr::V4(destination) => self.paths.remove(destination),
            IpAddr::V6(destination) => self.v6.paths.remove(destination),
        }
        Some(mtu as u16)
    }
}

impl Cited {
    /// The MTU of the link that the cited packet was too long for: `reported`, or if that is 0 a
    /// common one.
    pub(super) fn reported_mtu(&self, reported: u16) -> Option<u16> {
        match reported {
            0 => Some(paths::plateau_below(self.total_length)? as u16),
            reported => Some(reported),
        }
    }

    /// The start of a packet of ours: an IPv4 header and the first 8 bytes behind it.
    pub(super) fn parse(body: &[u8]) -> Result<Self, DropReason> {
        let header = Ipv4HeaderSlice::from_slice(body).map_err(|_| DropReason::Malformed)?;
        let segment = body.get(header.slice().len()..).unwrap_or_default();
        let [s0, s1, d0, d1, b0, b1, b2, b3] =
            *segment.first_chunk::<8>().ok_or(DropReason::Malformed)?;
        let protocol = header.protocol().0;
        let is_known = matches!(protocol, ipv4::UDP | ipv4::TCP);
        if !is_known || header.fragments_offset().value() != 0 {
            return Err(DropReason::IcmpIgnored);
        }
        let local_port = u16::from_be_bytes([s0, s1]);
        let peer_port = u16::from_be_bytes([d0, d1]);
        Ok(Cited {
            local: SocketAddrV4::new(header.source_addr(), local_port).into(),
            peer: SocketAddrV4::new(header.destination_addr(), peer_port).into(),
            total_length: usize::from(header.total_len()),
            dont_fragment: header.dont_fragment(),
            protocol,
            behind_ports: u32::from_be_bytes([b0, b1, b2, b3]),
        })
    }
}

/// What the codes of "destination unreachable" mean (RFC 792, RFC 1122 section 3.2.2.1, RFC 1812
/// section 5.2.7.1).
fn unreachable_kind(code: u8) -> UdpErrorKind {
    match code {
        0 | 6 | 11 => UdpErrorKind::NetworkUnreachable,
        1 | 7 | 12 => UdpErrorKind::HostUnreachable,
        icmp::PROTOCOL_UNREACHABLE => UdpErrorKind::ProtocolUnreachable,
        icmp::PORT_UNREACHABLE => UdpErrorKind::PortUnreachable,
        9 | 10 | 13 => UdpErrorKind::Prohibited,
        code => UdpErrorKind::Unreachable { code },
    }
}

/// An ICMP error of at most `MOST` bytes that begins with `front` and quotes the start of `packet`;
/// `None` if memory is short. `sum` is that of a pseudo-header.
pub(super) fn quote<const MOST: usize, A: Allocator>(
    packet: &A::Buffer,
    front: [u8; icmp::HEADER],
    mut sum: Checksum,
    pool: &mut A,
) -> Option<A::Buffer> {
    let mut quote = [0; MOST];
    let length = MOST.min(icmp::HEADER + packet.len());
    let mut source = 0;
    packet.for_each_segment(|segment| {
        let room = quote.get_mut(icmp::HEADER + source..).unwrap_or_default();
        for (to, from) in room.iter_mut().zip(segment) {
            *to = *from;
        }
        source += segment.len().min(room.len());
    });
    let message = quote.get_mut(..length)?;
    *message.first_chunk_mut()? = front;
    sum.add(message);
    let sum = sum.finish().to_be_bytes();
    message.get_mut(2..4)?.copy_from_slice(&sum);
    let mut buffer = pool.allocate(length)?;
    buffer.extend_from_slice(message).then_some(buffer)
}
