//! A host on an Ethernet link: neighbours, IPv4, IPv6, ICMP and UDP in one sans-IO engine.
//!
//! ```text
//! receive()  frame -> runs   (whole UDP, the common case) ---------------------> sockets
//!                  -> fast   (whole TCP segments, the common case) --------> exchange()
//!                  -> receive (Ethernet, IPv4, fragments) -> arp, icmp, UDP ---> sockets
//!                  `-> ipv6 (header, extensions) -> the same, and solicitations
//! send_udp() datagram -> send (header) -> output (route, neighbour, fragments) -> transmit()
//!                     `-> long (to be cut later) -^               `-> looped (to ourselves)
//! ```
//!
//! What serves both families is written once, for an address of either (`family`); what IPv6 has
//! alone is in `ipv6`.
//!
//! TCP has an engine of its own, [`TcpEngine`](crate::tcp::TcpEngine): after
//! [`Host::enable_tcp`] the host keeps segments and errors for it, and [`exchange`] moves them
//! and sends what the engine has.
//!
//! The caller owns time, memory and the link: it passes `now` and an allocator in, says with
//! [`Host::set_transmit_room`] how many frames it will take, drains [`Host::transmit`] and the
//! sockets that [`Host::take_ready_udp`] names, and calls [`Host::handle_timeout`] when
//! [`Host::next_deadline`] has passed.

mod addresses;
mod arp;
mod bucket;
mod common;
mod config;
mod counters;
mod family;
mod fast;
mod handover;
mod icmp;
mod ipv6;
mod long;
mod neighbors;
mod output;
mod paths;
mod pieces;
mod random;
mod reassembly;
mod receive;
mod routes;
mod runs;
mod send;
mod sockets;
mod tcp;
mod template;
mod train;
mod udp;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};

pub use config::{HostConfig, HostError, Limits, Neighbor, Route};
pub use counters::HostCounters;
pub use handover::{LOOPED, REASSEMBLED};
pub use neighbors::{NeighborEntry, NeighborState};
pub use sockets::{BindError, ConnectError};
pub use tcp::exchange;

use crate::buffer::{Allocator, Buffer};
use crate::drops::{DropReason, Drops};
use crate::icmp as messages;
use crate::ipv4::{self, Ipv4Header};
use crate::mac::MacAddr;
use crate::offload::{DeviceSegmentation, Offload};
use crate::tcp::Segment;
use crate::time::Instant;
use crate::udp::{UdpError, UdpErrorKind};
use addresses::{Addresses, Kind};
use bucket::TokenBucket;
use family::Family;
use fast::FastUdp;
use ipv6::Ipv6;
use neighbors::{Due, Neighbors, Waiting};
use paths::{PathCache, PathMtus};
use random::Random;
use reassembly::Reassembly;
use receive::{Arrival, Link};
use routes::Routes;
use sockets::Sockets;

/// A host on an Ethernet link. See the [module](self) for how it is driven.
#[derive(Debug)]
pub struct Host<B: Buffer> {
    mac: MacAddr,
    /// Bytes in an IP packet.
    mtu: usize,
    ttl: u8,
    addresses: Addresses,
    routes: Routes<Ipv4Addr>,
    neighbors: Neighbors<B>,
    paths: PathCache,
    path_mtus: PathMtus,
    reassembly: Reassembly<B>,
    sockets: Sockets<B, Ipv4Addr>,
    /// What IPv6 has alone.
    v6: Ipv6<B>,
    /// Bounds the ICMP errors that we send.
    errors: TokenBucket,
    random: Random,
    /// Reused by `receive_run`: what was read of the datagrams of one run.
    run: Vec<FastUdp>,
    /// Reused by `write_run`.
    outgoing: common::Run,
    /// Frames for the caller.
    transmit: Vec<B>,
    /// How many more frames the caller takes.
    room: usize,
    /// How many frames the caller ever takes at once.
    most_frames: usize,
    /// Frames whose neighbour answered when there was no room. Not empty only if `room` is 0;
    /// never more than the neighbours' queues held.
    backlog: VecDeque<B>,
    /// Packets to ourselves.
    looped: VecDeque<B>,
    most_looped: usize,
    /// Whether TCP segments are kept for an engine, and not refused as unknown.
    has_tcp: bool,
    /// Segments, and errors about ours, for the TCP engine.
    tcp_segments: Vec<Segment<B>>,
    tcp_errors: Vec<tcp::Reported>,
    /// Whether this host is one of several; see the module `handover`.
    is_sharded: bool,
    is_receiving_handed_over: bool,
    /// Datagrams that became whole, as frames, until the caller takes them. Sharded hosts only.
    reassembled: VecDeque<B>,
    /// Why a packet is refused that finds no room.
    shortage: DropReason,
    /// Whether a packet with an offload was sent since the caller asked.
    has_offloads: bool,
    /// Whether the device completes the checksums of long datagrams.
    offloads_checksum: bool,
    /// Whether the device makes fragments of datagrams.
    offloads_fragmentation: bool,
    /// Which long packets use up room for one frame only.
    device_segmentation: DeviceSegmentation,
    /// Reused by `copy`: the pieces of one datagram.
    pieces: Vec<B>,
    drops: Drops,
    counters: HostCounters,
}

impl<B: Buffer> Host<B> {
    /// A host with the settings `config`. All its randomness (IP identifications, ephemeral
    /// ports, hash keys, timer jitter) comes from `seed`: take it from the operating system,
    /// except to repeat a simulation.
    ///
    /// # Errors
    /// The first setting that can not be, and what to do about it.
    pub fn new(config: HostConfig, seed: u64) -> Result<Self, HostError> {
        if !config.mac.is_unicast() {
            return Err(HostError::Mac(config.mac));
        }
        if usize::from(config.mtu) < ipv4::MIN_MTU {
            return Err(HostError::Mtu(config.mtu));
        }
        if config.ttl == 0 {
            return Err(HostError::Ttl);
        }
        if let Some(name) = config.limits.zero() {
            return Err(HostError::ZeroLimit(name));
        }
        let mut random = Random::new(seed);
        let addresses = Addresses::new(&config.addresses, &config.owned)?;
        let routes = Routes::new(
            &config,
            addresses.subnets(),
            ipnet::Ipv4Net::default(),
            |address| addresses.is_foreign_source(address),
        )?;
        let limits = &config.limits;
        let mut neighbors = Neighbors::new(limits, &mut random);
        for Neighbor { address, mac } in &config.neighbors {
            let IpAddr::V4(ip) = *address else {
                continue;
            };
            if !mac.is_unicast() || !addresses.is_foreign_source(ip) {
                return Err(HostError::Neighbor {
                    address: *address,
                    mac: *mac,
                });
            }
            neighbors.insert_static(ip, *mac);
        }
        let v6 = Ipv6::new(&config, &mut random)?;
        if addresses.is_empty() && v6.addresses.is_empty() {
            return Err(HostError::NoAddress);
        }
        let mtu = usize::from(config.mtu);
        Ok(Host {
            mac: config.mac,
            mtu,
            ttl: config.ttl,
            addresses,
            routes,
            neighbors,
            paths: PathCache::new(),
            path_mtus: PathMtus::new(limits.path_mtus, mtu, &mut random),
            reassembly: Reassembly::new(limits, &mut random),
            sockets: Sockets::new(limits, &mut random),
            v6,
            errors: TokenBucket::new(limits.icmp_errors_per_second, limits.icmp_errors_burst),
            random,
            run: Vec::new(),
            outgoing: common::Run::default(),
            transmit: Vec::new(),
            room: 0,
            most_frames: usize::MAX,
            backlog: VecDeque::new(),
            looped: VecDeque::new(),
            most_looped: limits.loopback,
            has_tcp: false,
            tcp_segments: Vec::new(),
            tcp_errors: Vec::new(),
            is_sharded: false,
            is_receiving_handed_over: false,
            reassembled: VecDeque::new(),
            shortage: DropReason::RingFull,
            has_offloads: false,
            offloads_checksum: false,
            offloads_fragmentation: false,
            device_segmentation: DeviceSegmentation::default(),
            pieces: Vec::new(),
            drops: Drops::default(),
            counters: HostCounters::default(),
        })
    }

    /// Handles a burst of complete Ethernet frames (without frame check sequence), which leave
    /// `burst`. The headers of a frame must lie in its first segment.
    ///
    /// What a device said of a frame ([`Buffer::offload`]) is believed: a checksum that is valid
    /// or partial is not verified (but that of ICMP always is), and a train of datagrams reaches
    /// its socket as these.
    pub fn receive<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        burst: &mut Vec<B>,
        pool: &mut A,
    ) {
        self.counters.rx_frames += burst.len() as u64;
        self.receive_burst(now, burst, pool);
        if !self.looped.is_empty() {
            self.receive_looped(now, pool);
        }
    }

    /// Sets how many more frames may be put into the transmit queue; each uses one up. At the
    /// start there is no room. Frames that waited for room move into the queue at once.
    #[inline]
    pub fn set_transmit_room(&mut self, frames: usize) {
        self.room = frames;
        while self.room > 0
            && let Some(frame) = self.backlog.pop_front()
        {
            self.push_released(frame);
        }
    }

    /// Sets how many frames the transmit queue ever has room for, without limit by default. A
    /// datagram in more fragments is refused as `TooBig`: waiting for room would not help it.
    pub fn set_transmit_capacity(&mut self, frames: usize) {
        self.most_frames = frames;
    }

    /// Sets whether the device completes checksums (`VIRTIO_NET_F_CSUM`). Datagrams of 256 bytes
    /// and more that are sent where their payload lies then leave with a description
    /// ([`PartialChecksum`](crate::offload::PartialChecksum)), and nobody has to read them. Others
    /// are summed, as copying reads them anyway. Off by default.
    pub fn set_checksum_offload(&mut self, is_taken: bool) {
        self.offloads_checksum = is_taken;
    }

    /// Sets whether the device cuts UDP datagrams that are longer than their path allows
    /// (`VIRTIO_NET_F_HOST_UFO`): they then leave as one frame with its [`Offload`]. Only for
    /// packet memory that keeps a description: else they are refused as `TooBig`. Off by default:
    /// the host then makes the fragments itself as it copies a datagram, which costs less than to
    /// copy it first and to cut it afterwards.
    pub fn set_fragmentation_offload(&mut self, is_taken: bool) {
        self.offloads_fragmentation = is_taken;
    }

    /// Sets which long packets the device cuts: those use up room for one frame. Others are cut in
    /// software, and use up room for each piece. None by default.
    pub fn set_device_segmentation(&mut self, segmentation: DeviceSegmentation) {
        self.device_segmentation = segmentation;
    }

    /// Sets the reason for which packets are refused that find no room: `RingFull` by default,
    /// `NoCredit` where a virtual queue bounds what is sent.
    pub fn set_shortage(&mut self, reason: DropReason) {
        self.shortage = reason;
    }

    /// How many more frames may be put into the transmit queue.
    pub fn transmit_room(&self) -> usize {
        self.room
    }

    /// The transmit queue: finished Ethernet frames in order, for the caller to drain.
    #[inline]
    pub fn transmit(&mut self) -> &mut Vec<B> {
        &mut self.transmit
    }

    /// Whether, since this was last asked, a packet was sent that asks for an offload (see
    /// [`crate::offload`]): whoever drains the transmit queue must see to it. Checksums that are left
    /// to a device which [takes them](Self::set_checksum_offload) are not among these.
    pub fn take_has_offloads(&mut self) -> bool {
        std::mem::take(&mut self.has_offloads)
    }

    /// When [`handle_timeout`](Self::handle_timeout) must be called, at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        let neighbors = self.neighbors.next_deadline();
        let reassembly = self.reassembly.next_deadline();
        match (neighbors, reassembly) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// Does what is due at `now`: asks neighbours again or gives them up, and gives up datagrams
    /// whose fragments did not all come.
    pub fn handle_timeout<A: Allocator<Buffer = B>>(&mut self, now: Instant, pool: &mut A) {
        while let Some(due) = self.neighbors.due(now) {
            match due {
                Due::Ask(address, known) => self.ask(address, known, pool),
                Due::Failed(waiting) => self.fail_neighbor(waiting),
            }
        }
        while let Some(expired) = self.reassembly.expire(now) {
            self.drop_held(DropReason::FragmentTimeout, expired.fragments);
            if let Some(first) = expired.first {
                self.report_timeout(now, &first, pool);
            }
        }
        self.receive_looped(now, pool);
    }

    /// Every packet that was neither delivered nor sent, by reason.
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    /// What the host did.
    pub fn counters(&self) -> &HostCounters {
        &self.counters
    }

    /// The neighbour table, in no particular order. Allocates; meant for statistics.
    pub fn neighbors(&self) -> Vec<NeighborEntry> {
        let mut neighbors = self.neighbors.snapshot();
        neighbors.extend(self.v6.neighbors());
        neighbors
    }

    /// Bytes of packet memory that fragments hold.
    pub fn reassembly_memory(&self) -> usize {
        self.reassembly.memory()
    }

    /// Our Ethernet address.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Whether `address` is ours: configured, or in an owned prefix.
    pub fn is_own_address(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address.is_own(self),
            IpAddr::V6(address) => address.is_own(self),
        }
    }

    /// The address of ours from which packets to `destination` are sent; `None` if no route leads
    /// there, or it is not the address of a host.
    pub fn source_for(&self, destination: IpAddr) -> Option<IpAddr> {
        let destination = match destination {
            IpAddr::V4(destination) => destination,
            IpAddr::V6(destination) => return self.v6.source_for(destination).map(IpAddr::V6),
        };
        match self.addresses.kind(destination) {
            Kind::Own => Some(destination.into()),
            Kind::Other => {
                let next_hop = self.routes.next_hop(destination)?;
                self.addresses.source_for(next_hop).map(IpAddr::V4)
            }
            Kind::Broadcast | Kind::Invalid => None,
        }
    }

    /// A random number, for where to begin the search for a source port (RFC 6056, section
    /// 3.3.1).
    pub fn random_port_offset(&mut self) -> u16 {
        self.random.below(1 << 16) as u16
    }

    /// Drops what waited for a neighbour that does not answer, and tells the sockets.
    fn fail_neighbor(&mut self, waiting: Vec<Waiting<B>>) {
        self.counters.neighbors_failed += 1;
        let mut told = None;
        for Waiting { socket, frame, .. } in waiting {
            self.drop_sent(DropReason::NeighborUnreachable);
            if socket.is_none() {
                self.fail_tcp(&frame);
            }
            // Fragments of one datagram are behind each other: one error is enough.
            if let Some(sender) = socket
                && told.replace(sender) != Some(sender)
            {
                let error = UdpError {
                    peer: sender.peer,
                    local: sender.local,
                    kind: UdpErrorKind::HostUnreachable,
                };
                if self.deliver_error(sender.id, error) {
                    self.counters.udp_errors += 1;
                }
            }
        }
    }

    /// Tells the sender of a first fragment that the others did not come (RFC 792; RFC 1122,
    /// section 3.3.2).
    fn report_timeout<A: Allocator<Buffer = B>>(&mut self, now: Instant, first: &B, pool: &mut A) {
        if first.head().first().is_some_and(|first| first >> 4 == 6) {
            return ipv6::report_timeout(self, now, first, pool);
        }
        let Ok(header) = Ipv4Header::parse(first.head(), first.len()) else {
            return;
        };
        let arrival = Arrival {
            header,
            link: Link::Unicast,
            is_broadcast: self.addresses.kind(header.destination) != Kind::Own,
            offload: Offload::NONE,
        };
        let code = messages::REASSEMBLY_TIME_EXCEEDED;
        self.send_error(now, first, &arrival, messages::TIME_EXCEEDED, code, pool);
    }

    /// Counts one received frame or looped packet as dropped.
    fn drop_received(&mut self, reason: DropReason) {
        self.counters.rx_dropped += 1;
        self.drops.add(reason, 1);
    }

    /// Counts fragments that were held as dropped.
    fn drop_held(&mut self, reason: DropReason, fragments: u64) {
        self.counters.held = self.counters.held.saturating_sub(fragments);
        self.counters.rx_dropped += fragments;
        self.drops.add(reason, fragments);
    }

    /// Counts one packet that was to be sent as dropped.
    fn drop_sent(&mut self, reason: DropReason) {
        self.drop_many_sent(reason, 1);
    }

    fn drop_many_sent(&mut self, reason: DropReason, count: usize) {
        self.counters.tx_dropped += count as u64;
        self.drops.add(reason, count as u64);
    }
}
