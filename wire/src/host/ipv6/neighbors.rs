//! Answers neighbour solicitations (RFC 4861, section 7.2), so that neighbours find us.

use std::net::Ipv6Addr;

use super::super::Host;
use super::super::output::Target;
use super::output::link_header;
use super::receive::Arrival;
use crate::buffer::{Allocator, Buffer};
use crate::checksum::Checksum;
use crate::drops::DropReason;
use crate::ethernet;
use crate::ipv6::{self, Ipv6Header};
use crate::mac::MacAddr;
use crate::ndp::{self, NeighborAdvertisement, NeighborSolicitation};
use crate::time::Instant;

/// Bytes in a frame with an advertisement.
const FRAME: usize = ethernet::HEADER + ipv6::HEADER + ndp::ADVERTISEMENT;

impl<B: Buffer> Host<B> {
    /// Answers the solicitation `message`, whose checksum is right.
    ///
    /// # Errors
    /// `Malformed` if it breaks a rule of RFC 4861 section 7.1.1, `ArpIgnored` if it is not about
    /// an address of ours.
    pub(super) fn receive_solicitation<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        message: &[u8],
        arrival: &Arrival,
        pool: &mut A,
    ) -> Result<(), DropReason> {
        let solicitation = NeighborSolicitation::parse(message);
        let solicitation = solicitation.ok_or(DropReason::Malformed)?;
        let header = &arrival.header;
        // Someone who has no address yet asks a group, and can not name his address.
        let is_probe = header.source.is_unspecified();
        let is_bad_probe = is_probe && (!arrival.is_group || solicitation.sender_mac.is_some());
        if header.hop_limit != ndp::HOP_LIMIT || is_bad_probe {
            return Err(DropReason::Malformed);
        }
        if !self.v6.addresses.is_own(solicitation.target) {
            return Err(DropReason::ArpIgnored);
        }
        let destination = match is_probe {
            true => ndp::ALL_NODES,
            false => header.source,
        };
        match self.mac_of(now, destination, solicitation.sender_mac) {
            Ok(mac) => self.send_advertisement(mac, solicitation.target, destination, pool),
            Err(reason) => self.drop_sent(reason),
        }
        Ok(())
    }

    /// The station to which the answer to `destination` goes: who asked says where it is, or we
    /// know.
    fn mac_of(
        &mut self,
        now: Instant,
        destination: Ipv6Addr,
        told: Option<MacAddr>,
    ) -> Result<MacAddr, DropReason> {
        if destination.is_multicast() {
            return Ok(ndp::group_mac(destination));
        }
        if let Some(mac) = told {
            return mac.is_unicast().then_some(mac).ok_or(DropReason::BadSource);
        }
        match self.plan_v6(now, destination)?.target {
            Target::Station(mac) => Ok(mac),
            Target::Loopback | Target::Neighbor(..) => Err(DropReason::NoRoute),
        }
    }

    fn send_advertisement<A: Allocator<Buffer = B>>(
        &mut self,
        mac: MacAddr,
        target: Ipv6Addr,
        destination: Ipv6Addr,
        pool: &mut A,
    ) {
        if self.room == 0 {
            return self.drop_sent(self.shortage);
        }
        let is_solicited = !destination.is_multicast();
        let frame = self.advertisement(mac, target, destination, is_solicited);
        let buffer = pool.allocate(FRAME);
        let written = buffer.and_then(|mut buffer| {
            let is_written = buffer.extend_from_slice(&frame);
            is_written.then_some(buffer)
        });
        match written {
            Some(frame) => {
                self.push_frame(frame);
                self.counters.neighbor_advertisements_sent += 1;
            }
            None => self.drop_sent(DropReason::PoolEmpty),
        }
    }

    fn advertisement(
        &self,
        mac: MacAddr,
        target: Ipv6Addr,
        destination: Ipv6Addr,
        is_solicited: bool,
    ) -> [u8; FRAME] {
        let advertisement = NeighborAdvertisement {
            target,
            mac: self.mac,
            is_solicited,
        };
        let header = Ipv6Header {
            source: target,
            destination,
            next_header: ipv6::ICMP,
            hop_limit: ndp::HOP_LIMIT,
            dscp_ecn: 0,
            flow_label: 0,
            total_length: ipv6::HEADER + ndp::ADVERTISEMENT,
        };
        let mut message = advertisement.to_bytes();
        let length = ndp::ADVERTISEMENT as u32;
        let mut sum = Checksum::pseudo_header_v6(target, destination, ipv6::ICMP, length);
        sum.add(&message);
        message[2..4].copy_from_slice(&sum.finish().to_be_bytes());
        let mut frame = [0; FRAME];
        let (link, rest) = frame.split_at_mut(ethernet::HEADER);
        let (network, rest) = rest.split_at_mut(ipv6::HEADER);
        link.copy_from_slice(&link_header(mac, self.mac));
        network.copy_from_slice(&header.to_bytes());
        rest.copy_from_slice(&message);
        frame
    }
}
