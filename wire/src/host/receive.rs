//! From a frame to a socket.
//!
//! What a device said of a frame ([`Offload`]) is taken off it with the IP header, and goes on
//! beside it: the memory of a packet may become that of an answer, of which nothing was said.

use std::net::Ipv4Addr;

mod train;

use super::Host;
use super::addresses::Kind;
use super::family::Family;
use super::handover::{LOOPED, REASSEMBLED};
use super::reassembly::{Outcome, Piece};
use crate::buffer::{Allocator, Buffer};
use crate::checksum::Checksum;
use crate::drops::DropReason;
use crate::ethernet::{self, EthernetHeader};
use crate::ipv4::{self, Ipv4Header};
use crate::offload::{ChecksumState, Offload, SegmentKind};
use crate::time::Instant;
use crate::udp::{self, UdpDatagram};
use crate::{icmp, ndp};

/// How a packet came to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// In a frame to our Ethernet address.
    Unicast,
    /// In a broadcast frame, or one to a group that an IPv6 address of ours may be in.
    Broadcast,
    /// From ourselves, without a frame.
    Loopback,
}

/// What UDP and TCP need to know of the IP packet that they came in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Carrier<F> {
    pub(super) source: F,
    pub(super) destination: F,
    pub(super) ttl: u8,
    pub(super) dscp_ecn: u8,
    /// Bytes of IP headers.
    pub(super) header_length: usize,
    /// Bytes behind them.
    pub(super) length: usize,
    /// Whether the destination is a broadcast address, or a group.
    pub(super) is_group: bool,
    pub(super) link: Link,
    /// What the device said of the packet.
    pub(super) offload: Offload,
}

/// An IPv4 packet that has been validated, and how it came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    pub(super) header: Ipv4Header,
    pub(super) link: Link,
    /// Whether the IP destination is a broadcast address.
    pub(super) is_broadcast: bool,
    /// What the device said of it.
    pub(super) offload: Offload,
}

impl Arrival {
    fn carrier(&self) -> Carrier<Ipv4Addr> {
        let header = &self.header;
        Carrier {
            source: header.source,
            destination: header.destination,
            ttl: header.ttl,
            dscp_ecn: header.dscp_ecn,
            header_length: header.header_length,
            length: header.payload_length(),
            is_group: self.is_broadcast,
            link: self.link,
            offload: self.offload,
        }
    }
}

impl<B: Buffer> Host<B> {
    /// Handles one complete Ethernet frame, whatever it is.
    #[inline(never)]
    pub(super) fn receive_slow<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        frame: B,
        pool: &mut A,
    ) {
        self.counters.rx_bytes += frame.len() as u64;
        if let Err(frame) = self.receive_segment(frame) {
            self.receive_any(now, frame, pool);
        }
    }

    #[cold]
    #[inline(never)]
    fn receive_any<A: Allocator<Buffer = B>>(&mut self, now: Instant, frame: B, pool: &mut A) {
        let frame = match self.receive_verified(frame) {
            Ok(()) => return,
            Err(frame) => frame,
        };
        let Some(ethernet) = EthernetHeader::parse(frame.head()) else {
            return self.drop_received(DropReason::Malformed);
        };
        let link = if ethernet.ethertype == LOOPED && self.is_receiving_handed_over {
            Link::Loopback
        } else if ethernet.destination == self.mac {
            Link::Unicast
        } else if ethernet.destination.is_broadcast() || self.is_group_frame(&ethernet) {
            Link::Broadcast
        } else {
            return self.drop_received(DropReason::NotForOurMac);
        };
        match ethernet.ethertype {
            LOOPED | REASSEMBLED if self.is_receiving_handed_over => {
                let mut packet = frame;
                packet.trim_front(ethernet::HEADER);
                self.receive_ip(now, packet, link, pool);
            }
            ethernet::IPV6 if self.has_ipv6() => {
                let mut packet = frame;
                packet.trim_front(ethernet::HEADER);
                self.receive_ipv6(now, packet, link, pool);
            }
            ethernet::IPV4 => {
                let mut packet = frame;
                packet.trim_front(ethernet::HEADER);
                self.receive_ipv4(now, packet, link, pool);
            }
            ethernet::ARP => self.receive_arp(now, frame, pool),
            _ => self.drop_received(DropReason::UnknownEtherType),
        }
    }

    fn has_ipv6(&self) -> bool {
        !self.v6.addresses.is_empty()
    }

    fn is_group_frame(&self, header: &EthernetHeader) -> bool {
        header.ethertype == ethernet::IPV6
            && ndp::is_group_mac(header.destination)
            && self.has_ipv6()
    }

    /// Handles a packet that another part of the host has seen before, of whichever version.
    fn receive_ip<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        packet: B,
        link: Link,
        pool: &mut A,
    ) {
        match packet.head().first().map(|first| first >> 4) {
            Some(6) => self.receive_ipv6(now, packet, link, pool),
            _ => self.receive_ipv4(now, packet, link, pool),
        }
    }

    /// Handles an IPv4 packet (RFC 1122, section 3.2.1), whole or a fragment.
    pub(super) fn receive_ipv4<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        mut packet: B,
        link: Link,
        pool: &mut A,
    ) {
        let header = match Ipv4Header::parse(packet.head(), packet.len()) {
            Ok(header) => header,
            Err(reason) => return self.drop_received(reason),
        };
        packet.truncate(header.total_length);
        let offload = packet.offload();
        packet.set_offload(Offload::NONE);
        let is_broadcast = match self.addresses.kind(header.destination) {
            // RFC 1122, section 3.3.6: no unicast address in a link-layer broadcast.
            Kind::Own if link != Link::Broadcast => false,
            Kind::Broadcast => true,
            _ => return self.drop_received(DropReason::NotForOurAddress),
        };
        let is_good_source = match link {
            Link::Loopback => self.addresses.is_own(header.source),
            _ => self.addresses.is_foreign_source(header.source),
        };
        if !is_good_source {
            return self.drop_received(DropReason::BadSource);
        }
        let arrival = Arrival {
            header,
            link,
            is_broadcast,
            offload,
        };
        if header.is_fragment() {
            self.receive_fragment(now, packet, &Piece::from(&header), link, pool);
        } else {
            self.receive_whole(now, packet, &arrival, pool);
        }
    }

    pub(super) fn receive_fragment<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        packet: B,
        piece: &Piece,
        link: Link,
        pool: &mut A,
    ) {
        self.counters.held += 1;
        let (outcome, given_up) = self.reassembly.add(now, piece, packet);
        self.drop_held(DropReason::FragmentLimit, given_up);
        match outcome {
            Outcome::Held => {}
            Outcome::Duplicate => {
                self.counters.held -= 1;
                self.counters.consumed += 1;
            }
            Outcome::Dropped { reason, fragments } => self.drop_held(reason, fragments),
            Outcome::Whole(packet, fragments) if self.is_sharded => {
                self.counters.held -= fragments;
                self.counters.consumed += fragments;
                self.counters.reassembled += 1;
                self.hand_over_reassembled(packet, link);
            }
            Outcome::Whole(packet, fragments) => {
                self.counters.held -= fragments;
                self.counters.consumed += fragments - 1;
                self.counters.reassembled += 1;
                self.receive_ip(now, packet, link, pool);
            }
        }
    }

    fn receive_whole<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        packet: B,
        arrival: &Arrival,
        pool: &mut A,
    ) {
        match arrival.header.protocol {
            ipv4::UDP => {
                if let Some(packet) = self.receive_udp(packet, &arrival.carrier(), pool) {
                    let code = icmp::PORT_UNREACHABLE;
                    self.send_error(now, &packet, arrival, icmp::UNREACHABLE, code, pool);
                }
            }
            ipv4::ICMP => self.receive_icmp(now, packet, arrival, pool),
            ipv4::TCP if self.has_tcp => self.receive_tcp(packet, &arrival.carrier()),
            _ => {
                self.drop_received(DropReason::UnknownProtocol);
                let code = icmp::PROTOCOL_UNREACHABLE;
                self.send_error(now, &packet, arrival, icmp::UNREACHABLE, code, pool);
            }
        }
    }

    /// Handles a UDP datagram. Gives back the packet if no socket is at the port, which is then to
    /// be reported.
    pub(super) fn receive_udp<F: Family, A: Allocator<Buffer = B>>(
        &mut self,
        mut packet: B,
        carrier: &Carrier<F>,
        pool: &mut A,
    ) -> Option<B> {
        let Some((source_port, destination_port, length)) = udp_fields(&packet, carrier) else {
            self.drop_received(DropReason::Malformed);
            return None;
        };
        let must_verify = carrier.offload.checksum == ChecksumState::Plain;
        if must_verify && !is_udp_intact(&packet, carrier, length) {
            self.drop_received(DropReason::Checksum);
            return None;
        }
        let source = carrier.source.endpoint(source_port);
        let destination = carrier.destination.endpoint(destination_port);
        let found = F::sockets_mut(self).find(source, destination, carrier.is_group);
        let Some(socket) = found else {
            self.drop_received(DropReason::NoSocket);
            return Some(packet);
        };
        packet.trim_front(carrier.header_length + udp::HEADER);
        packet.truncate(length - udp::HEADER);
        let datagram = UdpDatagram {
            source: source.into(),
            destination: destination.into(),
            ttl: carrier.ttl,
            dscp_ecn: carrier.dscp_ecn,
            payload: packet,
        };
        if let Some(segmentation) = carrier.offload.segmentation
            && segmentation.kind == SegmentKind::Udp
        {
            self.deliver_train::<F, A>(socket, datagram, segmentation.size, pool);
            return None;
        }
        match F::sockets_mut(self).deliver(socket, datagram) {
            Ok(()) => self.counters.delivered += 1,
            Err(_) => self.drop_received(DropReason::MailboxFull),
        }
        None
    }

    /// Handles what the host sent to itself. An error answers no error, and nothing else is
    /// answered but by a socket, so this ends. A sharded host hands it over instead.
    pub(super) fn receive_looped<A: Allocator<Buffer = B>>(&mut self, now: Instant, pool: &mut A) {
        if self.is_sharded {
            return;
        }
        while let Some(packet) = self.looped.pop_front() {
            self.counters.looped += 1;
            self.receive_ip(now, packet, Link::Loopback, pool);
        }
    }
}

/// Source port, destination port and length of the UDP datagram in `packet`; `None` if its
/// length is less than a header or more than the packet (RFC 768).
fn udp_fields<B: Buffer, F>(packet: &B, carrier: &Carrier<F>) -> Option<(u16, u16, usize)> {
    let segment = packet.head().get(carrier.header_length..)?;
    let [s0, s1, d0, d1, l0, l1, _, _] = *segment.first_chunk::<{ udp::HEADER }>()?;
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    let is_plausible = (udp::HEADER..=carrier.length).contains(&length);
    is_plausible.then_some((
        u16::from_be_bytes([s0, s1]),
        u16::from_be_bytes([d0, d1]),
        length,
    ))
}

/// Whether the UDP checksum over `length` bytes is right, or absent where it may be.
fn is_udp_intact<B: Buffer, F: Family>(packet: &B, carrier: &Carrier<F>, length: usize) -> bool {
    let field = packet.head().get(carrier.header_length + 6..);
    if field.and_then(|field| field.first_chunk::<2>()) == Some(&[0, 0]) {
        return F::MAY_LACK_CHECKSUM;
    }
    let (source, destination) = (carrier.source, carrier.destination);
    let mut sum = F::pseudo_header(source, destination, ipv4::UDP, length as u16);
    add_range(&mut sum, packet, carrier.header_length, length);
    sum.is_valid()
}

/// Adds `length` bytes from `start` on, over all segments.
pub(super) fn add_range<B: Buffer>(sum: &mut Checksum, packet: &B, start: usize, length: usize) {
    let (mut skip, mut left) = (start, length);
    packet.for_each_segment(|segment| {
        let skipped = skip.min(segment.len());
        skip -= skipped;
        let rest = segment.get(skipped..).unwrap_or_default();
        let taken = rest.get(..left.min(rest.len())).unwrap_or_default();
        left -= taken.len();
        sum.add(taken);
    });
}
