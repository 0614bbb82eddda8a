//! One connection: its two halves, and what moves it from state to state.
//!
//! ```text
//! arrival    segment -> checks in the order of RFC 9293, section 3.10.7 -> acknowledgment
//!                                                                       -> data, FIN
//! acknowledgment     -> what arrived, what is lost, how fast to go on
//! output     the next segment to send, if any
//! expiry     what a timer that fired does
//! ```
//!
//! A connection knows neither the tables of the engine nor other connections. It says through
//! [`Connection::has_output`], [`Timers`] and [`Readiness`] what it wants.

mod acknowledgment;
mod arrival;
mod expiry;
mod handshake;
mod output;
mod stats;

use std::sync::Arc;
use std::time::Duration;

use super::config::TcpOptions;
use super::congestion::{Controller, initial_window};
use super::counters::TcpCounters;
use super::header::{HEADER, Timestamps};
use super::payload::SharedPayload;
use super::receiver::Receiver;
use super::recovery::{Mode, Recovery};
use super::rtt::RttEstimator;
use super::segment::Flow;
use super::sender::Sender;
use super::sequence::{Origin, SeqNumber, WindowScale};
use super::state::{Readiness, TcpError, TcpState, WriteError};
use super::timers::{Timer, Timers};
use crate::buffer::Buffer;
use crate::drops::DropReason;
use crate::time::Instant;

pub(crate) use handshake::Opened;

/// The engine around a connection, for the length of one call.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    /// Bytes in the longest IP packet of the link.
    pub(crate) mtu: u16,
    /// Bytes of payload in the longest segment that is split later; 0: one segment.
    pub(crate) most_payload: u32,
    /// Whether received data hold as much memory as they may, over all connections.
    pub(crate) is_memory_full: bool,
    pub(crate) counters: &'a mut TcpCounters,
}

/// Why a segment is not acted upon, and whether it is answered by a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: DropReason,
    pub(crate) reset: bool,
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Refusal {
            reason,
            reset: false,
        }
    }
}

impl Refusal {
    const fn reset(reason: DropReason) -> Self {
        Refusal {
            reason,
            reset: true,
        }
    }
}

/// Who has the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The application.
    Application,
    /// The listener at this index, until it is accepted.
    Listener(u32),
    /// Nobody: the application has closed it.
    Nobody,
}

/// What both sides agreed on.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Negotiated {
    pub(crate) timestamps: bool,
    pub(crate) sack: bool,
    pub(crate) ecn: bool,
    pub(crate) scaling: bool,
    /// How far the peer's windows are scaled, and ours.
    pub(crate) peer_scale: WindowScale,
    pub(crate) our_scale: WindowScale,
}

/// What is to be sent besides data.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wanted {
    /// An acknowledgment, now.
    pub(crate) ack: bool,
    /// A tail loss probe.
    pub(crate) tail_probe: bool,
    /// A byte into a closed window.
    pub(crate) window_probe: bool,
    /// A keepalive probe.
    pub(crate) keepalive: bool,
    /// A reset, after which there is nothing more.
    pub(crate) reset: bool,
}

/// Challenge ACKs in this span (RFC 5961, section 7: 10 in 5 s, here for each connection, so
/// that none can be used to learn about another).
const CHALLENGE_SPAN: Duration = Duration::from_secs(5);
const CHALLENGES: u8 = 10;

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection<B, S> {
    pub(crate) flow: Flow,
    pub(crate) state: TcpState,
    pub(crate) owner: Owner,
    /// Whether it is in the engine's ready list, event list and demultiplexer.
    pub(crate) is_ready: bool,
    pub(crate) is_told: bool,
    pub(crate) is_attached: bool,
    pub(crate) readiness: Readiness,
    pub(crate) error: Option<TcpError>,
    pub(crate) wanted: Wanted,
    pub(crate) timers: Timers,
    pub(crate) options: Arc<TcpOptions>,
    pub(crate) negotiated: Negotiated,
    pub(crate) send: Sender<S>,
    pub(crate) receive: Receiver<B>,
    rtt: RttEstimator,
    congestion: Controller,
    recovery: Recovery,

    /// Payload bytes that a segment without options may have: by the peer, and by the path.
    peer_mss: u16,
    path_mss: u16,
    /// What the link allows, to which the path is set again at this time.
    link_mss: u16,
    narrow_until: Instant,
    /// What is added to the clock for timestamps.
    timestamp_offset: u32,
    /// The peer's timestamp to echo, and when it came (TS.Recent).
    recent: u32,
    recent_at: Instant,
    /// What our last acknowledgment said (Last.ACK.sent).
    ack_sent: u64,
    /// Full segments that arrived since, and the longest that arrived.
    unacknowledged_segments: u16,
    longest_received: u16,
    /// Whether a refused write is to be followed by `writable`.
    wants_room: bool,
    /// Whether the congestion window kept data from being sent.
    is_window_limited: bool,
    /// Whether to echo that congestion was experienced, and to tell that the window was reduced.
    echo_congestion: bool,
    tell_reduced: bool,
    /// Congestion marks up to this position belong to one round trip.
    ecn_high: u64,
    /// The user timeout in use.
    user_timeout: Duration,
    last_received: Instant,
    last_sent: Instant,
    challenges_since: Instant,
    challenges: u8,
    keepalives: u8,
    /// Timeouts since anything was acknowledged.
    timeouts_in_row: u8,
    timeouts: u32,
    retransmits: u32,
}

impl<B: Buffer, S: SharedPayload> Connection<B, S> {
    fn new(
        flow: Flow,
        options: Arc<TcpOptions>,
        initial: SeqNumber,
        mtu: u16,
        now: Instant,
    ) -> Self {
        let path_mss = options.announced_mss(mtu, flow.ip_header());
        // RFC 9293, section 3.7.1: what is assumed of a peer that announces nothing.
        let peer_mss: u16 = match flow.ip_header() {
            20 => 536,
            _ => 1220,
        };
        let segment_size = u64::from(path_mss);
        Connection {
            flow,
            state: TcpState::Closed,
            owner: Owner::Application,
            is_ready: false,
            is_told: false,
            is_attached: false,
            readiness: Readiness::default(),
            error: None,
            wanted: Wanted::default(),
            timers: Timers::new(),
            negotiated: Negotiated::default(),
            send: Sender::new(initial),
            receive: Receiver::new(options.first_buffer(), options.most_buffer()),
            rtt: RttEstimator::new(options.least_timeout),
            congestion: Controller::new(
                options.congestion,
                segment_size,
                initial_window(segment_size),
            ),
            recovery: Recovery::new(),
            peer_mss,
            path_mss,
            link_mss: path_mss,
            narrow_until: now,
            timestamp_offset: 0,
            recent: 0,
            recent_at: now,
            ack_sent: Origin::SYN,
            unacknowledged_segments: 0,
            longest_received: 0,
            wants_room: false,
            is_window_limited: false,
            echo_congestion: false,
            tell_reduced: false,
            ecn_high: 0,
            user_timeout: options.user_timeout,
            last_received: now,
            last_sent: now,
            challenges_since: now,
            challenges: 0,
            keepalives: 0,
            timeouts_in_row: 0,
            timeouts: 0,
            retransmits: 0,
            options,
        }
    }

    /// Whether [`emit`](Self::emit) may have something to send.
    #[inline]
    pub(crate) fn has_output(&self) -> bool {
        let Wanted {
            ack,
            tail_probe,
            window_probe,
            keepalive,
            reset,
        } = self.wanted;
        ack || tail_probe
            || window_probe
            || keepalive
            || reset
            || (self.state != TcpState::Closed
                && (self.send.has_unsent() || self.send.board.lost() > 0))
    }

    /// Puts `chunk` behind what was written before.
    ///
    /// # Errors
    /// Why not, with the chunk.
    pub(crate) fn write(&mut self, chunk: S) -> Result<(), (WriteError, S)> {
        if !self.can_write() {
            return Err((WriteError::Finished, chunk));
        }
        if self.room() == 0 {
            self.wants_room = true;
            return Err((WriteError::Full, chunk));
        }
        self.send.queue.push(chunk);
        Ok(())
    }

    /// Bytes that may be written before the send buffer is full.
    pub(crate) fn room(&self) -> usize {
        let waiting = self.send.queue.end().saturating_sub(self.send.una) as usize;
        self.options.send_buffer.saturating_sub(waiting)
    }

    /// Whether this side may still write.
    pub(crate) fn can_write(&self) -> bool {
        self.state.can_write() && !self.send.is_finished
    }

    /// Asks for `writable` as soon as there is room. Returns whether it will come.
    pub(crate) fn want_room(&mut self) -> bool {
        self.wants_room = self.can_write() && self.room() == 0;
        self.wants_room
    }

    /// Takes the next payload that arrived. May want to announce a larger window then.
    pub(crate) fn read(&mut self, now: Instant) -> Option<B> {
        let payload = self.receive.take(now, self.rtt.smoothed())?;
        if self.state != TcpState::Closed {
            self.timers.set(Timer::Idle, now + IDLE);
        }
        if self.state.can_receive() && self.receive.wants_update(self.receive_segment_size()) {
            self.wanted.ack = true;
        }
        Some(payload)
    }

    /// Finishes this side: the FIN goes behind the last byte (RFC 9293, section 3.10.4).
    pub(crate) fn finish(&mut self) {
        if !self.can_write() {
            return;
        }
        self.send.is_finished = true;
        match self.state {
            TcpState::Established => self.state = TcpState::FinWait1,
            TcpState::CloseWait => self.state = TcpState::LastAck,
            // Before the connection is open, the FIN waits for that.
            _ => {}
        }
    }

    /// The application lets go of the connection. What it has not read can not be delivered any
    /// more, so the peer must not believe that it was (RFC 9293, section 3.6.1).
    pub(crate) fn close(&mut self, now: Instant) {
        self.owner = Owner::Nobody;
        match self.state {
            TcpState::SynSent => self.end(None),
            _ if !self.receive.queue.is_empty() || self.receive.has_gap() => self.abort(),
            TcpState::Closed => {}
            _ => {
                self.finish();
                self.timers
                    .set(Timer::Close, now + self.options.close_timeout);
            }
        }
    }

    /// Ends the connection by a reset (RFC 9293, section 3.10.5).
    pub(crate) fn abort(&mut self) {
        let must_tell = !matches!(
            self.state,
            TcpState::SynSent
                | TcpState::Closing
                | TcpState::LastAck
                | TcpState::TimeWait
                | TcpState::Closed
        );
        self.end(Some(TcpError::Aborted));
        self.wanted.reset = must_tell;
    }

    /// The connection has ended, because of `error` if there is one.
    pub(crate) fn end(&mut self, error: Option<TcpError>) {
        if self.state == TcpState::Closed {
            return;
        }
        self.state = TcpState::Closed;
        self.error = self.error.or(error);
        self.readiness.closed = true;
        self.wanted = Wanted::default();
        self.timers.clear_all();
        self.send.queue.clear();
        if self.owner == Owner::Nobody {
            self.receive.clear();
        }
    }

    /// Sets a new user timeout (RFC 5482).
    pub(crate) fn set_user_timeout(&mut self, timeout: Duration, now: Instant) {
        self.user_timeout = timeout;
        if self.timers.is_set(Timer::User) {
            self.timers.set(Timer::User, now + timeout);
        }
    }

    /// Keepalive begins, or its setting has changed.
    pub(crate) fn start_keepalive(&mut self, now: Instant) {
        match self.options.keepalive {
            Some(keepalive) if self.state.is_synchronized() => {
                self.timers.set(Timer::Keepalive, now + keepalive.idle);
            }
            _ => self.timers.clear(Timer::Keepalive),
        }
    }

    /// Routers say that packets to the peer may not be longer than `mtu` bytes, or a black hole
    /// suggests it. Whether that lowers the segment size; what is too long is sent again at once
    /// and is no sign of congestion (RFC 1191, section 6.4). After a while a longer one is tried
    /// again (section 6.3).
    pub(crate) fn lower_mtu(&mut self, mtu: u16, now: Instant) -> bool {
        // RFC 8201, section 4: such a report is discarded.
        if self.flow.remote().is_ipv6() && mtu < LEAST_IPV6_MTU {
            return false;
        }
        let headers = (self.flow.ip_header() + HEADER) as u16;
        let mss = mtu.saturating_sub(headers).max(LEAST_MSS);
        if mss >= self.path_mss {
            return false;
        }
        self.path_mss = mss;
        self.narrow_until = now + NARROW;
        let segment_size = self.segment_size();
        self.congestion.get_mut().set_segment_size(segment_size);
        self.send.board.lose_longer(segment_size);
        true
    }

    /// The path may have become wider, or never was narrow.
    fn widen(&mut self, now: Instant) {
        if self.path_mss < self.link_mss && now >= self.narrow_until {
            self.path_mss = self.link_mss;
            let segment_size = self.segment_size();
            self.congestion.get_mut().set_segment_size(segment_size);
        }
    }

    /// Payload bytes in a full segment, with the options that every segment has.
    #[inline]
    pub(crate) fn segment_size(&self) -> u64 {
        let options = if self.negotiated.timestamps { 12 } else { 0 };
        let mss = u64::from(self.peer_mss.min(self.path_mss));
        mss.saturating_sub(options).max(1)
    }

    /// Payload bytes in the segments that the peer sends, as far as we know.
    fn receive_segment_size(&self) -> u64 {
        match self.longest_received {
            0 => u64::from(self.path_mss),
            length => u64::from(length),
        }
    }

    /// Bytes under way.
    #[inline]
    fn in_flight(&self) -> u64 {
        // Without SACK each duplicate acknowledgment means that one segment has arrived.
        let arrived = match self.negotiated.sack {
            true => 0,
            false => u64::from(self.recovery.duplicates) * self.segment_size(),
        };
        self.send.board.in_flight().saturating_sub(arrived)
    }

    /// Bytes that may be under way.
    #[inline]
    fn congestion_window(&self) -> u64 {
        match self.recovery.mode {
            Mode::Recovery => self.recovery.window,
            Mode::Open | Mode::Loss => self.congestion.get().window(),
        }
    }

    /// The timestamps of a segment that is sent now (RFC 7323, section 3.2).
    fn timestamps(&self, now: Instant) -> Timestamps {
        Timestamps {
            value: clock(now).wrapping_add(self.timestamp_offset),
            echo: self.recent,
        }
    }

    /// An acknowledgment that tells a peer, or somebody who pretends to be it, what we expect
    /// (RFC 5961): limited.
    fn challenge(&mut self, cx: &mut Context<'_>) {
        if cx.now.since(self.challenges_since) >= CHALLENGE_SPAN {
            self.challenges_since = cx.now;
            self.challenges = 0;
        }
        if self.challenges < CHALLENGES {
            self.challenges += 1;
            cx.counters.challenge_acks += 1;
            self.wanted.ack = true;
        } else {
            cx.counters.challenge_acks_limited += 1;
        }
    }

    /// The next number that we would send, and expect: what a TIME-WAIT record needs.
    pub(crate) fn numbers(&self) -> (SeqNumber, SeqNumber) {
        (
            self.send.origin.number(self.send.nxt),
            self.receive.origin.number(self.receive.next),
        )
    }

    /// The peer's last timestamp, if timestamps are used.
    pub(crate) fn recent_timestamp(&self) -> Option<u32> {
        self.negotiated.timestamps.then_some(self.recent)
    }
}

/// How long a narrow path is believed in (RFC 1191, section 6.3).
const NARROW: Duration = Duration::from_secs(600);

/// How long nothing must be under way before the memory of empty queues is given back: longer
/// than the pauses of a stream, so that it does not allocate all the time.
const IDLE: Duration = Duration::from_secs(1);

/// No path narrower than this is believed: 536 bytes of segment are what every host takes (RFC
/// 9293, section 3.7.1), less the most options.
const LEAST_MSS: u16 = 496;

/// Every IPv6 link carries packets of this length (RFC 8200, section 5).
const LEAST_IPV6_MTU: u16 = 1280;

/// The clock of timestamps: milliseconds (RFC 7323, section 5.4).
pub(crate) fn clock(now: Instant) -> u32 {
    (now.as_nanos() / 1_000_000) as u32
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::buffer::HeapBuffer;

    #[test]
    fn an_idle_connection_is_small() {
        let size = size_of::<Connection<HeapBuffer, Bytes>>();
        assert!(size <= 840, "{size} bytes");
    }
}
