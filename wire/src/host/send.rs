//! From a socket to the engine's output.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use super::Host;
use super::neighbors::Sender;
use super::output::{Outgoing, Plan};
use crate::buffer::{Allocator, Buffer, Payload};
use crate::checksum::{self, Checksum};
use crate::drops::DropReason;
use crate::time::Instant;
use crate::udp::{self, SendOutcome, UdpSend, UdpSocketId};
use crate::{ethernet, ipv4};

/// Bytes in front of the payload.
const HEADERS: usize = ethernet::HEADER + ipv4::HEADER + udp::HEADER;

/// What a send needs to know of its socket.
#[derive(Debug, Clone, Copy)]
struct Local {
    id: UdpSocketId,
    address: Option<Ipv4Addr>,
    port: u16,
}

/// Everything that is decided about a datagram before any memory is touched.
#[derive(Debug, Clone, Copy)]
struct Ready {
    plan: Plan,
    outgoing: Outgoing,
    /// The UDP header.
    header: [u8; udp::HEADER],
}

impl<B: Buffer> Host<B> {
    /// Sends a burst of datagrams from the socket `id`.
    ///
    /// Those that are accepted leave `burst`. Those that are refused stay, in order, each with
    /// its reason in `refused`, and each is counted in the drops once per offer. If room is
    /// short (`RingFull`, `PoolEmpty`), the ones behind are refused too, so that nothing is
    /// reordered; other reasons refuse only the one datagram. A datagram that must be fragmented
    /// is sent whole or refused.
    pub fn send_udp<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        id: UdpSocketId,
        burst: &mut Vec<UdpSend<B>>,
        pool: &mut A,
    ) -> SendOutcome {
        let offered = burst.len();
        let Some(socket) = self.sockets.get(id) else {
            return self.refuse_all(burst);
        };
        let local = Local {
            id,
            address: socket.address,
            port: socket.port,
        };
        let mut shortage = None;
        burst.retain_mut(|send| {
            let outcome = match shortage {
                None => self.send_one(now, &local, send, pool),
                Some(reason) => Err(reason),
            };
            let Err(reason) = outcome else {
                return false;
            };
            self.drop_sent(reason);
            send.refused = Some(reason);
            if matches!(reason, DropReason::RingFull | DropReason::PoolEmpty) {
                shortage = Some(reason);
            }
            true
        });
        let outcome = SendOutcome {
            accepted: offered - burst.len(),
            refused: burst.len(),
        };
        self.counters.udp_sent += outcome.accepted as u64;
        if !self.looped.is_empty() {
            self.receive_looped(now, pool);
        }
        outcome
    }

    /// Refuses a burst from a socket that is closed.
    #[cold]
    fn refuse_all(&mut self, burst: &mut [UdpSend<B>]) -> SendOutcome {
        for send in burst.iter_mut() {
            self.drop_sent(DropReason::SocketClosed);
            send.refused = Some(DropReason::SocketClosed);
        }
        SendOutcome {
            accepted: 0,
            refused: burst.len(),
        }
    }

    /// Sends one datagram, whose payload it takes; or refuses it and leaves it as it is.
    #[inline(always)]
    fn send_one<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        local: &Local,
        send: &mut UdpSend<B>,
        pool: &mut A,
    ) -> Result<(), DropReason> {
        if self.send_fast(now, local, send) {
            return Ok(());
        }
        self.send_slow(now, local, send, pool)
    }

    /// The common case: a payload that lies in one piece with room for its headers, to a
    /// destination whose path is remembered. Returns false, and changes nothing, for all others.
    ///
    /// It writes what [`send_slow`](Self::send_slow) would write.
    #[inline(always)]
    fn send_fast(&mut self, now: Instant, local: &Local, send: &mut UdpSend<B>) -> bool {
        let (SocketAddr::V4(peer), Payload::Buffer(buffer)) = (send.destination, &mut send.payload)
        else {
            return false;
        };
        let generation = self.neighbors.generation();
        let Some(path) = self.paths.get(now, *peer.ip(), generation) else {
            return false;
        };
        let default = local.address.unwrap_or(path.source);
        let source = match send.source {
            None => default,
            Some(IpAddr::V4(asked)) if asked == default => default,
            // What a reply from a socket bound to any address asks for.
            Some(IpAddr::V4(asked)) if local.address.is_none() && self.addresses.is_own(asked) => {
                asked
            }
            Some(_) => return false,
        };
        let total = ipv4::HEADER + udp::HEADER + buffer.len();
        let ttl = send.ttl.unwrap_or(self.ttl);
        let is_common = ttl != 0
            && peer.port() != 0
            && total <= path.mtu.mtu
            && self.room > 0
            && !buffer.is_chain()
            && buffer.headroom() >= HEADERS;
        if !is_common {
            return false;
        }
        let segment = segment_header(SocketAddrV4::new(source, local.port), peer, buffer);
        let mut words = [
            0x4500_0000 | u32::from(send.dscp_ecn) << 16 | total as u32,
            u32::from(self.random.id()) << 16 | u32::from(path.mtu.dont_fragment) << 14,
            u32::from(ttl) << 24 | u32::from(ipv4::UDP) << 16,
            source.to_bits(),
            peer.ip().to_bits(),
        ];
        words[2] |= u32::from(checksum::words_checksum(words));
        let link = path.link;
        let Some(room) = buffer
            .prepend(HEADERS)
            .and_then(|room| room.first_chunk_mut())
        else {
            return false;
        };
        write_headers(room, link, words, segment);
        let taken = std::mem::replace(&mut send.payload, Payload::Empty);
        if let Payload::Buffer(frame) = taken {
            self.push_frame(frame);
        }
        true
    }

    /// Sends any datagram.
    #[inline(never)]
    fn send_slow<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        local: &Local,
        send: &mut UdpSend<B>,
        pool: &mut A,
    ) -> Result<(), DropReason> {
        let ready = self.prepare(now, local, send, pool)?;
        let length = udp::HEADER + send.payload.len();
        let is_in_place = match &send.payload {
            Payload::Buffer(buffer) => buffer.headroom() >= HEADERS,
            Payload::Bytes(_) | Payload::Empty => false,
        };
        if !is_in_place || ready.plan.must_fragment(length) {
            return self.send_copy(&ready, send, pool);
        }
        let taken = std::mem::replace(&mut send.payload, Payload::Empty);
        if let Payload::Buffer(mut buffer) = taken {
            // There is room, as was checked.
            if let Some(room) = buffer
                .prepend(udp::HEADER)
                .and_then(|room| room.first_chunk_mut())
            {
                *room = ready.header;
            }
            self.output(&ready.plan, &ready.outgoing, buffer);
        }
        Ok(())
    }

    /// Decides where and how a datagram goes, and computes its header.
    fn prepare<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        local: &Local,
        send: &UdpSend<B>,
        pool: &mut A,
    ) -> Result<Ready, DropReason> {
        let SocketAddr::V4(peer) = send.destination else {
            return Err(DropReason::NoRoute);
        };
        if peer.port() == 0 || send.ttl == Some(0) {
            return Err(DropReason::Malformed);
        }
        if send.payload.len() > udp::MAX_PAYLOAD {
            return Err(DropReason::TooBig);
        }
        let plan = self.plan(now, *peer.ip(), pool)?;
        let source = self.source(local, send.source, plan.source)?;
        self.check_room(&plan, udp::HEADER + send.payload.len())?;
        let source_and_port = SocketAddrV4::new(source, local.port);
        Ok(Ready {
            plan,
            outgoing: Outgoing {
                source,
                destination: *peer.ip(),
                protocol: ipv4::UDP,
                ttl: send.ttl.unwrap_or(self.ttl),
                dscp_ecn: send.dscp_ecn,
                sender: Some(Sender {
                    id: local.id,
                    local: source_and_port,
                    peer,
                }),
            },
            header: header(source_and_port, peer, &send.payload),
        })
    }

    /// The source address of a datagram: what was asked for if it is ours and the socket's,
    /// else the socket's, else ours on the route.
    #[inline]
    fn source(
        &self,
        local: &Local,
        asked: Option<IpAddr>,
        on_route: Ipv4Addr,
    ) -> Result<Ipv4Addr, DropReason> {
        let default = local.address.unwrap_or(on_route);
        match asked {
            None => Ok(default),
            Some(IpAddr::V4(asked)) if asked == default => Ok(default),
            Some(IpAddr::V4(asked)) if local.address.is_none() && self.addresses.is_own(asked) => {
                Ok(asked)
            }
            Some(IpAddr::V4(asked))
                if asked.is_unspecified() || self.addresses.is_broadcast(asked) =>
            {
                Ok(default)
            }
            Some(_) => Err(DropReason::BadSource),
        }
    }

    /// Sends a datagram that can not be sent where it lies.
    #[inline(never)]
    fn send_copy<A: Allocator<Buffer = B>>(
        &mut self,
        ready: &Ready,
        send: &UdpSend<B>,
        pool: &mut A,
    ) -> Result<(), DropReason> {
        if !self.copy(&ready.plan, &ready.header, &send.payload, pool) {
            return Err(DropReason::PoolEmpty);
        }
        self.output_pieces(&ready.plan, &ready.outgoing);
        Ok(())
    }
}

/// The UDP header for `payload`.
fn header<B: Buffer>(
    source: SocketAddrV4,
    destination: SocketAddrV4,
    payload: &Payload<B>,
) -> [u8; udp::HEADER] {
    finish_header(source, destination, payload.len(), |sum| {
        payload.for_each_segment(|segment| sum.add(segment));
    })
}

/// The UDP header for the head of `buffer`.
#[inline(always)]
fn segment_header<B: Buffer>(
    source: SocketAddrV4,
    destination: SocketAddrV4,
    buffer: &B,
) -> [u8; udp::HEADER] {
    let payload = buffer.head();
    finish_header(source, destination, payload.len(), |sum| sum.add(payload))
}

/// A UDP header with its checksum (RFC 768: zero is sent as all ones), for a payload of `length`
/// bytes, at most 65 507, that `add` sums up.
#[inline(always)]
fn finish_header(
    source: SocketAddrV4,
    destination: SocketAddrV4,
    length: usize,
    add: impl FnOnce(&mut Checksum),
) -> [u8; udp::HEADER] {
    let length = (udp::HEADER + length) as u16;
    let mut sum = Checksum::pseudo_header(*source.ip(), *destination.ip(), ipv4::UDP, length);
    let ports = u64::from(source.port()) << 48 | u64::from(destination.port()) << 32;
    let header = ports | u64::from(length) << 16;
    sum.add(&header.to_be_bytes());
    add(&mut sum);
    let sum = match sum.finish() {
        0 => 0xffff,
        sum => sum,
    };
    (header | u64::from(sum)).to_be_bytes()
}

/// Writes Ethernet, IPv4 (five numbers of 32 bits) and UDP headers.
#[inline(always)]
fn write_headers(
    room: &mut [u8; HEADERS],
    link: [u8; ethernet::HEADER],
    network: [u32; 5],
    transport: [u8; udp::HEADER],
) {
    let (link_room, rest) = room.split_at_mut(ethernet::HEADER);
    let (network_room, transport_room) = rest.split_at_mut(ipv4::HEADER);
    link_room.copy_from_slice(&link);
    let (fields, _) = network_room.as_chunks_mut::<4>();
    for (field, word) in fields.iter_mut().zip(network) {
        *field = word.to_be_bytes();
    }
    transport_room.copy_from_slice(&transport);
}
