//! ARP (RFC 826): answering for our addresses, and asking for those of neighbours.

use std::net::Ipv4Addr;

use super::Host;
use crate::arp::{self, ArpOperation, ArpPacket};
use crate::buffer::{Allocator, Buffer};
use crate::drops::DropReason;
use crate::ethernet::{self, EthernetHeader};
use crate::mac::MacAddr;
use crate::time::Instant;

impl<B: Buffer> Host<B> {
    /// Handles the ARP packet behind the Ethernet header of `frame`.
    pub(super) fn receive_arp<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        frame: B,
        pool: &mut A,
    ) {
        let Some(packet) = frame
            .head()
            .get(ethernet::HEADER..)
            .and_then(ArpPacket::parse)
        else {
            return self.drop_received(DropReason::Malformed);
        };
        // RFC 5227, section 2.4: someone else claims an address of ours. We keep it.
        if !packet.sender_mac.is_unicast() || self.addresses.is_own(packet.sender) {
            return self.drop_received(DropReason::BadSource);
        }
        let is_used = match packet.operation {
            ArpOperation::Request => self.receive_request(now, packet, pool),
            // Another shard may have asked.
            ArpOperation::Reply => self.receive_reply(now, packet) || self.is_sharded,
        };
        if is_used {
            self.counters.consumed += 1;
        } else {
            self.drop_received(DropReason::ArpIgnored);
        }
    }

    /// Learns what a neighbour told another of several hosts that share their addresses (see
    /// [`set_sharded`](Self::set_sharded)), from the frame in which it did. Believes what it would
    /// believe if it had received the frame, which is answered and counted where it was received.
    pub fn hear_neighbor(&mut self, now: Instant, frame: &[u8]) {
        let packet = frame
            .get(ethernet::HEADER..)
            .and_then(ArpPacket::parse)
            .filter(|packet| packet.sender_mac.is_unicast())
            .filter(|packet| !self.addresses.is_own(packet.sender));
        match packet {
            Some(packet) if packet.operation == ArpOperation::Reply => {
                self.receive_reply(now, packet);
            }
            Some(packet) if self.addresses.is_own(packet.target) => self.learn(now, packet),
            Some(packet) if packet.sender == packet.target => {
                self.update_neighbor(packet);
            }
            _ => {}
        }
    }

    /// Learns the address of a neighbour that asks for ours.
    fn learn(&mut self, now: Instant, packet: ArpPacket) {
        // A probe (RFC 5227, section 2.1.1) is answered, but has no address to learn.
        let is_neighbor = self.addresses.is_foreign_source(packet.sender)
            && self.routes.is_on_link(packet.sender);
        if is_neighbor
            && let Some(waiting) = self.neighbors.learn(now, packet.sender, packet.sender_mac)
        {
            self.counters.neighbors_learned += 1;
            self.release(packet.sender_mac, waiting);
        }
    }

    fn receive_request<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        packet: ArpPacket,
        pool: &mut A,
    ) -> bool {
        if !self.addresses.is_own(packet.target) {
            return packet.sender == packet.target && self.update_neighbor(packet);
        }
        self.learn(now, packet);
        let reply = ArpPacket {
            operation: ArpOperation::Reply,
            sender_mac: self.mac,
            sender: packet.target,
            target_mac: packet.sender_mac,
            target: packet.sender,
        };
        if self.send_arp(packet.sender_mac, reply, pool) {
            self.counters.arp_replies_sent += 1;
        }
        true
    }

    /// Believes a reply only if the question is open, or if it is a gratuitous one about a
    /// neighbour that we have.
    fn receive_reply(&mut self, now: Instant, packet: ArpPacket) -> bool {
        let answer = self
            .neighbors
            .answer(now, packet.sender, packet.sender_mac, &mut self.random);
        match answer {
            Some(waiting) => {
                self.counters.neighbors_learned += 1;
                self.release(packet.sender_mac, waiting);
                true
            }
            None => packet.sender == packet.target && self.update_neighbor(packet),
        }
    }

    fn update_neighbor(&mut self, packet: ArpPacket) -> bool {
        match self.neighbors.update(packet.sender, packet.sender_mac) {
            Some(waiting) => {
                self.counters.neighbors_learned += 1;
                self.release(packet.sender_mac, waiting);
                true
            }
            None => false,
        }
    }

    /// Asks for the Ethernet address of `target`: everybody, or the address that it had.
    pub(super) fn ask<A: Allocator<Buffer = B>>(
        &mut self,
        target: Ipv4Addr,
        known: Option<MacAddr>,
        pool: &mut A,
    ) {
        let request = ArpPacket {
            operation: ArpOperation::Request,
            sender_mac: self.mac,
            sender: self
                .addresses
                .source_for(target)
                .unwrap_or(Ipv4Addr::UNSPECIFIED),
            target_mac: MacAddr::default(),
            target,
        };
        if self.send_arp(known.unwrap_or(MacAddr::BROADCAST), request, pool) {
            self.counters.arp_requests_sent += 1;
        }
    }

    fn send_arp<A: Allocator<Buffer = B>>(
        &mut self,
        destination: MacAddr,
        packet: ArpPacket,
        pool: &mut A,
    ) -> bool {
        if self.room == 0 {
            self.drop_sent(self.shortage);
            return false;
        }
        let header = EthernetHeader {
            destination,
            source: self.mac,
            ethertype: ethernet::ARP,
        };
        let frame = pool.allocate(ethernet::HEADER + arp::LENGTH);
        let frame = frame.and_then(|mut frame| {
            let is_written = frame.extend_from_slice(&header.to_bytes())
                && frame.extend_from_slice(&packet.to_bytes());
            is_written.then_some(frame)
        });
        let Some(frame) = frame else {
            self.drop_sent(DropReason::PoolEmpty);
            return false;
        };
        self.push_frame(frame);
        true
    }
}
