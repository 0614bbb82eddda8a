//! How long a segment may be on the path to the peer (RFC 1191, RFC 8201), and the search for a
//! path that has become wider (RFC 4821, RFC 8899).
//!
//! After a while one segment that is longer is sent. If it arrives, all may be as long; if it does
//! not, that is no sign of congestion, and a length between is tried, until little is left between.

use std::time::Duration;

use super::Connection;
use crate::buffer::Buffer;
use crate::tcp::header::HEADER;
use crate::tcp::payload::SharedPayload;
use crate::tcp::reassembly::Range;
use crate::tcp::recovery::Mode;
use crate::time::Instant;

/// How long a narrow path is believed in (RFC 1191, section 6.3; RFC 8201, section 4).
const NARROW: Duration = Duration::from_secs(600);

/// Time between a probe that was lost and the next.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// The search ends when less than this is left between what passes and what does not.
const PRECISION: u16 = 32;

/// No path narrower than this is believed: 536 bytes of segment are what every host takes (RFC
/// 9293, section 3.7.1), less the most options.
const LEAST_MSS: u16 = 496;

/// Every IPv6 link carries packets of this length (RFC 8200, section 5).
const LEAST_IPV6_MTU: u16 = 1280;

/// What is known about a path that takes less than the link.
#[derive(Debug)]
pub(super) struct Narrow {
    /// When a longer segment is tried.
    next_probe: Instant,
    /// Segments of this size did not pass in this search; none is known if it is the largest.
    ceiling: u16,
    /// The segment that is under way, and its size without options.
    probe: Option<(Range, u16)>,
}

impl<B: Buffer, S: SharedPayload> Connection<B, S> {
    /// Routers say that packets to the peer may not be longer than `mtu` bytes, or a black hole
    /// suggests it. Whether that lowers the segment size; what is too long is sent again at once
    /// and is no sign of congestion (RFC 1191, section 6.4).
    pub(crate) fn lower_mtu(&mut self, mtu: u16, now: Instant) -> bool {
        // RFC 8201, section 4: such a report is discarded.
        if self.flow.is_ipv6() && mtu < LEAST_IPV6_MTU {
            return false;
        }
        let headers = (self.flow.ip_header() + HEADER) as u16;
        let mss = mtu.saturating_sub(headers).max(LEAST_MSS);
        if mss >= self.path_mss {
            return self.refuse_path_probe(mss, now);
        }
        self.path_mss = mss;
        self.narrow = Some(Box::new(Narrow {
            next_probe: now + NARROW,
            ceiling: u16::MAX,
            probe: None,
        }));
        self.use_path_mss();
        let segment_size = self.segment_size();
        self.send.board.lose_longer(segment_size);
        true
    }

    /// A router says that the probe was longer than `mss`, which others are not.
    fn refuse_path_probe(&mut self, mss: u16, now: Instant) -> bool {
        let probe = self.narrow.as_ref().and_then(|narrow| narrow.probe);
        if probe.is_none_or(|(_, size)| size <= mss) {
            return false;
        }
        self.fail_path_probe(now);
        let segment_size = self.segment_size();
        self.send.board.lose_longer(segment_size);
        true
    }

    fn use_path_mss(&mut self) {
        let segment_size = self.segment_size();
        self.congestion.get_mut().set_segment_size(segment_size);
    }

    /// The next new bytes as one segment that is longer than the path is known to take, behind
    /// `options` bytes of options; if it is time, and there is so much to send.
    pub(super) fn next_path_probe(&mut self, options: u64, now: Instant) -> Option<Range> {
        let size = self.path_probe_size()?;
        let length = u64::from(size).saturating_sub(options);
        let narrow = self.narrow.as_ref()?;
        let is_time = narrow.probe.is_none() && now >= narrow.next_probe;
        // Only SACK tells that this one is lost and others are not.
        let is_possible = self.negotiated.sack && self.recovery.mode == Mode::Open;
        let want = self.send.queue.end().saturating_sub(self.send.nxt);
        let room = self.send.usable_window().min(want);
        if !is_time || !is_possible || room.min(self.congestion_room(length)) < length {
            return None;
        }
        let range = Range {
            start: self.send.nxt,
            end: self.send.nxt + length,
        };
        self.narrow.as_mut()?.probe = Some((range, size));
        Some(range)
    }

    /// The size to try: first that of the link, then half of what is left (RFC 8899, section
    /// 5.3.2). `None` if that is too little to matter.
    fn path_probe_size(&self) -> Option<u16> {
        let most = self.link_mss.min(self.peer_mss);
        let ceiling = self.narrow.as_ref()?.ceiling;
        let size = match ceiling > most {
            true => most,
            false => self.path_mss.midpoint(ceiling),
        };
        let is_worth_it =
            size > self.path_mss && (ceiling > most || ceiling - self.path_mss >= PRECISION);
        is_worth_it.then_some(size)
    }

    /// Looks whether the probe has arrived.
    pub(super) fn finish_path_probe(&mut self, now: Instant) {
        let Some(narrow) = &mut self.narrow else {
            return;
        };
        if let Some((range, size)) = narrow.probe
            && self.send.una >= range.end
        {
            narrow.probe = None;
            narrow.next_probe = now;
            self.path_mss = self.path_mss.max(size);
            self.use_path_mss();
            self.end_search(now);
        }
    }

    /// If the probe counts as lost now: how many bytes of it do.
    pub(super) fn lose_path_probe(&mut self, now: Instant) -> u64 {
        let probe = self.narrow.as_ref().and_then(|narrow| narrow.probe);
        let Some((range, _)) = probe else {
            return 0;
        };
        let lost = self.send.board.lost_within(range);
        if lost > 0 {
            self.fail_path_probe(now);
        }
        lost
    }

    fn fail_path_probe(&mut self, now: Instant) {
        if let Some(narrow) = &mut self.narrow
            && let Some((_, size)) = narrow.probe.take()
        {
            narrow.ceiling = size;
            narrow.next_probe = now + PROBE_INTERVAL;
            self.end_search(now);
        }
    }

    /// Ends the search if there is nothing left to try, for a while or for good.
    fn end_search(&mut self, now: Instant) {
        if self.path_mss >= self.link_mss.min(self.peer_mss) {
            self.narrow = None;
        } else if self.path_probe_size().is_none()
            && let Some(narrow) = &mut self.narrow
        {
            narrow.ceiling = u16::MAX;
            narrow.next_probe = now + NARROW;
        }
    }
}
