//! TCP over the host: segments and errors for a TCP engine, and segments from it.
//!
//! The host does not own the engine, which works on another kind of payload besides packet
//! memory. It keeps what arrived until [`exchange`] takes it, and sends what the engine has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Host;
use super::family::Family;
use super::fast::FastTcp;
use super::icmp::Cited;
use super::output::{Outgoing as Packet, Plan};
use super::receive::{Carrier, Link};
use crate::buffer::{Allocator, Buffer};
use crate::drops::DropReason;
use crate::offload::{ChecksumState, Offload, SegmentKind, Segmentation};
use crate::tcp::header::HEADER;
use crate::tcp::{
    Attach, Flow, Outgoing, Segment, SeqNumber, SharedPayload, TcpEngine, TcpIcmp, TcpIcmpKind,
};
use crate::time::Instant;
use crate::{ethernet, icmp, ipv4};

/// Segments and errors that wait for the engine, at most: more than any burst.
const MOST_WAITING: usize = 4096;

/// Segments into which one is split at most: 65 535 bytes in pieces of 496.
const MOST_PIECES: usize = 133;

/// An error about a segment of ours, and the packet that it cites if it came by ICMP.
#[derive(Debug)]
pub(super) struct Reported {
    icmp: TcpIcmp,
    cited: Option<Cited>,
}

/// What became of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// It was sent as it is.
    Whole,
    /// It must be split, and was not sent.
    Split,
}

/// Moves segments between a host and the TCP engine behind it, until neither has something for
/// the other or the host has no room to transmit. Call it after everything that may give either
/// of them work: a received burst, a deadline that passed, something written, room to transmit.
///
/// `outgoing` is reused. What the host can not send is dropped and counted, and sent again by
/// the engine in time. Segments that are longer than the path takes (see
/// [`TcpEngine::set_most_payload`]) leave as one frame that says how it is to be split where the
/// device does that ([`Host::set_device_segmentation`]), else in pieces that share the payload.
pub fn exchange<A, S>(
    now: Instant,
    host: &mut Host<A::Buffer>,
    engine: &mut TcpEngine<A::Buffer, S>,
    outgoing: &mut Outgoing<S>,
    pool: &mut A,
) where
    A: Allocator,
    A::Buffer: Attach<S>,
    S: SharedPayload,
{
    loop {
        engine.receive(now, &mut host.tcp_segments);
        while let Some(Reported { icmp, cited }) = host.tcp_errors.pop() {
            let is_believed = engine.handle_icmp(now, &icmp);
            // Others learn of a narrow path only if the connection has believed it.
            if is_believed && let (Some(cited), TcpIcmpKind::TooBig { mtu }) = (cited, icmp.kind) {
                host.lower_path_mtu(now, &cited, mtu);
            }
            host.counters.icmp_errors_received += u64::from(is_believed && cited.is_some());
        }
        let least_room = match engine.most_payload() {
            // A short queue is never longer, and half of it may be all that is ever seen free.
            long if long > 0 && !host.has_segments_cut() => {
                MOST_PIECES.min(host.most_frames / 2).max(1)
            }
            _ => 1,
        };
        // What is sent to ourselves is received before more is sent: it holds memory.
        let most_looped = match host.is_sharded {
            true => host.most_looped.saturating_sub(least_room),
            false => 0,
        };
        while host.room >= least_room
            && host.looped.len() <= most_looped
            && engine.poll_transmit(now, outgoing)
        {
            host.send_tcp_pieces(now, outgoing, pool);
        }
        // What was sent to ourselves (of a sharded host it is handed over), and paths that turned
        // out to be narrower.
        if !host.looped.is_empty() && !host.is_sharded {
            host.receive_looped(now, pool);
        } else if host.tcp_errors.is_empty() {
            return;
        }
    }
}

impl<B: Buffer> Host<B> {
    /// From now on TCP segments are kept for [`exchange`]. Without this, they are answered by
    /// "protocol unreachable".
    pub fn enable_tcp(&mut self) {
        self.has_tcp = true;
    }

    /// Whether segments or errors wait for [`exchange`].
    pub fn has_for_tcp(&self) -> bool {
        !(self.tcp_segments.is_empty() && self.tcp_errors.is_empty())
    }

    /// Keeps the segment in an ordinary frame for the engine. Gives back any other frame.
    #[inline]
    pub(super) fn receive_segment(&mut self, frame: B) -> Result<(), B> {
        match self.has_tcp && frame.is_simple() {
            true => self.keep_segment(FastTcp::parse(frame.head(), self.mac), frame),
            false => Err(frame),
        }
    }

    /// As [`receive_segment`](Self::receive_segment), for a frame whose checksum the device has
    /// verified or never completed.
    pub(super) fn receive_verified_segment(&mut self, frame: B) -> Result<(), B> {
        match self.has_tcp {
            true => self.keep_segment(FastTcp::parse_verified(frame.head(), self.mac), frame),
            false => Err(frame),
        }
    }

    #[inline(always)]
    fn keep_segment(&mut self, fast: Option<FastTcp>, mut frame: B) -> Result<(), B> {
        let Some(fast) = fast.filter(|_| self.tcp_segments.len() < MOST_WAITING) else {
            return Err(frame);
        };
        let (source, destination) = (fast.source, fast.destination);
        if !self.addresses.is_own(destination) || !self.addresses.is_foreign_source(source) {
            return Err(frame);
        }
        frame.truncate(FastTcp::IN_FRONT + fast.length);
        if !frame.is_simple() {
            // What was said of it is not said of what may be sent in its memory.
            frame.set_offload(Offload::NONE);
        }
        // It is read where it is to stay: put together elsewhere, it would be moved by wide loads
        // that wait for the narrow stores before.
        self.tcp_segments.push(Segment::unread(frame));
        let ends = (source.into(), destination.into());
        let segment = self.tcp_segments.last_mut();
        match segment.map(|it| it.read(ends, fast.dscp_ecn, FastTcp::IN_FRONT)) {
            Some(Err(reason)) => {
                self.tcp_segments.pop();
                self.drop_received(reason);
            }
            _ => self.counters.delivered += 1,
        }
        Ok(())
    }

    /// Keeps a segment for the engine.
    pub(super) fn receive_tcp<F: Family>(&mut self, mut packet: B, carrier: &Carrier<F>) {
        if carrier.is_group {
            // RFC 9293, section 3.9.2.3: no connection with a group.
            return self.drop_received(DropReason::NotForOurAddress);
        }
        packet.trim_front(carrier.header_length);
        if carrier.link == Link::Loopback {
            // It lies in memory that we send from. Were it kept there until it is read, nothing
            // might be left to send what the reader waits for.
            packet.detach();
        }
        let (source, destination) = (carrier.source.into(), carrier.destination.into());
        let offload = carrier.offload;
        let must_verify = offload.checksum == ChecksumState::Plain;
        let parsed = Segment::parse(source, destination, carrier.dscp_ecn, packet, must_verify);
        match parsed {
            Err(reason) => self.drop_received(reason),
            Ok(_) if self.tcp_segments.len() >= MOST_WAITING => {
                self.drop_received(DropReason::MailboxFull);
            }
            Ok(mut segment) => {
                self.counters.delivered += 1;
                if let Some(Segmentation { size, .. }) = offload.segmentation {
                    let pieces = segment.payload.len().div_ceil(usize::from(size.max(1)));
                    segment.merged = pieces.clamp(1, u16::MAX.into()) as u16;
                }
                self.tcp_segments.push(segment);
            }
        }
    }

    /// Whether the device cuts every long segment.
    fn has_segments_cut(&self) -> bool {
        let longest = ethernet::HEADER + ipv4::MAX_PACKET;
        let kind = SegmentKind::Tcp { ecn: true };
        let cuts = |is_ipv6| self.device_segmentation.cuts(kind, is_ipv6, longest);
        cuts(false) && cuts(true)
    }

    /// Keeps an ICMP error for the engine, which knows whether to believe it.
    pub(super) fn receive_tcp_error(
        &mut self,
        cited: &Cited,
        (kind, code): (u8, u8),
        mtu: u16,
    ) -> Result<(), DropReason> {
        if !self.has_tcp {
            return Err(DropReason::IcmpIgnored);
        }
        let kind = match (kind, code) {
            (icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED) => TcpIcmpKind::TooBig {
                mtu: cited.reported_mtu(mtu).ok_or(DropReason::IcmpIgnored)?,
            },
            // Protocol and port unreachable, and what a firewall says.
            (icmp::UNREACHABLE, 2 | 3 | 9 | 10 | 13) => TcpIcmpKind::Refused,
            _ => TcpIcmpKind::Unreachable,
        };
        self.report_to_tcp(cited, kind)
    }

    /// Keeps what an error says of a segment of ours for the engine.
    pub(super) fn report_to_tcp(
        &mut self,
        cited: &Cited,
        kind: TcpIcmpKind,
    ) -> Result<(), DropReason> {
        if !self.has_tcp {
            return Err(DropReason::IcmpIgnored);
        }
        if self.tcp_errors.len() >= MOST_WAITING {
            return Err(DropReason::MailboxFull);
        }
        let icmp = TcpIcmp {
            flow: Flow::new(cited.local, cited.peer),
            sequence: SeqNumber(cited.behind_ports),
            kind,
        };
        self.tcp_errors.push(Reported {
            icmp,
            cited: Some(*cited),
        });
        // It is consumed whether it is believed or not.
        Ok(())
    }

    /// Sends a segment, and counts it if it is dropped. One that is to be split goes out whole,
    /// with its description, where it goes to a station at once and the device splits it; else in
    /// pieces.
    fn send_tcp_pieces<A, S>(&mut self, now: Instant, outgoing: &mut Outgoing<S>, pool: &mut A)
    where
        A: Allocator<Buffer = B>,
        B: Attach<S>,
        S: SharedPayload,
    {
        match self.send_tcp(now, outgoing, pool) {
            Ok(Sent::Whole) => {}
            Ok(Sent::Split) => {
                let mut first = Outgoing::new();
                while outgoing.split_first(&mut first) {
                    self.send_tcp_pieces(now, &mut first, pool);
                }
                self.send_tcp_pieces(now, outgoing, pool);
            }
            Err(reason) => {
                if matches!(
                    reason,
                    DropReason::NoRoute | DropReason::NeighborUnreachable
                ) {
                    self.report_tcp_unreachable(outgoing.flow, outgoing.header.sequence);
                }
                self.drop_sent(reason);
            }
        }
    }

    /// Tells the engine that a segment could not be delivered by this host.
    fn report_tcp_unreachable(&mut self, flow: Flow, sequence: SeqNumber) {
        if self.tcp_errors.len() < MOST_WAITING {
            let icmp = TcpIcmp {
                flow,
                sequence,
                kind: TcpIcmpKind::NoNeighbor,
            };
            self.tcp_errors.push(Reported { icmp, cited: None });
        }
    }

    /// A frame waited for a neighbour that did not answer: if it is a segment, the engine is told.
    pub(super) fn fail_tcp(&mut self, frame: &B) {
        let packet = frame.head().get(ethernet::HEADER..).unwrap_or_default();
        if let Ok(cited) = Cited::parse(packet)
            && cited.protocol == ipv4::TCP
            && self.has_tcp
        {
            let flow = Flow::new(cited.local, cited.peer);
            self.report_tcp_unreachable(flow, SeqNumber(cited.behind_ports));
        }
    }

    /// Sends a segment, unless it must be split first.
    fn send_tcp<A, S>(
        &mut self,
        now: Instant,
        outgoing: &mut Outgoing<S>,
        pool: &mut A,
    ) -> Result<Sent, DropReason>
    where
        A: Allocator<Buffer = B>,
        B: Attach<S>,
        S: SharedPayload,
    {
        match outgoing.flow.addresses() {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                self.send_tcp_over::<Ipv4Addr, A, S>(now, (local, remote), outgoing, pool)
            }
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                self.send_tcp_over::<Ipv6Addr, A, S>(now, (local, remote), outgoing, pool)
            }
            _ => Err(DropReason::NoRoute),
        }
    }

    fn send_tcp_over<F, A, S>(
        &mut self,
        now: Instant,
        (local, remote): (F, F),
        outgoing: &mut Outgoing<S>,
        pool: &mut A,
    ) -> Result<Sent, DropReason>
    where
        F: Family,
        A: Allocator<Buffer = B>,
        B: Attach<S>,
        S: SharedPayload,
    {
        let plan = F::plan(self, now, remote, pool);
        let plan = plan.as_ref().map_err(|reason| *reason)?;
        self.check_length(plan, outgoing)?;
        self.check_room(plan, 0)?;
        let is_long = outgoing.segment_size > 0;
        let offload = outgoing.offload(ethernet::HEADER + F::HEADER);
        if let Some(Segmentation { kind, .. }) = offload.segmentation {
            let headers = ethernet::HEADER + F::HEADER + HEADER + outgoing.header.options.length();
            let length = headers + outgoing.payload_length();
            // Its pieces share the payload; whoever cuts the frame later has to copy it.
            let is_cut = self.device_segmentation.cuts(kind, F::IS_IPV6, length);
            if !is_cut || !plan.is_direct() {
                return Ok(Sent::Split);
            }
        }
        let Some(packet) = outgoing.take_packet(pool) else {
            return Err(DropReason::PoolEmpty);
        };
        let fields = Packet {
            source: local,
            destination: remote,
            protocol: ipv4::TCP,
            ttl: self.ttl,
            dscp_ecn: outgoing.dscp_ecn,
            sender: None,
        };
        F::output(self, plan, &fields, packet);
        if is_long {
            self.describe_last(offload)?;
        }
        Ok(Sent::Whole)
    }

    /// Says of the last frame, which went out directly, how it is to be split.
    fn describe_last(&mut self, offload: Offload) -> Result<(), DropReason> {
        let Some(frame) = self.transmit.last_mut() else {
            return Ok(());
        };
        if !frame.set_offload(offload) {
            // Memory that can not say it.
            self.transmit.pop();
            return Err(DropReason::TooBig);
        }
        self.has_offloads = true;
        self.counters.tx_segmented += 1;
        if let Some(frame) = self.transmit.last() {
            self.use_room(self.room_for(frame) - 1);
        }
        Ok(())
    }

    /// Whether a segment fits the path as it is; if not, the engine is told.
    fn check_length<F: Family, S: SharedPayload>(
        &mut self,
        plan: &Plan<F>,
        outgoing: &Outgoing<S>,
    ) -> Result<(), DropReason> {
        let header = HEADER + outgoing.header.options.length();
        let payload = match outgoing.segment_size {
            0 => outgoing.payload_length(),
            size => size.into(),
        };
        if !plan.must_fragment(header + payload) {
            return Ok(());
        }
        if self.tcp_errors.len() < MOST_WAITING {
            let mtu = plan.mtu.mtu as u16;
            let icmp = TcpIcmp {
                flow: outgoing.flow,
                sequence: outgoing.header.sequence,
                kind: TcpIcmpKind::TooBig { mtu },
            };
            self.tcp_errors.push(Reported { icmp, cited: None });
        }
        Err(DropReason::TooBig)
    }
}

#[cfg(test)]
mod tests;
