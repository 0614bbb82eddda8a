//! From a socket to the engine's output.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use super::Host;
use super::addresses::Masked;
use super::neighbors::Sender;
use super::output::{Outgoing, Plan};
use super::paths::Path;
use crate::buffer::{Allocator, Buffer, Payload};
use crate::checksum::{self, Checksum};
use crate::drops::DropReason;
use crate::reserved::push_reserved;
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
    /// short (`RingFull`, `NoCredit`, `PoolEmpty`), the ones behind are refused too, so that nothing is
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
        let common = self.send_run(now, &local, burst);
        if common == burst.len() {
            burst.clear();
        } else {
            drop(burst.drain(..common));
            self.send_each(now, &local, burst, pool);
        }
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

    /// Sends those of a burst that can be sent, and leaves the others in it.
    #[inline(never)]
    fn send_each<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        local: &Local,
        burst: &mut Vec<UdpSend<B>>,
        pool: &mut A,
    ) {
        let mut shortage = None;
        burst.retain_mut(|send| {
            let outcome = match shortage {
                None => self.send_one(now, local, send, pool),
                Some(reason) => Err(reason),
            };
            let Err(reason) = outcome else {
                return false;
            };
            self.drop_sent(reason);
            send.refused = Some(reason);
            if matches!(
                reason,
                DropReason::RingFull | DropReason::NoCredit | DropReason::PoolEmpty
            ) {
                shortage = Some(reason);
            }
            true
        });
    }

    /// Sends one datagram, whose payload it takes; or refuses it and leaves it as it is.
    fn send_one<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        local: &Local,
        send: &mut UdpSend<B>,
        pool: &mut A,
    ) -> Result<(), DropReason> {
        if self.send_run(now, local, std::slice::from_mut(send)) == 1 {
            return Ok(());
        }
        self.send_slow(now, local, send, pool)
    }

    /// The common case: payloads that lie in one piece with room for their headers, to
    /// destinations whose paths are remembered. Sends datagrams from the front of `burst` on,
    /// whose payloads it takes, until one is not of this kind; returns how many.
    ///
    /// It writes what [`send_slow`](Self::send_slow) would write.
    fn send_run(&mut self, now: Instant, local: &Local, burst: &mut [UdpSend<B>]) -> usize {
        let generation = self.neighbors.generation();
        let most = burst.len().min(self.room);
        self.transmit.reserve(most);
        let mut last_path = None;
        // Replies of a burst are mostly from addresses of one prefix.
        let owner = match burst.first().and_then(|send| send.source) {
            Some(IpAddr::V4(asked)) => self.addresses.owner(asked).unwrap_or(Masked::NONE),
            _ => Masked::NONE,
        };
        let before = self.transmit.len();
        let mut bytes = 0;
        for send in burst.get_mut(..most).unwrap_or_default() {
            let (SocketAddr::V4(peer), Payload::Buffer(buffer)) =
                (send.destination, &mut send.payload)
            else {
                break;
            };
            // What may call a function comes first, while little is in registers.
            let payload = checksum::sum_bytes(buffer.head());
            let id = self.random.id();
            // What was found for the datagram before still holds.
            let path = match last_path.filter(|path: &&Path| path.destination == *peer.ip()) {
                Some(path) => path,
                None => match self.paths.get(now, *peer.ip(), generation) {
                    Some(path) => path,
                    None => break,
                },
            };
            last_path = Some(path);
            let source = match (send.source, local.address) {
                (None, None) => path.source,
                (None, Some(bound)) => bound,
                (Some(IpAddr::V4(asked)), Some(bound)) if asked == bound => bound,
                // What a reply from a socket bound to any address asks for.
                (Some(IpAddr::V4(asked)), None) if self.addresses.is_own_like(owner, asked) => {
                    asked
                }
                _ => break,
            };
            let total = HEADERS - ethernet::HEADER + buffer.head().len();
            let ttl = send.ttl.unwrap_or(self.ttl);
            let is_common = ttl != 0
                && peer.port() != 0
                && total <= path.mtu.mtu
                && !buffer.is_chain()
                && buffer.headroom() >= HEADERS;
            if !is_common {
                break;
            }
            let source = SocketAddrV4::new(source, local.port);
            let transport = transport_header(source, peer, buffer.head().len(), payload);
            let network = NetworkHeader {
                source: *source.ip(),
                destination: *peer.ip(),
                total: total as u16,
                id,
                dont_fragment: path.mtu.dont_fragment,
                ttl,
                dscp_ecn: send.dscp_ecn,
            };
            let Some(room) = buffer
                .prepend(HEADERS)
                .and_then(|room| room.first_chunk_mut())
            else {
                break;
            };
            write_headers(room, &path.link, network.to_numbers(), transport);
            if let Payload::Buffer(frame) = std::mem::replace(&mut send.payload, Payload::Empty) {
                push_reserved(&mut self.transmit, frame);
            }
            bytes += ethernet::HEADER + total;
        }
        let sent = self.transmit.len() - before;
        self.room -= sent;
        self.counters.tx_frames += sent as u64;
        self.counters.tx_bytes += bytes as u64;
        sent
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

/// A UDP header with its checksum (RFC 768: zero is sent as all ones), for a payload of `length`
/// bytes, at most 65 507, that `add` sums up.
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

/// [`header`] as a number, for a payload of `length` bytes whose sum is `payload`.
#[inline(always)]
fn transport_header(
    source: SocketAddrV4,
    destination: SocketAddrV4,
    length: usize,
    payload: u64,
) -> u64 {
    let length = (udp::HEADER + length) as u16;
    let ports = u64::from(source.port()) << 48 | u64::from(destination.port()) << 32;
    let header = ports | u64::from(length) << 16;
    let sum = checksum::finish_udp_sum(checksum::sum_numbers([
        u64::from(source.ip().to_bits()) + u64::from(destination.ip().to_bits()),
        header,
        u64::from(ipv4::UDP) + u64::from(length),
        payload,
    ]));
    header | u64::from(sum)
}

/// The fields of an IPv4 header of an unfragmented UDP datagram.
struct NetworkHeader {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    total: u16,
    id: u16,
    dont_fragment: bool,
    ttl: u8,
    dscp_ecn: u8,
}

impl NetworkHeader {
    /// The header with its checksum, as numbers of 8, 8 and 4 bytes.
    #[inline(always)]
    fn to_numbers(&self) -> (u64, u64, u32) {
        let first = 0x4500_0000_0000_0000
            | u64::from(self.dscp_ecn) << 48
            | u64::from(self.total) << 32
            | u64::from(self.id) << 16
            | u64::from(self.dont_fragment) << 14;
        let second = u64::from(self.ttl) << 56
            | u64::from(ipv4::UDP) << 48
            | u64::from(self.source.to_bits());
        let third = self.destination.to_bits();
        let sum = checksum::sum_numbers([first, second, u64::from(third)]);
        let second = second | u64::from(checksum::finish_sum(sum)) << 32;
        (first, second, third)
    }
}

/// Writes Ethernet, IPv4 and UDP headers. The last two bytes of `link` are not written.
#[inline(always)]
fn write_headers(
    room: &mut [u8; HEADERS],
    link: &[u8; ethernet::HEADER + 2],
    network: (u64, u64, u32),
    transport: u64,
) {
    // All of it in one store; the IPv4 header then covers what is too much.
    if let Some(link_room) = room.first_chunk_mut() {
        *link_room = *link;
    }
    let (_, rest) = room.split_at_mut(ethernet::HEADER);
    let (first, rest) = rest.split_at_mut(8);
    let (second, rest) = rest.split_at_mut(8);
    let (third, fourth) = rest.split_at_mut(4);
    first.copy_from_slice(&network.0.to_be_bytes());
    second.copy_from_slice(&network.1.to_be_bytes());
    third.copy_from_slice(&network.2.to_be_bytes());
    fourth.copy_from_slice(&transport.to_be_bytes());
}
