//! From a transport packet to frames: route, neighbour, IPv4 header, fragments.

use std::net::Ipv4Addr;

use super::Host;
use super::addresses::Kind;
use super::family::Family;
use super::neighbors::{Resolution, Sender, Waiting};
use super::paths::{Path, PathMtu};
use crate::buffer::{Allocator, Buffer};
use crate::drops::DropReason;
use crate::ethernet::{self, EthernetHeader};
use crate::ipv4::{self, Ipv4Header};
use crate::mac::MacAddr;
use crate::time::Instant;

/// Bytes in front of a transport header.
const HEADERS: usize = ethernet::HEADER + ipv4::HEADER;

/// Where a packet goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    /// To ourselves.
    Loopback,
    /// Into the transmit queue, to this station.
    Station(MacAddr),
    /// Into the queue of this neighbour, in which so many packets have room.
    Neighbor(Ipv4Addr, usize),
}

/// How a packet gets to its destination.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan<F = Ipv4Addr> {
    pub(super) target: Target,
    /// Our address on the route.
    pub(super) source: F,
    pub(super) mtu: PathMtu,
}

/// The IP fields that the caller of [`Host::output`] chooses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outgoing<F = Ipv4Addr> {
    pub(super) source: F,
    pub(super) destination: F,
    pub(super) protocol: u8,
    /// The hop limit, in the words of IPv6.
    pub(super) ttl: u8,
    pub(super) dscp_ecn: u8,
    /// Whom to tell if a neighbour does not answer.
    pub(super) sender: Option<Sender>,
}

impl<F: Family> Plan<F> {
    /// Whether it goes to ourselves.
    pub(super) fn is_loopback(&self) -> bool {
        matches!(self.target, Target::Loopback)
    }

    /// Bytes of transport packet that one IP packet carries.
    #[inline]
    pub(super) fn room(&self) -> usize {
        self.mtu.mtu - F::HEADER
    }

    /// Whether `length` bytes of transport packet must be fragmented.
    #[inline]
    pub(super) fn must_fragment(&self, length: usize) -> bool {
        length > self.room()
    }

    /// Bytes in each fragment but the last: a multiple of 8 (RFC 791, section 3.2; RFC 8200,
    /// section 4.5).
    pub(super) fn per_fragment(&self) -> usize {
        (self.room() - F::FRAGMENT_HEADER) / 8 * 8
    }

    /// The plan for a packet that is cut into fragments on its way.
    pub(super) fn for_fragments(self) -> Plan<F> {
        Plan {
            mtu: PathMtu {
                dont_fragment: false,
                ..self.mtu
            },
            ..self
        }
    }

    /// Whether packets go into the transmit queue at once.
    pub(super) fn is_direct(&self) -> bool {
        matches!(self.target, Target::Station(_))
    }

    /// Frames that `length` bytes of transport packet become.
    pub(super) fn frames(&self, length: usize) -> usize {
        match self.must_fragment(length) {
            true => length.div_ceil(self.per_fragment()),
            false => 1,
        }
    }
}

impl<B: Buffer> Host<B> {
    /// How a packet gets to `destination`. Begins to resolve the neighbour if it must.
    ///
    /// # Errors
    /// Why no packet can go there now.
    #[inline]
    pub(super) fn plan<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        destination: Ipv4Addr,
        pool: &mut A,
    ) -> Result<Plan, DropReason> {
        match self
            .paths
            .get(now, destination, self.neighbors.generation())
        {
            Some(path) => Ok(Plan {
                target: Target::Station(path.mac),
                source: path.source,
                mtu: path.mtu,
            }),
            None => self.plan_anew(now, destination, pool),
        }
    }

    #[cold]
    #[inline(never)]
    fn plan_anew<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        destination: Ipv4Addr,
        pool: &mut A,
    ) -> Result<Plan, DropReason> {
        match self.addresses.kind(destination) {
            Kind::Own => Ok(Plan {
                target: Target::Loopback,
                source: destination,
                mtu: PathMtu {
                    mtu: ipv4::MAX_PACKET,
                    dont_fragment: true,
                },
            }),
            Kind::Broadcast => Ok(Plan {
                target: Target::Station(MacAddr::BROADCAST),
                source: self
                    .addresses
                    .source_for(destination)
                    .ok_or(DropReason::NoRoute)?,
                mtu: PathMtu {
                    mtu: self.mtu,
                    dont_fragment: false,
                },
            }),
            Kind::Invalid => Err(DropReason::NoRoute),
            Kind::Other => self.plan_route(now, destination, pool),
        }
    }

    fn plan_route<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        destination: Ipv4Addr,
        pool: &mut A,
    ) -> Result<Plan, DropReason> {
        let next_hop = self
            .routes
            .next_hop(destination)
            .ok_or(DropReason::NoRoute)?;
        // The first and last address of a subnet of ours are no host's.
        if !self.addresses.is_foreign_source(next_hop) {
            return Err(DropReason::NoRoute);
        }
        let source = self
            .addresses
            .source_for(next_hop)
            .ok_or(DropReason::NoRoute)?;
        if self.room == 0 {
            return Err(self.shortage);
        }
        let (mtu, mtu_until) = self.path_mtus.get(now, destination.into());
        let target = match self.neighbors.resolve(now, next_hop)? {
            Resolution::Wait { room, ask } => {
                if ask {
                    self.ask(next_hop, None, pool);
                }
                Target::Neighbor(next_hop, room)
            }
            Resolution::Known { mac, until, ask } => {
                if ask {
                    self.ask(next_hop, Some(mac), pool);
                }
                let link = EthernetHeader {
                    destination: mac,
                    source: self.mac,
                    ethertype: ethernet::IPV4,
                };
                let mut padded = [0; ethernet::HEADER + 2];
                padded[..ethernet::HEADER].copy_from_slice(&link.to_bytes());
                self.paths.insert(Path {
                    destination,
                    source,
                    mac,
                    link: padded,
                    mtu,
                    until: until.min(mtu_until),
                    generation: self.neighbors.generation(),
                });
                Target::Station(mac)
            }
        };
        Ok(Plan {
            target,
            source,
            mtu,
        })
    }

    /// Whether there is room for a transport packet of `length` bytes, fragments and all.
    #[inline]
    pub(super) fn check_room<F: Family>(
        &self,
        plan: &Plan<F>,
        length: usize,
    ) -> Result<(), DropReason> {
        self.check_frames(plan, plan.frames(length))
    }

    /// Whether there is room for so many frames.
    #[inline]
    pub(super) fn check_frames<F: Family>(
        &self,
        plan: &Plan<F>,
        frames: usize,
    ) -> Result<(), DropReason> {
        match plan.target {
            Target::Station(_) | Target::Neighbor(..) if frames > self.most_frames => {
                Err(DropReason::TooBig)
            }
            Target::Station(_) if frames > self.room => Err(self.shortage),
            Target::Neighbor(_, room) if frames > room => Err(DropReason::NeighborQueueFull),
            Target::Loopback if self.looped.len() + frames > self.most_looped => {
                Err(DropReason::RingFull)
            }
            _ => Ok(()),
        }
    }

    /// Sends a transport packet in one IP packet. `packet` has room for the headers in front,
    /// and [`check_room`](Self::check_room) was right.
    #[inline]
    pub(super) fn output(&mut self, plan: &Plan, outgoing: &Outgoing, packet: B) {
        let header = Ipv4Header {
            source: outgoing.source,
            destination: outgoing.destination,
            protocol: outgoing.protocol,
            ttl: outgoing.ttl,
            dscp_ecn: outgoing.dscp_ecn,
            id: self.random.identification(plan.mtu.dont_fragment),
            dont_fragment: plan.mtu.dont_fragment,
            more_fragments: false,
            fragment_offset: 0,
            header_length: ipv4::HEADER,
            total_length: ipv4::HEADER + packet.len(),
        };
        self.finish(plan, outgoing, &header, packet);
    }

    /// Sends the pieces of a transport packet that [`copy`](Self::copy) made, in order, as
    /// fragments of one datagram if they are several. Each piece has room for the headers.
    pub(super) fn output_pieces(&mut self, plan: &Plan, outgoing: &Outgoing) {
        let mut pieces = std::mem::take(&mut self.pieces);
        let is_fragmented = pieces.len() > 1;
        let dont_fragment = plan.mtu.dont_fragment && !is_fragmented;
        let id = self.random.identification(dont_fragment);
        let mut left = pieces.len();
        let mut fragment_offset = 0;
        if is_fragmented {
            self.counters.fragmented += 1;
        }
        for piece in pieces.drain(..) {
            left -= 1;
            let length = piece.len();
            let header = Ipv4Header {
                source: outgoing.source,
                destination: outgoing.destination,
                protocol: outgoing.protocol,
                ttl: outgoing.ttl,
                dscp_ecn: outgoing.dscp_ecn,
                id,
                dont_fragment,
                more_fragments: left > 0,
                fragment_offset,
                header_length: ipv4::HEADER,
                total_length: ipv4::HEADER + length,
            };
            fragment_offset += length;
            self.finish(plan, outgoing, &header, piece);
        }
        self.pieces = pieces;
    }

    /// Puts the headers in front of `packet` and sends it where `plan` says.
    #[inline]
    fn finish(&mut self, plan: &Plan, outgoing: &Outgoing, header: &Ipv4Header, mut packet: B) {
        let ethernet = EthernetHeader {
            destination: match plan.target {
                Target::Station(mac) => mac,
                Target::Loopback | Target::Neighbor(..) => MacAddr::default(),
            },
            source: self.mac,
            ethertype: ethernet::IPV4,
        };
        let put = |packet: &mut B| {
            let room = packet.prepend(HEADERS)?;
            let room = room.first_chunk_mut::<HEADERS>()?;
            let (link, network) = room.split_at_mut(ethernet::HEADER);
            link.copy_from_slice(&ethernet.to_bytes());
            network.copy_from_slice(&header.to_bytes());
            Some(packet.len())
        };
        if let Target::Station(_) = plan.target {
            // First to its place: a handle that was just changed has to be waited for when it is
            // moved.
            self.transmit.push(packet);
            match self.transmit.last_mut().and_then(put) {
                Some(length) => self.count_frame(length),
                None => {
                    self.transmit.pop();
                    self.drop_sent(DropReason::PoolEmpty);
                }
            }
        } else if put(&mut packet).is_some() {
            self.set_aside(plan.target, outgoing.sender, packet);
        } else {
            self.drop_sent(DropReason::PoolEmpty);
        }
    }

    /// Keeps a packet that does not go into the transmit queue now.
    #[cold]
    #[inline(never)]
    pub(super) fn set_aside(&mut self, target: Target, sender: Option<Sender>, mut packet: B) {
        match target {
            Target::Station(_) => self.push_frame(packet),
            Target::Loopback => {
                packet.trim_front(ethernet::HEADER);
                self.looped.push_back(packet);
            }
            Target::Neighbor(next_hop, _) => {
                let waiting = Waiting {
                    frames: pieces_of(&packet),
                    frame: packet,
                    socket: sender,
                };
                if self.neighbors.enqueue(next_hop, waiting).is_some() {
                    self.drop_sent(DropReason::NeighborUnreachable);
                }
            }
        }
    }

    /// Sends frames that waited for a neighbour which is at `mac`. What the transmit queue has
    /// no room for goes first when it has.
    pub(super) fn release(&mut self, mac: MacAddr, waiting: Vec<Waiting<B>>) {
        for Waiting { mut frame, .. } in waiting {
            if let Some(destination) = frame.head_mut().first_chunk_mut::<6>() {
                *destination = mac.0;
            }
            if self.room > 0 {
                self.push_released(frame);
            } else {
                self.backlog.push_back(frame);
            }
        }
    }

    /// Puts a frame that waited into the transmit queue, which has room: one that is to be cut
    /// in software uses up as much as its pieces, but is not kept back by the last of them.
    pub(super) fn push_released(&mut self, frame: B) {
        let offload = frame.offload();
        self.has_offloads |= !offload.is_none();
        self.counters.tx_segmented += u64::from(offload.segmentation.is_some());
        self.use_room(self.room_for(&frame) - 1);
        self.push_frame(frame);
    }

    /// How much room a complete frame uses up, at least 1: for each piece, unless the device
    /// cuts it.
    pub(super) fn room_for(&self, frame: &B) -> usize {
        let Some(segmentation) = frame.offload().segmentation else {
            return 1;
        };
        let length = frame.len();
        let is_ipv6 = frame.head().get(12..14) == Some(&ethernet::IPV6.to_be_bytes());
        match self
            .device_segmentation
            .cuts(segmentation.kind, is_ipv6, length)
        {
            true => 1,
            false => segmentation.pieces(length),
        }
    }

    /// Uses up room for further pieces of a frame.
    pub(super) fn use_room(&mut self, frames: usize) {
        self.room = self.room.saturating_sub(frames);
    }

    /// Puts a frame into the transmit queue, which has room.
    #[inline(always)]
    pub(super) fn push_frame(&mut self, frame: B) {
        self.count_frame(frame.len());
        self.transmit.push(frame);
    }

    /// Counts a frame of so many bytes that goes into the transmit queue.
    #[inline(always)]
    fn count_frame(&mut self, length: usize) {
        self.room = self.room.saturating_sub(1);
        self.counters.tx_frames += 1;
        self.counters.tx_bytes += length as u64;
    }
}

/// Into how many frames a complete one is cut, by whomever; at least 1.
fn pieces_of<B: Buffer>(frame: &B) -> usize {
    let segmentation = frame.offload().segmentation;
    segmentation.map_or(1, |segmentation| segmentation.pieces(frame.len()))
}
