//! From a socket to the engine's output.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Host;
use super::family::Family;
use super::long::partial_header;
use super::neighbors::Sender;
use super::output::{Outgoing, Plan};
use crate::buffer::{Allocator, Buffer, Payload};
use crate::checksum::Checksum;
use crate::drops::DropReason;
use crate::offload::Offload;
use crate::reserved::push_reserved;
use crate::time::Instant;
use crate::udp::{self, SendOutcome, UdpDatagram, UdpSend, UdpSocketId};
use crate::{ethernet, ipv4};

/// What a send needs to know of its socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Local<F = Ipv4Addr> {
    pub(super) id: UdpSocketId,
    pub(super) address: Option<F>,
    pub(super) port: u16,
}

/// Everything that is decided about a datagram before any memory is touched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ready<F = Ipv4Addr> {
    pub(super) plan: Plan<F>,
    pub(super) outgoing: Outgoing<F>,
    /// The UDP header.
    pub(super) header: [u8; udp::HEADER],
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
        match is_ipv6(id) {
            false => self.send_udp_of::<Ipv4Addr, A>(now, id, burst, pool),
            true => self.send_udp_of::<Ipv6Addr, A>(now, id, burst, pool),
        }
    }

    #[inline(always)]
    fn send_udp_of<F: Family, A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        id: UdpSocketId,
        burst: &mut Vec<UdpSend<B>>,
        pool: &mut A,
    ) -> SendOutcome {
        let offered = burst.len();
        let Some(local) = self.local::<F>(id) else {
            return self.refuse_all(burst);
        };
        let common = F::write_run(self, now, &local, burst);
        for send in burst.drain(..common) {
            if let Payload::Buffer(frame) = send.payload {
                push_reserved(&mut self.transmit, frame);
            }
        }
        if !burst.is_empty() {
            self.send_each(now, &local, burst, pool);
        }
        self.finish_burst(now, offered, burst.len(), pool)
    }

    /// Sends a burst of received datagrams from the socket `id` back to where they came from,
    /// each from the address that it was sent to: [`send_udp`](Self::send_udp) of
    /// [`UdpSend::reply`], with less to do for each.
    ///
    /// `burst` is then empty: what is refused is dropped, and its reasons, in order, are behind what
    /// `refused` held before.
    pub fn reply_udp<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        id: UdpSocketId,
        burst: &mut Vec<UdpDatagram<B>>,
        refused: &mut Vec<DropReason>,
        pool: &mut A,
    ) -> SendOutcome {
        match is_ipv6(id) {
            false => self.reply_udp_of::<Ipv4Addr, A>(now, id, burst, refused, pool),
            true => self.reply_udp_of::<Ipv6Addr, A>(now, id, burst, refused, pool),
        }
    }

    #[inline(always)]
    fn reply_udp_of<F: Family, A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        id: UdpSocketId,
        burst: &mut Vec<UdpDatagram<B>>,
        refused: &mut Vec<DropReason>,
        pool: &mut A,
    ) -> SendOutcome {
        let offered = burst.len();
        let before = refused.len();
        let local = self.local::<F>(id);
        if let Some(local) = &local {
            let common = F::write_run(self, now, local, burst);
            let replies = burst.drain(..common);
            self.transmit
                .extend(replies.map(|datagram| datagram.payload));
        }
        if !burst.is_empty() {
            self.reply_each(now, local.as_ref(), burst, refused, pool);
        }
        self.finish_burst(now, offered, refused.len() - before, pool)
    }

    fn local<F: Family>(&self, id: UdpSocketId) -> Option<Local<F>> {
        let socket = F::sockets(self).get(id)?;
        Some(Local {
            id,
            address: socket.address,
            port: socket.port,
        })
    }

    /// Counts a burst, and receives what of it was to ourselves.
    fn finish_burst<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        offered: usize,
        refused: usize,
        pool: &mut A,
    ) -> SendOutcome {
        let accepted = offered - refused;
        self.counters.udp_sent += accepted as u64;
        if !self.looped.is_empty() {
            self.receive_looped(now, pool);
        }
        SendOutcome { accepted, refused }
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

    /// Sends those replies of a burst that can be sent, and drops the others.
    #[inline(never)]
    fn reply_each<F: Family, A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        local: Option<&Local<F>>,
        burst: &mut Vec<UdpDatagram<B>>,
        refused: &mut Vec<DropReason>,
        pool: &mut A,
    ) {
        let mut replies = burst.drain(..);
        while let Some(datagram) = replies.next() {
            let outcome = match local {
                Some(local) => self.send_one(now, local, &mut UdpSend::reply(datagram), pool),
                None => Err(DropReason::SocketClosed),
            };
            let Err(reason) = outcome else {
                continue;
            };
            // Those behind would be refused for the same reason.
            let others = match is_shortage(reason) || local.is_none() {
                true => replies.by_ref().count(),
                false => 0,
            };
            self.drop_many_sent(reason, 1 + others);
            refused.resize(refused.len() + 1 + others, reason);
        }
    }

    /// Sends those of a burst that can be sent, and leaves the others in it.
    #[inline(never)]
    fn send_each<F: Family, A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        local: &Local<F>,
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
            if is_shortage(reason) {
                shortage = Some(reason);
            }
            true
        });
    }

    /// Sends one datagram, whose payload it takes; or refuses it and leaves it as it is.
    fn send_one<F: Family, A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        local: &Local<F>,
        send: &mut UdpSend<B>,
        pool: &mut A,
    ) -> Result<(), DropReason> {
        if F::write_run(self, now, local, std::slice::from_mut(send)) == 0 {
            return self.send_slow(now, local, send, pool);
        }
        let taken = std::mem::replace(&mut send.payload, Payload::Empty);
        if let Payload::Buffer(frame) = taken {
            self.transmit.push(frame);
        }
        Ok(())
    }

    /// Sends any datagram.
    #[inline(never)]
    pub(super) fn send_slow<F: Family, A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        local: &Local<F>,
        send: &mut UdpSend<B>,
        pool: &mut A,
    ) -> Result<(), DropReason> {
        if let Some(size) = send.segment_size
            && usize::from(size) < send.payload.len()
        {
            return self.send_train(now, local, send, size, pool);
        }
        let length = udp::HEADER + send.payload.len();
        let offloads_fragmentation = self.offloads_fragmentation;
        let is_cut_later = |plan: &Plan<F>| {
            F::HAS_UFO && offloads_fragmentation && plan.is_direct() && plan.must_fragment(length)
        };
        let header = |plan: &Plan<F>, source, destination, payload: &_| match is_cut_later(plan) {
            true => partial_header(source, destination, payload),
            false => header(source, destination, payload),
        };
        let ready = self.prepare(now, local, send, header, pool)?;
        self.check_room(&ready.plan, length)?;
        if is_cut_later(&ready.plan) {
            return self.send_to_be_fragmented(ready, send, pool);
        }
        let headers = ethernet::HEADER + F::HEADER + udp::HEADER;
        let is_in_place = match &send.payload {
            Payload::Buffer(buffer) => buffer.headroom() >= headers,
            Payload::Bytes(_) | Payload::Empty => false,
        };
        if !is_in_place || ready.plan.must_fragment(length) {
            return self.send_copy(&ready, send, pool);
        }
        let taken = std::mem::replace(&mut send.payload, Payload::Empty);
        if let Payload::Buffer(mut buffer) = taken {
            // What was said of a frame that the payload was in is not said of this one.
            buffer.set_offload(Offload::NONE);
            // There is room, as was checked.
            if let Some(room) = buffer
                .prepend(udp::HEADER)
                .and_then(|room| room.first_chunk_mut())
            {
                *room = ready.header;
            }
            F::output(self, &ready.plan, &ready.outgoing, buffer);
        }
        Ok(())
    }

    /// Decides where and how a datagram goes, and computes its header by `header`, from the plan,
    /// source, destination and payload. Whether there is room is still to be checked.
    pub(super) fn prepare<F: Family, A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        local: &Local<F>,
        send: &UdpSend<B>,
        header: impl FnOnce(&Plan<F>, (F, u16), (F, u16), &Payload<B>) -> [u8; udp::HEADER],
        pool: &mut A,
    ) -> Result<Ready<F>, DropReason> {
        let destination = F::of(send.destination.ip()).ok_or(DropReason::NoRoute)?;
        let peer = (destination, send.destination.port());
        if peer.1 == 0 || send.ttl == Some(0) {
            return Err(DropReason::Malformed);
        }
        if send.payload.len() > udp::MAX_PAYLOAD {
            return Err(DropReason::TooBig);
        }
        let plan = F::plan(self, now, destination, pool)?;
        let source = self.source(local, send.source, plan.source)?;
        let source_and_port = (source, local.port);
        let header = header(&plan, source_and_port, peer, &send.payload);
        Ok(Ready {
            plan,
            outgoing: Outgoing {
                source,
                destination,
                protocol: ipv4::UDP,
                ttl: send.ttl.unwrap_or(self.ttl),
                dscp_ecn: send.dscp_ecn,
                sender: Some(Sender {
                    id: local.id,
                    local: source.endpoint(local.port).into(),
                    peer: send.destination,
                }),
            },
            header,
        })
    }

    /// The source address of a datagram: what was asked for if it is ours and the socket's,
    /// else the socket's, else ours on the route.
    #[inline]
    fn source<F: Family>(
        &self,
        local: &Local<F>,
        asked: Option<IpAddr>,
        on_route: F,
    ) -> Result<F, DropReason> {
        let default = local.address.unwrap_or(on_route);
        let Some(asked) = asked else {
            return Ok(default);
        };
        match F::of(asked).ok_or(DropReason::BadSource)? {
            asked if asked == default => Ok(default),
            asked if local.address.is_none() && asked.is_own(self) => Ok(asked),
            asked if asked.is_no_source(self) => Ok(default),
            _ => Err(DropReason::BadSource),
        }
    }

    /// Sends a datagram that can not be sent where it lies.
    #[inline(never)]
    fn send_copy<F: Family, A: Allocator<Buffer = B>>(
        &mut self,
        ready: &Ready<F>,
        send: &UdpSend<B>,
        pool: &mut A,
    ) -> Result<(), DropReason> {
        if !self.copy(&ready.plan, &ready.header, &send.payload, pool) {
            return Err(DropReason::PoolEmpty);
        }
        F::output_pieces(self, &ready.plan, &ready.outgoing);
        Ok(())
    }
}

/// Whether what is refused for this reason would be sent if there were more room.
fn is_shortage(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::RingFull | DropReason::NoCredit | DropReason::PoolEmpty
    )
}

/// Whether a socket is one of IPv6.
#[inline(always)]
pub(super) fn is_ipv6(id: UdpSocketId) -> bool {
    id.slot & <Ipv6Addr as Family>::SOCKET_MARK != 0
}

/// The UDP header for `payload`.
fn header<F: Family, B: Buffer>(
    source: (F, u16),
    destination: (F, u16),
    payload: &Payload<B>,
) -> [u8; udp::HEADER] {
    finish_header(source, destination, payload.len(), |sum| {
        payload.for_each_segment(|segment| sum.add(segment));
    })
}

/// A UDP header with its checksum (RFC 768: zero is sent as all ones), for a payload of `length`
/// bytes, at most 65 507, that `add` sums up.
fn finish_header<F: Family>(
    (source, source_port): (F, u16),
    (destination, destination_port): (F, u16),
    length: usize,
    add: impl FnOnce(&mut Checksum),
) -> [u8; udp::HEADER] {
    let length = (udp::HEADER + length) as u16;
    let mut sum = F::pseudo_header(source, destination, ipv4::UDP, length);
    let ports = u64::from(source_port) << 48 | u64::from(destination_port) << 32;
    let header = ports | u64::from(length) << 16;
    sum.add(&header.to_be_bytes());
    add(&mut sum);
    let sum = match sum.finish() {
        0 => 0xffff,
        sum => sum,
    };
    (header | u64::from(sum)).to_be_bytes()
}
