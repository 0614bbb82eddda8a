//! From an IPv6 packet to whoever handles what it carries.

use std::net::Ipv6Addr;

use super::super::Host;
use super::super::reassembly::Piece;
use super::super::receive::{Carrier, Link};
use crate::buffer::{Allocator, Buffer};
use crate::drops::DropReason;
use crate::icmp6;
use crate::ipv4;
use crate::ipv6::{self, Extensions, Fragment, Ipv6Header, Problem};
use crate::offload::Offload;
use crate::time::Instant;

/// A packet for us, and how it came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    pub(super) header: Ipv6Header,
    pub(super) link: Link,
    /// Whether the destination is a group that we are in.
    pub(super) is_group: bool,
    /// What the device said of it.
    pub(super) offload: Offload,
}

impl<B: Buffer> Host<B> {
    /// Handles an IPv6 packet, whole or a fragment.
    pub(in crate::host) fn receive_ipv6<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        mut packet: B,
        link: Link,
        pool: &mut A,
    ) {
        let header = match Ipv6Header::parse(packet.head(), packet.len()) {
            Ok(header) => header,
            Err(reason) => return self.drop_received(reason),
        };
        packet.truncate(header.total_length);
        let offload = packet.offload();
        packet.set_offload(Offload::NONE);
        let Some(arrival) = self.arrival(header, link, offload) else {
            return self.drop_received(DropReason::NotForOurAddress);
        };
        if !self.is_good_source(&arrival) {
            return self.drop_received(DropReason::BadSource);
        }
        let chain = match Extensions::parse(&header, packet.head()) {
            Ok(chain) => chain,
            Err(problem) => return self.refuse(now, &packet, &arrival, problem, pool),
        };
        match chain.fragment.filter(Fragment::is_part) {
            Some(fragment) => {
                let piece = piece(&header, &chain, fragment);
                self.receive_fragment(now, packet, &piece, link, pool);
            }
            None => self.receive_whole_v6(now, packet, &arrival, &chain, pool),
        }
    }

    fn arrival(&self, header: Ipv6Header, link: Link, offload: Offload) -> Option<Arrival> {
        let addresses = &self.v6.addresses;
        let is_group = addresses.is_in_group(header.destination);
        // No unicast address in a link-layer broadcast or multicast, as over IPv4.
        let is_ours = link != Link::Broadcast && addresses.is_own(header.destination);
        (is_group || is_ours).then_some(Arrival {
            header,
            link,
            is_group,
            offload,
        })
    }

    /// Whether the packet can come from its source: another host, or nobody yet (RFC 4862, section
    /// 5.4.2), which only a solicitation may (see `receive_icmp_v6`).
    fn is_good_source(&self, arrival: &Arrival) -> bool {
        let source = arrival.header.source;
        match arrival.link {
            Link::Loopback => self.v6.addresses.is_own(source),
            Link::Unicast | Link::Broadcast => {
                self.v6.addresses.is_foreign_source(source)
                    || (source.is_unspecified() && arrival.header.next_header == ipv6::ICMP)
            }
        }
    }

    fn receive_whole_v6<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        packet: B,
        arrival: &Arrival,
        chain: &Extensions,
        pool: &mut A,
    ) {
        let carrier = arrival.carrier(chain);
        match chain.protocol {
            ipv4::UDP => {
                if let Some(packet) = self.receive_udp(packet, &carrier, pool) {
                    let (kind, code) = (icmp6::UNREACHABLE, icmp6::PORT_UNREACHABLE);
                    self.send_error_v6(now, &packet, arrival, (kind, code, 0), pool);
                }
            }
            ipv6::ICMP => self.receive_icmp_v6(now, packet, arrival, chain, pool),
            ipv4::TCP if self.has_tcp => self.receive_tcp(packet, &carrier),
            ipv6::NO_NEXT_HEADER => self.drop_received(DropReason::UnknownProtocol),
            _ => {
                let problem = Problem::next_header(chain.named_at);
                self.refuse(now, &packet, arrival, problem, pool);
            }
        }
    }

    /// Drops a packet for a problem with its headers, and reports it if that is asked for.
    fn refuse<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        packet: &B,
        arrival: &Arrival,
        problem: Problem,
        pool: &mut A,
    ) {
        self.drop_received(problem.reason);
        let Some(code) = problem.code else {
            return;
        };
        let arrival = Arrival {
            is_group: arrival.is_group && !problem.is_for_groups,
            link: match problem.is_for_groups {
                true if arrival.link == Link::Broadcast => Link::Unicast,
                _ => arrival.link,
            },
            ..*arrival
        };
        let message = (icmp6::PARAMETER_PROBLEM, code, problem.pointer as u32);
        self.send_error_v6(now, packet, &arrival, message, pool);
    }
}

/// Tells the sender of a first fragment that the others did not come (RFC 8200, section 4.5).
pub(in crate::host) fn report_timeout<A: Allocator>(
    host: &mut Host<A::Buffer>,
    now: Instant,
    first: &A::Buffer,
    pool: &mut A,
) {
    let header = Ipv6Header::parse(first.head(), first.len());
    if let Some(arrival) = header
        .ok()
        .and_then(|header| host.arrival(header, Link::Unicast, Offload::NONE))
    {
        let code = icmp6::REASSEMBLY_TIME_EXCEEDED;
        host.send_error_v6(now, first, &arrival, (icmp6::TIME_EXCEEDED, code, 0), pool);
    }
}

impl Arrival {
    fn carrier(&self, chain: &Extensions) -> Carrier<Ipv6Addr> {
        let header = &self.header;
        Carrier {
            source: header.source,
            destination: header.destination,
            ttl: header.hop_limit,
            dscp_ecn: header.dscp_ecn,
            header_length: chain.header_length,
            length: header.total_length.saturating_sub(chain.header_length),
            is_group: self.is_group,
            link: self.link,
            offload: self.offload,
        }
    }
}

/// A fragment, for reassembly. The protocol behind a fragment header does not tell datagrams apart
/// (RFC 8200, section 4.5).
fn piece(header: &Ipv6Header, chain: &Extensions, fragment: Fragment) -> Piece {
    Piece {
        source: header.source.into(),
        destination: header.destination.into(),
        protocol: ipv6::FRAGMENT,
        id: fragment.id,
        offset: fragment.offset,
        more: fragment.more,
        header_length: chain.header_length,
        length: header.total_length.saturating_sub(chain.header_length),
    }
}
