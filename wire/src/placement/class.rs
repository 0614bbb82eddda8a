//! What a frame is for placement, from its bytes.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::flow::{Addresses, Flow, Ports, Transport};
use crate::arp::{ArpOperation, ArpPacket};
use crate::ethernet::{self, EthernetHeader};
use crate::{icmp, icmp6, ipv4, ipv6};

/// IPv6 extension headers that are looked through (RFC 8200, section 4): hop-by-hop options,
/// routing, destination options.
const EXTENSIONS: [u8; 3] = [ipv6::HOP_BY_HOP, ipv6::ROUTING, ipv6::DESTINATION_OPTIONS];

/// What a frame is for placement.
///
/// It is total: every sequence of bytes is of some class. Lengths and checksums are not looked
/// at, so a frame that is wrong goes to some cpu, whose engine drops and counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A packet of a flow: with ports if it is whole and UDP or TCP, or else by its addresses
    /// alone. So all fragments of a datagram are of one flow, and the datagram that they make is
    /// of another.
    Flow(Flow),
    /// An ICMP or ICMPv6 error about a packet that was sent to the peer of this flow, from
    /// wherever it comes.
    Error(Flow),
    /// A packet of a flow, to a multicast or broadcast address of Ethernet or IP.
    Group(Flow),
    /// Asks for a neighbour's address: an ARP request, or an IPv6 neighbour solicitation.
    NeighborSolicitation,
    /// Tells a neighbour's address or a router: an ARP reply or announcement (RFC 5227, section
    /// 3), an IPv6 neighbour or router advertisement, or an IPv6 redirect. Every cpu wants it.
    NeighborAdvertisement,
    /// Everything else: other EtherTypes, VLAN tags, and what is too short.
    Unclassified,
}

impl Class {
    /// The class of an Ethernet frame. Of a chain, the first segment is enough if it holds the
    /// headers.
    pub fn of_frame(frame: &[u8]) -> Class {
        let Some(header) = EthernetHeader::parse(frame) else {
            return Class::Unclassified;
        };
        let packet = frame.get(ethernet::HEADER..).unwrap_or_default();
        let class = match header.ethertype {
            ethernet::IPV4 => Packet::parse_v4(packet).map(Packet::class),
            ethernet::IPV6 => Packet::parse_v6(packet).map(Packet::class),
            ethernet::ARP => ArpPacket::parse(packet).map(class_of_arp),
            _ => None,
        };
        match class {
            Some(Class::Flow(flow) | Class::Error(flow)) if header.destination.is_multicast() => {
                Class::Group(flow)
            }
            Some(class) => class,
            None => Class::Unclassified,
        }
    }

    /// The class of an IPv4 or IPv6 packet without its frame, as when a datagram was put together
    /// from fragments.
    pub fn of_packet(packet: &[u8]) -> Class {
        Packet::parse(packet).map_or(Class::Unclassified, Packet::class)
    }
}

fn class_of_arp(packet: ArpPacket) -> Class {
    match packet.operation {
        ArpOperation::Request if packet.sender != packet.target => Class::NeighborSolicitation,
        ArpOperation::Request | ArpOperation::Reply => Class::NeighborAdvertisement,
    }
}

/// Which part of a datagram a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    /// The fragment that has the header of the transport.
    First,
    Later,
}

/// An IP packet, as far as placement looks.
#[derive(Debug, Clone, Copy)]
struct Packet<'a> {
    source: Address,
    destination: Address,
    part: Part,
    protocol: u8,
    /// What follows the headers of IP; may be empty.
    segment: &'a [u8],
}

/// Both of one version in one packet.
#[derive(Debug, Clone, Copy)]
enum Address {
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

impl<'a> Packet<'a> {
    fn parse(packet: &'a [u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Packet::parse_v4(packet),
            6 => Packet::parse_v6(packet),
            _ => None,
        }
    }

    fn parse_v4(packet: &'a [u8]) -> Option<Self> {
        let header = packet.first_chunk::<{ ipv4::HEADER }>()?;
        let [
            first,
            _,
            _,
            _,
            _,
            _,
            f0,
            f1,
            _,
            protocol,
            _,
            _,
            addresses @ ..,
        ] = *header;
        let [s0, s1, s2, s3, d0, d1, d2, d3] = addresses;
        let header_length = usize::from(first & 0x0f) * 4;
        if first >> 4 != 4 || header_length < ipv4::HEADER {
            return None;
        }
        let fragment = u16::from_be_bytes([f0, f1]);
        Some(Packet {
            source: Address::V4(Ipv4Addr::new(s0, s1, s2, s3)),
            destination: Address::V4(Ipv4Addr::new(d0, d1, d2, d3)),
            part: Part::new(fragment & 0x1fff, fragment & 0x2000 != 0),
            protocol,
            segment: packet.get(header_length..).unwrap_or_default(),
        })
    }

    fn parse_v6(packet: &'a [u8]) -> Option<Self> {
        let (header, mut segment) = packet.split_first_chunk::<{ ipv6::HEADER }>()?;
        let (fixed, addresses) = header.split_first_chunk::<8>()?;
        let (source, destination) = addresses.split_first_chunk::<16>()?;
        let [first, _, _, _, _, _, mut protocol, _] = *fixed;
        if first >> 4 != 6 {
            return None;
        }
        let mut part = Part::Whole;
        for _ in 0..ipv6::MOST_EXTENSIONS {
            let length = match (protocol, segment) {
                (ipv6::FRAGMENT, [_, _, o0, o1, ..]) => {
                    let field = u16::from_be_bytes([*o0, *o1]);
                    part = Part::new(field >> 3, field & 1 != 0);
                    8
                }
                (kind, [_, length, ..]) if EXTENSIONS.contains(&kind) => {
                    (usize::from(*length) + 1) * 8
                }
                _ => break,
            };
            protocol = *segment.first()?;
            segment = segment.get(length..).unwrap_or_default();
            if part == Part::Later {
                break;
            }
        }
        Some(Packet {
            source: Address::V6(Ipv6Addr::from(*source)),
            destination: Address::V6(Ipv6Addr::from(*destination.first_chunk::<16>()?)),
            part,
            protocol,
            segment,
        })
    }

    fn class(self) -> Class {
        let kind = self.segment.first().copied();
        match (self.part, self.protocol, kind) {
            (Part::Whole, ipv6::ICMP, Some(icmp6::NEIGHBOR_SOLICITATION)) => {
                return Class::NeighborSolicitation;
            }
            (
                Part::Whole,
                ipv6::ICMP,
                Some(icmp6::ROUTER_ADVERTISEMENT | icmp6::NEIGHBOR_ADVERTISEMENT | icmp6::REDIRECT),
            ) => return Class::NeighborAdvertisement,
            _ => {}
        }
        let ports = (self.part == Part::Whole).then(|| self.ports()).flatten();
        let Some(flow) = Flow::of(self.source, self.destination, ports) else {
            return Class::Unclassified;
        };
        if self.destination.is_group() {
            return Class::Group(flow);
        }
        match self.cited() {
            Some(cited) => Class::Error(cited),
            None => Class::Flow(flow),
        }
    }

    /// Source and destination port; the first is that of the peer.
    fn ports(&self) -> Option<Ports> {
        let transport = match self.protocol {
            ipv4::UDP => Transport::Udp,
            ipv4::TCP => Transport::Tcp,
            _ => return None,
        };
        let [s0, s1, d0, d1] = *self.segment.first_chunk::<4>()?;
        Some(Ports {
            transport,
            peer: u16::from_be_bytes([s0, s1]),
            local: u16::from_be_bytes([d0, d1]),
        })
    }

    /// The flow that answers the packet that this error cites (RFC 792; RFC 4443, section 3):
    /// that one was sent by us, so its source is our end.
    fn cited(&self) -> Option<Flow> {
        let kind = *self.segment.first()?;
        let is_error = match self.protocol {
            ipv4::ICMP => matches!(
                kind,
                icmp::UNREACHABLE | icmp::TIME_EXCEEDED | icmp::PARAMETER_PROBLEM
            ),
            ipv6::ICMP => matches!(
                kind,
                icmp6::UNREACHABLE
                    | icmp6::PACKET_TOO_BIG
                    | icmp6::TIME_EXCEEDED
                    | icmp6::PARAMETER_PROBLEM
            ),
            _ => false,
        };
        if !is_error || self.part != Part::Whole {
            return None;
        }
        let cited = Packet::parse(self.segment.get(icmp::HEADER..)?)?;
        if cited.part == Part::Later {
            return None;
        }
        let sent = cited.ports()?;
        let answer = Ports {
            transport: sent.transport,
            peer: sent.local,
            local: sent.peer,
        };
        Flow::of(cited.destination, cited.source, Some(answer))
    }
}

impl Part {
    fn new(offset: u16, more: bool) -> Self {
        match (offset, more) {
            (0, false) => Part::Whole,
            (0, true) => Part::First,
            _ => Part::Later,
        }
    }
}

impl Address {
    fn is_group(self) -> bool {
        match self {
            Address::V4(address) => address.is_multicast() || address.is_broadcast(),
            Address::V6(address) => address.is_multicast(),
        }
    }
}

impl Flow {
    fn of(peer: Address, local: Address, ports: Option<Ports>) -> Option<Flow> {
        let addresses = match (peer, local) {
            (Address::V4(peer), Address::V4(local)) => Addresses::V4 { peer, local },
            (Address::V6(peer), Address::V6(local)) => Addresses::V6 { peer, local },
            _ => return None,
        };
        Some(Flow { addresses, ports })
    }
}

#[cfg(test)]
mod tests;
