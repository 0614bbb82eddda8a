//! One connection: its two halves, and what moves it from state to state.
//!
//! ```text
//! arrival    segment -> checks in the order of RFC 9293, section 3.10.7 -> acknowledgment
//!                                                                       -> data, FIN
//! acknowledgment     -> what arrived, what is lost, how fast to go on
//! spurious           -> what was taken for loss and was none
//! application  what its owner asks for
//! output       the next segment to send, if any
//! headers      flags, options and window of it
//! path         how long that may be, and whether it may be longer
//! expiry       what a timer that fired does
//! ```
//!
//! A connection knows neither the tables of the engine nor other connections. It says through
//! [`Connection::has_output`], [`Timers`] and [`Readiness`] what it wants.

mod acknowledgment;
mod application;
mod arrival;
mod expiry;
mod handshake;
mod headers;
mod output;
mod path;
mod spurious;
mod stats;

use std::sync::Arc;

use super::config::TcpOptions;
use super::congestion::{Controller, initial_window};
use super::counters::TcpCounters;
use super::flow::Flow;
use super::header::Timestamps;
use super::pacing::Pacer;
use super::payload::SharedPayload;
use super::receiver::Receiver;
use super::recovery::{Mode, Recovery};
use super::rtt::RttEstimator;
use super::scoreboard::Records;
use super::send_queue::Chunks;
use super::sender::Sender;
use super::sequence::{Origin, SeqNumber, WindowScale};
use super::spare::Queues;
use super::state::{Readiness, TcpError, TcpState};
use super::timers::{Timer, Timers};
use crate::buffer::Buffer;
use crate::drops::DropReason;
use crate::time::{Instant, Span};

pub(crate) use handshake::Opened;
use path::Narrow;

/// The engine around a connection, for the length of one call.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    /// Bytes in the longest IP packet of the link.
    pub(crate) mtu: u16,
    /// Bytes of payload in the longest segment that is split later; 0: one segment.
    pub(crate) most_payload: u32,
    /// Whether the acknowledgment of a FIN waits for ours.
    pub(crate) delays_end_acks: bool,
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
    /// The user timeout, with whatever is sent next.
    pub(crate) user_timeout: bool,
}

/// Challenge ACKs in this span (RFC 5961, section 7: 10 in 5 s, here for each connection, so
/// that none can be used to learn about another).
const CHALLENGE_SPAN: Span = Span::from_secs(5);
const CHALLENGES: u8 = 10;

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection<B, S> {
    pub(crate) flow: Flow,
    /// The hash by which its engine finds it.
    pub(crate) hash: u64,
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
    pacer: Pacer,

    /// Payload bytes that a segment without options may have: by the peer, and by the path.
    peer_mss: u16,
    path_mss: u16,
    /// What the link allows, and what is known if the path allows less.
    link_mss: u16,
    narrow: Option<Box<Narrow>>,
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
    user_timeout: Span,
    last_received: Instant,
    last_sent: Instant,
    challenges_since: Instant,
    challenges: u8,
    keepalives: u8,
    /// Timeouts since anything was acknowledged.
    timeouts_in_row: u8,
    timeouts: u32,
    retransmits: u32,
    /// Responses to loss that were undone.
    undone: u32,
}

impl<B: Buffer, S: SharedPayload> Connection<B, S> {
    /// A connection that is closed: to be opened by `connect` or `accept`. It is large, and made
    /// where it stays.
    #[inline(always)]
    pub(crate) fn new(
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
            hash: 0,
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
            receive: Receiver::new(options.first_buffer()),
            rtt: RttEstimator::new(options.least_timeout.into()),
            congestion: Controller::new(
                options.congestion,
                segment_size,
                initial_window(segment_size),
            ),
            recovery: Recovery::new(),
            peer_mss,
            path_mss,
            link_mss: path_mss,
            narrow: None,
            pacer: Pacer::new(),
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
            user_timeout: options.user_timeout.into(),
            last_received: now,
            last_sent: now,
            challenges_since: now,
            challenges: 0,
            keepalives: 0,
            timeouts_in_row: 0,
            timeouts: 0,
            retransmits: 0,
            undone: 0,
            options,
        }
    }

    /// Takes memory for its queues over from another. Nothing was written or sent yet.
    pub(crate) fn adopt(&mut self, queues: Queues<B, S>) {
        self.send.queue.exchange_memory(queues.chunks);
        self.send.board.exchange_memory(queues.records);
        self.receive.queue = queues.received;
    }

    /// Leaves the memory of its queues, with what is in them, to others: it is about to go.
    pub(crate) fn give_up_queues(&mut self) -> Queues<B, S> {
        Queues {
            chunks: self.send.queue.exchange_memory(Chunks::new()),
            records: self.send.board.exchange_memory(Records::new()),
            received: std::mem::take(&mut self.receive.queue),
        }
    }

    /// Reads from each of the cache lines that a segment needs, so that they are on their way
    /// while other connections are looked up. What it returns means nothing.
    #[inline]
    pub(crate) fn touch(&self) -> u64 {
        let ends =
            self.timers.get(Timer::Retransmit).as_nanos() ^ self.timers.get(Timer::Idle).as_nanos();
        ends ^ self.send.una
            ^ self.send.window_ack
            ^ self.send.queue.end()
            ^ self.send.board.in_flight()
            ^ self.receive.next
            ^ self.receive.queue.len() as u64
            ^ self.receive.window()
            ^ self.rtt.smoothed().as_nanos()
            ^ self.recovery.window
            ^ self.recovery.high
            ^ self.pacer.left()
            ^ self.last_sent.as_nanos()
            ^ self.ecn_high
            ^ u64::from(self.keepalives)
            ^ u64::from(self.owner == Owner::Nobody)
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
            user_timeout: _,
        } = self.wanted;
        // One after the other: one load for all of them would wait for the last that was set. A
        // connection that is over sends a reset only, whatever was wanted before.
        reset
            || (self.state != TcpState::Closed
                && (ack
                    || tail_probe
                    || window_probe
                    || keepalive
                    || self.send.has_unsent()
                    || self.send.board.lost() > 0))
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
        if cx.now.span_since(self.challenges_since) >= CHALLENGE_SPAN {
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

/// How long nothing must be under way before the memory of empty queues is given back: longer
/// than the pauses of a stream, so that it does not allocate all the time.
const IDLE: Span = Span::from_secs(1);

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
        assert!(size <= 872, "{size} bytes");
    }
}
