//! Runs of datagrams on their way out, the common case: their headers are written where the
//! payloads lie, from a [`Template`] that serves as long as they go to one host.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use super::Host;
use super::addresses::{Addresses, Masked};
use super::send::Local;
use super::template::{HEADERS, Template};
use crate::buffer::{Buffer, Payload};
use crate::checksum;
use crate::offload::{ChecksumState, Offload, PartialChecksum};
use crate::time::Instant;
use crate::udp::{self, UdpDatagram, UdpSend};

/// Bytes of payload from which it is left to the device to complete the checksum: to say so, and to
/// hear of it, costs both sides a line, and a shorter payload has hardly more.
const LONG: usize = 256;

/// What then is left to do.
const PARTIAL: Offload = Offload {
    checksum: ChecksumState::Partial(PartialChecksum {
        start: (HEADERS - udp::HEADER) as u16,
        offset: udp::CHECKSUM as u16,
    }),
    segmentation: None,
};

/// Datagrams of a run that are looked at before the first of their headers is written.
const RUN: usize = 64;

/// A datagram to send, as far as it is of the common kind.
pub(super) struct Common<'a, B> {
    peer: SocketAddrV4,
    /// The address that it shall be sent from.
    source: Option<Ipv4Addr>,
    /// `None`: the host's setting.
    ttl: Option<u8>,
    dscp_ecn: u8,
    payload: &'a B,
}

/// What a run is made of.
pub(super) trait Outbound<B> {
    /// The datagram; `None` if it is not of the common kind.
    fn common(&self) -> Option<Common<'_, B>>;

    /// Its payload, if it lies in a buffer.
    fn payload(&mut self) -> Option<&mut B>;
}

/// What was decided about a datagram whose headers will be written.
#[derive(Debug, Clone, Copy, Default)]
struct Decided {
    /// The address that it is sent from.
    source: u32,
    /// The port that it is sent to.
    port: u16,
}

/// Reused by [`Host::write_run`]: the datagrams of one run.
#[derive(Debug)]
pub(super) struct Run(Box<[Decided; RUN]>);

impl Default for Run {
    fn default() -> Self {
        Run(Box::new([Decided::default(); RUN]))
    }
}

impl<B> Outbound<B> for UdpSend<B> {
    #[inline(always)]
    fn common(&self) -> Option<Common<'_, B>> {
        let (SocketAddr::V4(peer), Payload::Buffer(payload), None) =
            (self.destination, &self.payload, self.segment_size)
        else {
            return None;
        };
        let source = match self.source {
            None => None,
            Some(IpAddr::V4(source)) => Some(source),
            Some(IpAddr::V6(_)) => return None,
        };
        Some(Common {
            peer,
            source,
            ttl: self.ttl,
            dscp_ecn: self.dscp_ecn,
            payload,
        })
    }

    #[inline(always)]
    fn payload(&mut self) -> Option<&mut B> {
        match &mut self.payload {
            Payload::Buffer(payload) => Some(payload),
            Payload::Bytes(_) | Payload::Empty => None,
        }
    }
}

/// The reply to it, as [`UdpSend::reply`] makes it.
impl<B> Outbound<B> for UdpDatagram<B> {
    #[inline(always)]
    fn common(&self) -> Option<Common<'_, B>> {
        let (SocketAddr::V4(peer), SocketAddr::V4(asked)) = (self.source, self.destination) else {
            return None;
        };
        Some(Common {
            peer,
            source: Some(*asked.ip()),
            ttl: None,
            dscp_ecn: 0,
            payload: &self.payload,
        })
    }

    #[inline(always)]
    fn payload(&mut self) -> Option<&mut B> {
        Some(&mut self.payload)
    }
}

impl<B: Buffer> Host<B> {
    /// The common case: payloads that lie in one piece with room for their headers, to
    /// destinations whose paths are remembered. Writes the headers of datagrams from the front of
    /// `burst` on, until one is not of this kind; returns how many. The caller puts their
    /// payloads, frames now, into the transmit queue, which has room.
    ///
    /// It writes what [`send_slow`](Self::send_slow) would write, but for the checksums that the
    /// device completes.
    pub(super) fn write_run<O: Outbound<B>>(
        &mut self,
        now: Instant,
        local: &Local,
        burst: &mut [O],
    ) -> usize {
        let most = burst.len().min(self.room);
        self.transmit.reserve(most);
        let burst = burst.get_mut(..most).unwrap_or_default();
        let mut written = 0;
        loop {
            let rest = burst.get_mut(written..).unwrap_or_default();
            let template = rest.first().and_then(Outbound::common);
            let template = template.and_then(|common| self.template(now, local, &common));
            let Some(template) = template else { break };
            let decided = self.decide(local, &template, rest);
            let run = rest.get_mut(..decided).unwrap_or_default();
            let count = self.write(&template, run);
            written += count;
            if count == 0 || count < decided {
                break;
            }
        }
        self.room -= written;
        self.counters.tx_frames += written as u64;
        written
    }

    /// For how many datagrams from the front of `burst` on `template` is, at most `RUN`. What their
    /// headers need besides is in `self.outgoing`.
    ///
    /// Nothing is written yet: a loop that does both has too much at hand for the registers, and what
    /// it keeps in memory instead is stored anew for each packet.
    #[inline(always)]
    fn decide<O: Outbound<B>>(&mut self, local: &Local, template: &Template, burst: &[O]) -> usize {
        // Replies of a burst are mostly from addresses of one prefix.
        let mut owner = Masked::NONE;
        let mut count = 0;
        for (datagram, decided) in burst.iter().zip(&mut self.outgoing.0[..]) {
            let Some(common) = datagram.common() else {
                break;
            };
            if !common.is_like(template, self.ttl) || !common.fits(template) {
                break;
            }
            let source = common.source_of(local, template, &self.addresses, &mut owner);
            let Some(source) = source else { break };
            *decided = Decided {
                source: source.to_bits(),
                port: common.peer.port(),
            };
            count += 1;
        }
        count
    }

    /// Writes the headers of datagrams about which all is decided; returns of how many. It is less
    /// than all if one is too long for its memory to tell.
    #[inline(always)]
    fn write<O: Outbound<B>>(&mut self, template: &Template, burst: &mut [O]) -> usize {
        // Of these the device completes the checksums.
        let shortest = match self.offloads_checksum {
            true => LONG,
            false => usize::MAX,
        };
        let (mut written, mut bytes) = (0, 0);
        for (datagram, decided) in burst.iter_mut().zip(&self.outgoing.0[..]) {
            let Some(payload) = datagram.payload() else {
                break;
            };
            let length = payload.head().len();
            let sum = match length < shortest {
                true => Some(checksum::sum_bytes(payload.head())),
                false => leave_checksum(payload),
            };
            let room = payload.prepend(HEADERS);
            let Some(room) = room.and_then(|room| room.first_chunk_mut()) else {
                break;
            };
            let id = self.random.identification(template.dont_fragment);
            template.write(room, decided.source, decided.port, id, (length, sum));
            written += 1;
            bytes += HEADERS + length;
        }
        self.counters.tx_bytes += bytes as u64;
        written
    }

    /// The headers of `common` and those like it; `None` if its path is not remembered.
    #[inline(never)]
    fn template(&self, now: Instant, local: &Local, common: &Common<'_, B>) -> Option<Template> {
        let generation = self.neighbors.generation();
        let path = self.paths.get(now, *common.peer.ip(), generation)?;
        let ttl = common.ttl.unwrap_or(self.ttl);
        (ttl != 0).then(|| Template::new(path, local.port, ttl, common.dscp_ecn))
    }
}

impl<B: Buffer> Common<'_, B> {
    /// Whether `template` is for this datagram too.
    #[inline(always)]
    fn is_like(&self, template: &Template, ttl: u8) -> bool {
        *self.peer.ip() == template.peer
            && self.ttl.unwrap_or(ttl) == template.ttl
            && self.dscp_ecn == template.dscp_ecn
    }

    /// The address to send from; `None` if that takes more to find out.
    #[inline(always)]
    fn source_of(
        &self,
        local: &Local,
        template: &Template,
        addresses: &Addresses,
        owner: &mut Masked,
    ) -> Option<Ipv4Addr> {
        match (self.source, local.address) {
            (None, bound) => Some(bound.unwrap_or(template.route_source)),
            (Some(asked), Some(bound)) => (asked == bound).then_some(bound),
            // What a reply from a socket bound to any address asks for.
            (Some(asked), None) => {
                if !owner.contains(asked) {
                    *owner = addresses.owner(asked)?;
                }
                Some(asked)
            }
        }
    }

    /// Whether the headers can be written in front of the payload.
    #[inline(always)]
    fn fits(&self, template: &Template) -> bool {
        self.peer.port() != 0
            && self.payload.is_simple()
            && self.payload.head().len() <= template.longest
            && self.payload.headroom() >= HEADERS
    }
}

/// Leaves the checksum over `payload` to the device; the sum over it, if its memory can not say so.
#[inline(never)]
fn leave_checksum<B: Buffer>(payload: &mut B) -> Option<u64> {
    match payload.set_offload(PARTIAL) {
        true => None,
        false => Some(checksum::sum_bytes(payload.head())),
    }
}
