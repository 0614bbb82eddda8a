//! TCP over the host: segments and errors for a TCP engine, and segments from it.
//!
//! The host does not own the engine, which works on another kind of payload besides packet
//! memory. It keeps what arrived until [`exchange`] takes it, and sends what the engine has.

use std::net::SocketAddr;

use super::Host;
use super::icmp::Cited;
use super::output::{Outgoing as Packet, Plan, frames_of};
use super::receive::{Arrival, Link};
use crate::buffer::{Allocator, Buffer};
use crate::drops::DropReason;
use crate::ipv4::Ipv4Header;
use crate::offload::{ChecksumState, Offload, Segmentation};
use crate::tcp::header::HEADER;
use crate::tcp::{
    Attach, Flow, Outgoing, Segment, SeqNumber, SharedPayload, TcpEngine, TcpHeader, TcpIcmp,
    TcpIcmpKind,
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
/// [`TcpEngine::set_most_payload`]) leave as one frame that says how it is to be split: allow
/// them only where whoever takes the frames has a device do that, or does it by
/// [`offload::segment`](crate::offload::segment()).
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
            0 => 1,
            // A short queue is never longer, and half of it may be all that is ever seen free.
            _ => MOST_PIECES.min(host.most_frames / 2).max(1),
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

    /// Keeps a segment for the engine.
    pub(super) fn receive_tcp(&mut self, mut packet: B, arrival: &Arrival) {
        let header = &arrival.header;
        if arrival.is_broadcast {
            // RFC 9293, section 3.9.2.3: no connection with a group.
            return self.drop_received(DropReason::NotForOurAddress);
        }
        packet.trim_front(header.header_length);
        if arrival.link == Link::Loopback {
            // It lies in memory that we send from. Were it kept there until it is read, nothing
            // might be left to send what the reader waits for.
            packet.detach();
        }
        let (source, destination) = (header.source.into(), header.destination.into());
        let offload = arrival.offload;
        let must_verify = offload.checksum == ChecksumState::Plain;
        let parsed = Segment::parse(source, destination, header.dscp_ecn, packet, must_verify);
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
        if self.tcp_errors.len() >= MOST_WAITING {
            return Err(DropReason::MailboxFull);
        }
        let icmp = TcpIcmp {
            flow: Flow::new(cited.local.into(), cited.peer.into()),
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
    /// with its description, where it goes to a station at once; else in pieces.
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
                    DropReason::NeighborUnreachable | DropReason::NoRoute
                ) {
                    let sequence = outgoing.header.sequence;
                    self.report_no_neighbor(outgoing.flow, sequence);
                }
                self.drop_sent(reason);
            }
        }
    }

    /// A frame waited for a neighbour that did not answer: if it is a TCP segment, the engine is
    /// told.
    pub(super) fn report_unresolved(&mut self, frame: &B) {
        let packet = frame.head().get(ethernet::HEADER..).unwrap_or_default();
        let Ok(header) = Ipv4Header::parse(packet, frame.len().saturating_sub(ethernet::HEADER))
        else {
            return;
        };
        let segment = packet.get(header.header_length..).unwrap_or_default();
        if header.protocol != ipv4::TCP || header.fragment_offset > 0 {
            return;
        }
        if let Ok((tcp, _)) = TcpHeader::parse(segment) {
            let local = SocketAddr::new(header.source.into(), tcp.source_port);
            let remote = SocketAddr::new(header.destination.into(), tcp.destination_port);
            self.report_no_neighbor(Flow::new(local, remote), tcp.sequence);
        }
    }

    fn report_no_neighbor(&mut self, flow: Flow, sequence: SeqNumber) {
        if self.has_tcp && self.tcp_errors.len() < MOST_WAITING {
            let icmp = TcpIcmp {
                flow,
                sequence,
                kind: TcpIcmpKind::NoNeighbor,
            };
            self.tcp_errors.push(Reported { icmp, cited: None });
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
        let (SocketAddr::V4(local), SocketAddr::V4(remote)) =
            (outgoing.flow.local(), outgoing.flow.remote())
        else {
            return Err(DropReason::NoRoute);
        };
        let plan = self.plan(now, *remote.ip(), pool)?;
        self.check_length(&plan, outgoing)?;
        self.check_room(&plan, 0)?;
        let is_long = outgoing.segment_size > 0;
        if is_long && !plan.is_direct() {
            return Ok(Sent::Split);
        }
        let offload = outgoing.offload(ethernet::HEADER + ipv4::HEADER);
        let packet = outgoing.take_packet(pool).ok_or(DropReason::PoolEmpty)?;
        let fields = Packet {
            source: *local.ip(),
            destination: *remote.ip(),
            protocol: ipv4::TCP,
            ttl: self.ttl,
            dscp_ecn: outgoing.dscp_ecn,
            sender: None,
        };
        self.output(&plan, &fields, packet);
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
        let frames = frames_of(frame);
        self.use_room(frames - 1);
        self.has_offloads = true;
        Ok(())
    }

    /// Whether a segment fits the path as it is; if not, the engine is told.
    fn check_length<S: SharedPayload>(
        &mut self,
        plan: &Plan,
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
