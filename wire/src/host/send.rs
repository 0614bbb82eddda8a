//! From a socket to the engine's output.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use super::Host;
use super::neighbors::Sender;
use super::output::{Outgoing, Plan};
use crate::buffer::{Allocator, Buffer, Payload};
use crate::checksum::Checksum;
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
        let local = self.sockets.get(id).map(|socket| Local {
            id,
            address: socket.address,
            port: socket.port,
        });
        let mut refused = std::mem::take(&mut self.refused);
        let mut shortage = match local {
            Some(_) => None,
            None => Some(DropReason::SocketClosed),
        };
        for send in burst.drain(..) {
            let outcome = match (shortage, &local) {
                (None, Some(local)) => self.send_one(now, local, send, pool),
                (reason, _) => Err((reason.unwrap_or(DropReason::SocketClosed), send)),
            };
            if let Err((reason, mut send)) = outcome {
                self.drop_sent(reason);
                send.refused = Some(reason);
                refused.push(send);
                if matches!(reason, DropReason::RingFull | DropReason::PoolEmpty) {
                    shortage = Some(reason);
                }
            }
        }
        let outcome = SendOutcome {
            accepted: offered - refused.len(),
            refused: refused.len(),
        };
        self.counters.udp_sent += outcome.accepted as u64;
        burst.append(&mut refused);
        self.refused = refused;
        self.receive_looped(now, pool);
        outcome
    }

    #[inline]
    fn send_one<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        local: &Local,
        send: UdpSend<B>,
        pool: &mut A,
    ) -> Result<(), (DropReason, UdpSend<B>)> {
        let ready = match self.prepare(now, local, &send, pool) {
            Ok(ready) => ready,
            Err(reason) => return Err((reason, send)),
        };
        let length = udp::HEADER + send.payload.len();
        let in_place = match &send.payload {
            Payload::Buffer(buffer) => buffer.headroom() >= HEADERS,
            Payload::Bytes(_) => false,
        };
        if !in_place || ready.plan.must_fragment(length) {
            return self.send_copy(&ready, send, pool);
        }
        if let Payload::Buffer(mut buffer) = send.payload {
            // There is room, as was checked.
            if let Some(room) = buffer.prepend(udp::HEADER) {
                room.copy_from_slice(&ready.header);
            }
            self.output(&ready.plan, &ready.outgoing, buffer);
        }
        Ok(())
    }

    /// Decides where and how a datagram goes, and computes its header.
    #[inline]
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
    fn send_copy<A: Allocator<Buffer = B>>(
        &mut self,
        ready: &Ready,
        send: UdpSend<B>,
        pool: &mut A,
    ) -> Result<(), (DropReason, UdpSend<B>)> {
        if !self.copy(&ready.plan, &ready.header, &send.payload, pool) {
            return Err((DropReason::PoolEmpty, send));
        }
        self.output_pieces(&ready.plan, &ready.outgoing);
        Ok(())
    }
}

/// The UDP header for `payload`, with its checksum (RFC 768: zero is sent as all ones).
#[inline]
fn header<B: Buffer>(
    source: SocketAddrV4,
    destination: SocketAddrV4,
    payload: &Payload<B>,
) -> [u8; udp::HEADER] {
    // At most 65 515, as was checked.
    let length = (udp::HEADER + payload.len()) as u16;
    let [s0, s1] = source.port().to_be_bytes();
    let [d0, d1] = destination.port().to_be_bytes();
    let [l0, l1] = length.to_be_bytes();
    let mut sum = Checksum::pseudo_header(*source.ip(), *destination.ip(), ipv4::UDP, length);
    sum.add(&[s0, s1, d0, d1, l0, l1]);
    match payload {
        Payload::Buffer(buffer) if !buffer.is_chain() => sum.add(buffer.head()),
        payload => payload.for_each_segment(|segment| sum.add(segment)),
    }
    let sum = match sum.finish() {
        0 => 0xffff,
        sum => sum,
    };
    let [c0, c1] = sum.to_be_bytes();
    [s0, s1, d0, d1, l0, l1, c0, c1]
}
