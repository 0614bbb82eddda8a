//! How a connection begins (RFC 9293, sections 3.5 and 3.10.7.3).

use super::{Connection, Context, Negotiated, Owner, Refusal};
use crate::buffer::Buffer;
use crate::drops::DropReason;
use crate::tcp::congestion::{Controller, initial_window};
use crate::tcp::flow::Flow;
use crate::tcp::header::{TcpFlags, TcpHeader};
use crate::tcp::payload::SharedPayload;
use crate::tcp::segment::Handled;
use crate::tcp::sequence::{Origin, SeqNumber};
use crate::tcp::state::{TcpError, TcpState};
use crate::tcp::timers::Timer;
use crate::tcp::user_timeout;
use crate::time::Instant;

/// What a listener learned in a handshake that a peer began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opened {
    pub(crate) flow: Flow,
    /// Our initial sequence number, and the peer's.
    pub(crate) ours: SeqNumber,
    pub(crate) theirs: SeqNumber,
    pub(crate) negotiated: Negotiated,
    /// The segment size that the peer announced, if it did.
    pub(crate) peer_mss: Option<u16>,
    /// The peer's last timestamp, and what is added to our clock.
    pub(crate) recent: u32,
    pub(crate) timestamp_offset: u32,
    /// When the SYN-ACK was sent, if only once.
    pub(crate) sent: Option<Instant>,
}

impl<B: Buffer, S: SharedPayload> Connection<B, S> {
    /// A new connection asks its peer to open it (RFC 9293, section 3.10.1).
    pub(crate) fn connect(&mut self, timestamp_offset: u32, now: Instant) {
        self.state = TcpState::SynSent;
        self.timestamp_offset = timestamp_offset;
        self.timers
            .set(Timer::User, now + self.options.connect_timeout);
    }

    /// A new connection is one that a peer asked for, and whose handshake is over.
    pub(crate) fn accept(&mut self, opened: &Opened, listener: u32, now: Instant) {
        self.state = TcpState::Established;
        self.owner = Owner::Listener(listener);
        self.negotiated = opened.negotiated;
        self.timestamp_offset = opened.timestamp_offset;
        self.recent = opened.recent;
        self.send.una = Origin::SYN + 1;
        self.send.nxt = Origin::SYN + 1;
        self.begin_receive(opened.theirs, opened.peer_mss);
        self.ack_sent = self.receive.next;
        if let Some(sent) = opened.sent {
            self.rtt.sample(now.span_since(sent));
        }
        self.open(opened.sent.is_none(), now);
    }

    /// Handles a segment in SYN-SENT (RFC 9293, section 3.10.7.3).
    pub(super) fn on_answer(
        &mut self,
        segment: Handled<'_, B>,
        cx: &mut Context<'_>,
    ) -> Result<(), Refusal> {
        let header = &*segment.header;
        let is_ack = header.flags.contains(TcpFlags::ACK);
        let ack = self
            .send
            .origin
            .position(header.acknowledgment, self.send.una);
        // First, the ACK bit: what it acknowledges must have been sent.
        if is_ack && (ack <= Origin::SYN || ack > self.send.nxt) {
            let is_reset = header.flags.contains(TcpFlags::RST);
            return Err(Refusal {
                reason: DropReason::BadAck,
                reset: !is_reset,
            });
        }
        // Second, the RST bit: only one that acknowledges our SYN is believed.
        if header.flags.contains(TcpFlags::RST) {
            if !is_ack {
                return Err(DropReason::BadFlags.into());
            }
            cx.counters.resets_received += 1;
            self.end(Some(TcpError::Refused));
            return Ok(());
        }
        // Fourth, the SYN bit.
        if !header.flags.contains(TcpFlags::SYN) {
            return Err(DropReason::BadFlags.into());
        }
        self.negotiate(header, cx.now);
        self.last_received = cx.now;
        if !is_ack {
            // Both asked at once: our SYN is sent again, now with an acknowledgment.
            self.state = TcpState::SynReceived;
            self.send.board.lose_all(false);
            return Ok(());
        }
        let was_repeated = self.timeouts > 0;
        self.acknowledge_syn(ack, cx.now);
        self.set_window(header, self.receive.next, ack, cx.now);
        self.open(was_repeated, cx.now);
        cx.counters.opened += 1;
        self.readiness.connected = true;
        self.wanted.ack = true;
        // Data and FIN of a SYN-ACK are handled as if they followed it.
        segment.header.sequence = header.sequence + 1;
        self.on_text(segment, cx).map_err(Refusal::from)
    }

    /// Learns from the peer's SYN what to use.
    fn negotiate(&mut self, header: &TcpHeader, now: Instant) {
        let options = &header.options;
        let ours = &self.options;
        // RFC 7323, section 1.3: scaling only if both offer it.
        let scales = options.window_scale.zip(ours.scale());
        let (peer_scale, our_scale) = scales.unwrap_or_default();
        let ece = header.flags.contains(TcpFlags::ECE);
        let cwr = header.flags.contains(TcpFlags::CWR);
        // RFC 3168, section 6.1.1: a SYN sets both bits, a SYN-ACK only the first.
        let is_ecn = ece && cwr != header.flags.contains(TcpFlags::ACK);
        self.negotiated = Negotiated {
            timestamps: ours.timestamps && options.timestamps.is_some(),
            sack: ours.sack && options.sack_permitted,
            ecn: ours.ecn && is_ecn,
            scaling: scales.is_some(),
            peer_scale,
            our_scale,
        };
        if let Some(timestamps) = options.timestamps {
            self.recent = timestamps.value;
            self.recent_at = now;
        }
        if let Some(option) = options.user_timeout {
            self.learn_user_timeout(option, now);
        }
        self.begin_receive(header.sequence, options.mss);
        // RFC 7323, section 2.2: the window of a SYN is not scaled.
        self.send.window = header.window.into();
        self.send.most_window = self.send.window;
    }

    /// The peer's SYN is numbered `theirs`.
    fn begin_receive(&mut self, theirs: SeqNumber, peer_mss: Option<u16>) {
        self.receive.begin(theirs);
        self.send.window_sequence = Origin::SYN;
        if let Some(mss) = peer_mss {
            // An MSS of a few bytes would make us send almost nothing but headers.
            self.peer_mss = mss.max(LEAST_PEER_MSS);
        }
        let segment_size = self.segment_size();
        let window = match self.options.initial_window {
            10 => initial_window(segment_size),
            segments => segment_size * u64::from(segments.max(1)),
        };
        self.congestion = Controller::new(self.options.congestion, segment_size, window);
    }

    /// The peer announces how long it waits (RFC 5482).
    pub(super) fn learn_user_timeout(&mut self, option: u16, now: Instant) {
        if self.options.announce_user_timeout {
            let timeout = user_timeout::agreed(self.options.user_timeout, option);
            self.user_timeout = timeout.into();
            if self.state.is_synchronized() && self.timers.is_set(Timer::User) {
                self.timers.set(Timer::User, now + timeout);
            }
        }
    }

    /// The connection is open. `was_repeated` says that our SYN had to be sent again: then
    /// begin carefully (RFC 5681, section 3.1).
    pub(super) fn open(&mut self, was_repeated: bool, now: Instant) {
        self.state = match self.send.is_finished {
            true => TcpState::FinWait1,
            false => TcpState::Established,
        };
        self.timers.clear(Timer::User);
        // A router that said that the peer can not be reached was wrong.
        self.error = None;
        self.start_keepalive(now);
        // RFC 5482, section 3: again in the first segment behind the SYN, for a peer that has
        // kept nothing of that.
        self.wanted.user_timeout = self.options.announce_user_timeout;
        if was_repeated {
            let segment_size = self.segment_size();
            self.congestion = Controller::new(self.options.congestion, segment_size, segment_size);
            // RFC 6298, rule 5.7.
            if !self.rtt.is_measured() {
                self.rtt.set_initial_timeout();
            }
        }
    }
}

/// The least segment size that is taken from a peer: room for some data besides the options.
const LEAST_PEER_MSS: u16 = 64;
