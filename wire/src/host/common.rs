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

/// A datagram to send, as far as it is of the common kind.
pub(super) struct Common<'a, B> {
    peer: SocketAddrV4,
    /// The address that it shall be sent from.
    source: Option<Ipv4Addr>,
    /// `None`: the host's setting.
    ttl: Option<u8>,
    dscp_ecn: u8,
    payload: &'a mut B,
}

/// What a run is made of.
pub(super) trait Outbound<B> {
    /// The datagram; `None` if it is not of the common kind.
    fn common(&mut self) -> Option<Common<'_, B>>;
}

impl<B> Outbound<B> for UdpSend<B> {
    #[inline(always)]
    fn common(&mut self) -> Option<Common<'_, B>> {
        let (SocketAddr::V4(peer), Payload::Buffer(payload), None) =
            (self.destination, &mut self.payload, self.segment_size)
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
}

/// The reply to it, as [`UdpSend::reply`] makes it.
impl<B> Outbound<B> for UdpDatagram<B> {
    #[inline(always)]
    fn common(&mut self) -> Option<Common<'_, B>> {
        let (SocketAddr::V4(peer), SocketAddr::V4(asked)) = (self.source, self.destination) else {
            return None;
        };
        Some(Common {
            peer,
            source: Some(*asked.ip()),
            ttl: None,
            dscp_ecn: 0,
            payload: &mut self.payload,
        })
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
        // Of these the device completes the checksums.
        let shortest = match self.offloads_checksum {
            true => LONG,
            false => usize::MAX,
        };
        let mut template = None;
        // Replies of a burst are mostly from addresses of one prefix.
        let mut owner = Masked::NONE;
        let (mut written, mut bytes) = (0, 0);
        for datagram in burst.iter_mut().take(most) {
            let Some(common) = datagram.common() else {
                break;
            };
            // What was found for the datagram before still holds.
            let template = match &template {
                Some(known) if common.is_like(known, self.ttl) => known,
                _ => match self.template(now, local, &common) {
                    Some(found) => template.insert(found),
                    None => break,
                },
            };
            let source = common.source_of(local, template, &self.addresses, &mut owner);
            let Some(source) = source.filter(|_| common.fits(template)) else {
                break;
            };
            let length = common.payload.head().len();
            let is_summed = length < shortest || !common.payload.set_offload(PARTIAL);
            let sum = is_summed.then(|| checksum::sum_bytes(common.payload.head()));
            let Some(room) = common
                .payload
                .prepend(HEADERS)
                .and_then(|room| room.first_chunk_mut())
            else {
                break;
            };
            let id = self.random.identification(template.dont_fragment);
            template.write(room, source, common.peer.port(), id, (length, sum));
            written += 1;
            bytes += HEADERS + length;
        }
        self.room -= written;
        self.counters.tx_frames += written as u64;
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
