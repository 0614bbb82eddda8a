//! What is kept of connections that are not open yet, or not any more: at most 64 bytes each.

use std::time::Duration;

use super::connection::{Negotiated, Opened, clock};
use super::flow::Flow;
use super::header::{HeaderOptions, SackBlocks, TcpFlags, TcpHeader, Timestamps};
use super::sequence::{SeqNumber, WindowScale};
use crate::drops::DropReason;
use crate::time::Instant;

/// A connection that a peer asked for and has not acknowledged (SYN-RECEIVED after a passive
/// open).
#[derive(Debug, Clone, Copy)]
pub(crate) struct HalfOpen {
    pub(crate) flow: Flow,
    /// Our initial sequence number, and the peer's.
    pub(crate) ours: SeqNumber,
    pub(crate) theirs: SeqNumber,
    /// The peer's timestamp.
    pub(crate) recent: u32,
    /// When the SYN-ACK was first sent, in microseconds; wraps.
    sent: u32,
    /// The listener's index.
    pub(crate) listener: u32,
    /// The segment size that the peer announced; 0: none.
    peer_mss: u16,
    pub(crate) offer: Offer,
    /// How often the SYN-ACK was sent again because it was not acknowledged in time.
    pub(crate) retries: u8,
    /// Whether it was sent again at all, so that an acknowledgment tells no round-trip time.
    pub(crate) is_repeated: bool,
}

/// What both sides agreed on, in a byte: 4 bits of scale (15: none), and one each for SACK, ECN
/// and timestamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offer(pub(crate) u8);

/// The scale that means that windows are not scaled.
const NO_SCALE: u8 = 15;
const SACK: u8 = 16;
const ECN: u8 = 32;
const TIMESTAMPS: u8 = 64;

impl Offer {
    /// Bits without that for timestamps: those that fit into a SYN cookie's timestamp.
    pub(crate) const COOKIE_BITS: u32 = 6;

    pub(crate) fn new(agreed: &Negotiated) -> Self {
        let scale = match agreed.scaling {
            true => agreed.peer_scale.shift(),
            false => NO_SCALE,
        };
        let bit = |is_set, bit| if is_set { bit } else { 0 };
        let ecn = bit(agreed.ecn, ECN);
        Offer(scale | bit(agreed.sack, SACK) | ecn | bit(agreed.timestamps, TIMESTAMPS))
    }

    /// What a cookie without timestamp means: nothing was agreed on.
    pub(crate) const fn none() -> Self {
        Offer(NO_SCALE)
    }

    /// What the bits in a cookie's timestamp mean.
    pub(crate) const fn from_cookie(bits: u8) -> Self {
        Offer(bits | TIMESTAMPS)
    }

    /// What was agreed on, with the scale that we offer.
    pub(crate) fn negotiated(self, ours: Option<WindowScale>) -> Negotiated {
        let shift = self.0 & 15;
        let scales = ours.filter(|_| shift != NO_SCALE);
        Negotiated {
            timestamps: self.0 & TIMESTAMPS != 0,
            sack: self.0 & SACK != 0,
            ecn: self.0 & ECN != 0,
            scaling: scales.is_some(),
            peer_scale: scales.map_or(WindowScale::default(), |_| WindowScale::new(shift)),
            our_scale: scales.unwrap_or_default(),
        }
    }
}

/// What goes into a SYN-ACK besides what the flow says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SynAck {
    pub(crate) ours: SeqNumber,
    pub(crate) theirs: SeqNumber,
    pub(crate) agreed: Negotiated,
    pub(crate) mss: u16,
    pub(crate) window: u64,
    pub(crate) timestamps: Timestamps,
    /// The user timeout to announce, if any.
    pub(crate) user_timeout: Option<u16>,
}

impl SynAck {
    /// The header.
    pub(crate) fn header(&self, flow: &Flow) -> TcpHeader {
        let mut flags = TcpFlags::SYN.with(TcpFlags::ACK);
        if self.agreed.ecn {
            flags = flags.with(TcpFlags::ECE);
        }
        TcpHeader {
            source_port: flow.local_port(),
            destination_port: flow.remote_port(),
            sequence: self.ours,
            acknowledgment: self.theirs + 1,
            flags,
            // RFC 7323, section 2.2: not scaled.
            window: WindowScale::default().field(self.window),
            urgent: 0,
            options: HeaderOptions {
                mss: Some(self.mss),
                window_scale: self.agreed.scaling.then_some(self.agreed.our_scale),
                sack_permitted: self.agreed.sack,
                timestamps: self.agreed.timestamps.then_some(self.timestamps),
                sack: SackBlocks::default(),
                user_timeout: self.user_timeout,
            },
        }
    }
}

impl HalfOpen {
    pub(crate) fn new(opened: &Opened, listener: u32, now: Instant) -> Self {
        HalfOpen {
            flow: opened.flow,
            ours: opened.ours,
            theirs: opened.theirs,
            recent: opened.recent,
            sent: microseconds(now),
            listener,
            peer_mss: opened.peer_mss.unwrap_or(0),
            offer: Offer::new(&opened.negotiated),
            retries: 0,
            is_repeated: false,
        }
    }

    /// The peer's timestamp to echo, if timestamps were agreed on.
    pub(crate) fn timestamp(&self) -> Option<u32> {
        (self.offer.0 & TIMESTAMPS != 0).then_some(self.recent)
    }

    /// Protection against old segments (RFC 7323, sections 3.2 and 5.3): what an open connection
    /// would drop does not open one.
    pub(crate) fn check_timestamp(&self, header: &TcpHeader) -> Result<(), DropReason> {
        let is_recent = match (self.timestamp(), header.options.timestamps) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(recent), Some(new)) => !SeqNumber(new.value).is_before(SeqNumber(recent)),
        };
        match is_recent {
            true => Ok(()),
            false => Err(DropReason::OldTimestamp),
        }
    }

    /// Time until the SYN-ACK is sent again (RFC 6298, rules 2.1 and 5.5).
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(1 << self.retries.min(6))
    }

    /// What a connection needs to begin.
    pub(crate) fn opened(
        &self,
        ours: Option<WindowScale>,
        timestamp_offset: u32,
        now: Instant,
    ) -> Opened {
        let elapsed = microseconds(now).wrapping_sub(self.sent);
        Opened {
            flow: self.flow,
            ours: self.ours,
            theirs: self.theirs,
            negotiated: self.offer.negotiated(ours),
            peer_mss: Some(self.peer_mss).filter(|mss| *mss > 0),
            recent: self.recent,
            timestamp_offset,
            sent: (!self.is_repeated).then(|| now - Duration::from_micros(elapsed.into())),
        }
    }
}

fn microseconds(now: Instant) -> u32 {
    (now.as_nanos() / 1000) as u32
}

/// A connection in TIME-WAIT (RFC 9293, section 3.4.2).
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeWait {
    pub(crate) flow: Flow,
    /// The next number that we would send, and expect.
    pub(crate) ours: SeqNumber,
    pub(crate) theirs: SeqNumber,
    /// The peer's last timestamp, if timestamps are used.
    pub(crate) recent: Option<u32>,
    /// When it began, in milliseconds; wraps.
    since: u32,
    /// When something empty was last answered, in milliseconds; wraps.
    answered: u32,
}

/// Time between two answers to something empty, as Linux has it (tcp_invalid_ratelimit).
const ANSWER_SPAN: u32 = 500;

impl TimeWait {
    pub(crate) fn new(
        flow: Flow,
        (ours, theirs): (SeqNumber, SeqNumber),
        recent: Option<u32>,
        now: Instant,
    ) -> Self {
        TimeWait {
            flow,
            ours,
            theirs,
            recent,
            since: clock(now),
            answered: clock(now).wrapping_sub(ANSWER_SPAN),
        }
    }

    /// Whether something empty is answered now: if so, others are not for a while.
    pub(crate) fn may_answer(&mut self, now: Instant) -> bool {
        let may_answer = clock(now).wrapping_sub(self.answered) >= ANSWER_SPAN;
        if may_answer {
            self.answered = clock(now);
        }
        may_answer
    }

    /// Where a new connection may begin: behind all numbers of the old one (RFC 9293, section
    /// 3.6.1; RFC 6191).
    pub(crate) fn behind(&self) -> SeqNumber {
        self.ours + 65_536
    }

    /// Whether a SYN begins a new connection that can not be confused with the old one (RFC
    /// 6191, section 2).
    pub(crate) fn admits(&self, syn: &TcpHeader) -> bool {
        match (self.recent, syn.options.timestamps) {
            (Some(recent), Some(new)) if new.value != recent => {
                SeqNumber(recent).is_before(SeqNumber(new.value))
            }
            _ => self.theirs.is_before(syn.sequence),
        }
    }

    /// Whether we may begin a new connection: with timestamps, whose clock has moved on.
    pub(crate) fn admits_ours(&self, now: Instant) -> bool {
        self.recent.is_some() && clock(now).wrapping_sub(self.since) > 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_small() {
        assert!(size_of::<HalfOpen>() <= 64, "{}", size_of::<HalfOpen>());
        assert!(size_of::<TimeWait>() <= 64, "{}", size_of::<TimeWait>());
    }

    #[test]
    fn an_offer_survives_a_cookie() {
        for bits in 0..64 {
            let agreed = Offer::from_cookie(bits).negotiated(Some(WindowScale::new(7)));
            assert_eq!(Offer::new(&agreed).0 & 63, bits);
            assert!(agreed.timestamps);
        }
    }
}
