//! From a transport packet to IPv6 frames: route, neighbour, header, fragments.

use std::net::Ipv6Addr;

use super::super::Host;
use super::super::output::{Outgoing, Plan, Target};
use super::super::paths::{Path, PathMtu};
use crate::buffer::Buffer;
use crate::drops::DropReason;
use crate::ethernet::{self, EthernetHeader};
use crate::ipv6::{self, Fragment, Ipv6Header};
use crate::mac::MacAddr;
use crate::time::Instant;

/// Static neighbours never change, so the table has but one generation.
const GENERATION: u64 = 0;

impl<B: Buffer> Host<B> {
    /// How a packet gets to `destination`.
    ///
    /// # Errors
    /// Why no packet can go there: `NoRoute`, or `NeighborUnreachable` if the neighbour on the
    /// route is not among those of the settings.
    pub(in crate::host) fn plan_v6(
        &mut self,
        now: Instant,
        destination: Ipv6Addr,
    ) -> Result<Plan<Ipv6Addr>, DropReason> {
        if let Some(path) = self.v6.paths.get(now, destination, GENERATION) {
            return Ok(Plan {
                target: Target::Station(path.mac),
                source: path.source,
                mtu: path.mtu,
            });
        }
        if self.v6.addresses.is_own(destination) {
            return Ok(Plan {
                target: Target::Loopback,
                source: destination,
                mtu: PathMtu {
                    mtu: ipv6::HEADER + ipv6::MAX_PAYLOAD,
                    dont_fragment: true,
                },
            });
        }
        self.plan_route_v6(now, destination)
    }

    fn plan_route_v6(
        &mut self,
        now: Instant,
        destination: Ipv6Addr,
    ) -> Result<Plan<Ipv6Addr>, DropReason> {
        let next_hop = self.v6.routes.next_hop(destination);
        let next_hop = next_hop.filter(|_| ipv6::is_unicast(destination));
        let next_hop = next_hop.ok_or(DropReason::NoRoute)?;
        let source = self.v6.addresses.source_for(destination);
        let source = source.ok_or(DropReason::NoRoute)?;
        let mac = self.v6.neighbors.get(&next_hop).copied();
        let mac = mac.ok_or(DropReason::NeighborUnreachable)?;
        let (mtu, until) = self.path_mtus.get(now, destination.into());
        let mut link = [0; ethernet::HEADER + 2];
        let header = link_header(mac, self.mac);
        link[..ethernet::HEADER].copy_from_slice(&header);
        self.v6.paths.insert(Path {
            destination,
            source,
            mac,
            link,
            mtu,
            until,
            generation: GENERATION,
        });
        Ok(Plan {
            target: Target::Station(mac),
            source,
            mtu,
        })
    }

    /// Sends a transport packet in one IP packet; as [`output`](Host::output).
    pub(in crate::host) fn output_v6(
        &mut self,
        plan: &Plan<Ipv6Addr>,
        outgoing: &Outgoing<Ipv6Addr>,
        packet: B,
    ) {
        self.finish_v6(plan, outgoing, outgoing.protocol, packet);
    }

    /// Sends the pieces of a transport packet; as [`output_pieces`](Host::output_pieces).
    pub(in crate::host) fn output_pieces_v6(
        &mut self,
        plan: &Plan<Ipv6Addr>,
        outgoing: &Outgoing<Ipv6Addr>,
    ) {
        let mut pieces = std::mem::take(&mut self.pieces);
        if pieces.len() == 1 {
            for piece in pieces.drain(..) {
                self.output_v6(plan, outgoing, piece);
            }
            self.pieces = pieces;
            return;
        }
        self.counters.fragmented += u64::from(!pieces.is_empty());
        let id = self.random.below(u32::MAX);
        let (mut offset, mut left) = (0, pieces.len());
        for mut piece in pieces.drain(..) {
            left -= 1;
            let length = piece.len();
            let more = left > 0;
            let header = Fragment { offset, more, id }.to_bytes(outgoing.protocol);
            offset += length;
            // There is room, as `copy` checked.
            match piece.prepend(header.len()) {
                Some(room) => {
                    room.copy_from_slice(&header);
                    self.finish_v6(plan, outgoing, ipv6::FRAGMENT, piece);
                }
                None => self.drop_sent(DropReason::PoolEmpty),
            }
        }
        self.pieces = pieces;
    }

    /// Puts the headers in front of `packet`, which begins with `next_header`, and sends it where
    /// `plan` says.
    fn finish_v6(
        &mut self,
        plan: &Plan<Ipv6Addr>,
        outgoing: &Outgoing<Ipv6Addr>,
        next_header: u8,
        mut packet: B,
    ) {
        let mac = match plan.target {
            Target::Station(mac) => mac,
            Target::Loopback | Target::Neighbor(..) => MacAddr::default(),
        };
        let header = Ipv6Header {
            source: outgoing.source,
            destination: outgoing.destination,
            next_header,
            hop_limit: outgoing.ttl,
            dscp_ecn: outgoing.dscp_ecn,
            flow_label: 0,
            total_length: ipv6::HEADER + packet.len(),
        };
        let Some(room) = packet.prepend(ethernet::HEADER + ipv6::HEADER) else {
            return self.drop_sent(DropReason::PoolEmpty);
        };
        let (link, network) = room.split_at_mut(ethernet::HEADER);
        link.copy_from_slice(&link_header(mac, self.mac));
        network.copy_from_slice(&header.to_bytes());
        match plan.target {
            Target::Station(_) => self.push_frame(packet),
            target => self.set_aside(target, None, packet),
        }
    }
}

/// The Ethernet header of a packet to `destination`.
pub(super) fn link_header(destination: MacAddr, source: MacAddr) -> [u8; ethernet::HEADER] {
    let header = EthernetHeader {
        destination,
        source,
        ethertype: ethernet::IPV6,
    };
    header.to_bytes()
}
