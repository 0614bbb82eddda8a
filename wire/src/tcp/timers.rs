//! The timers of one connection. It has one place in the wheel, for the first of them.

use crate::time::Instant;

/// What a timer is for; each says when it fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timer {
    /// Nothing that is under way was acknowledged for a retransmission timeout (RFC 6298), or,
    /// with a closed window and nothing under way, it is time to probe it (RFC 9293, section
    /// 3.8.6.1).
    Retransmit,
    /// What was sent last may be lost, and nothing behind it would tell (RFC 8985, section 7).
    TailProbe,
    /// What was sent before something that arrived counts as lost now (RFC 8985, section 6.2).
    Reorder,
    /// An acknowledgment was delayed for long enough (RFC 9293, section 3.8.6.3).
    DelayedAck,
    /// The peer was silent for so long that it is asked whether it is there (RFC 9293, section
    /// 3.8.4).
    Keepalive,
    /// The peer did not acknowledge anything for the user timeout, or an attempt to connect
    /// took too long.
    User,
    /// The application has closed the connection, and the peer made no progress since.
    Close,
    /// The next bytes may leave, as fast as the connection sends.
    Pace,
    /// Nothing has been under way for a while: the memory of its queues is given back.
    Idle,
}

/// How many timers there are.
const TIMERS: usize = Timer::Idle as usize + 1;

const NEVER: Instant = Instant::from_nanos(u64::MAX);

/// When each timer fires, and when the wheel is to look.
///
/// That is no later than the first of them. It is not moved back with them: most are set again or
/// cleared before they fire, and a look in vain costs less than to find the first each time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timers {
    at: [Instant; TIMERS],
    /// When the wheel is to look.
    look: Instant,
    /// Whether the wheel does not know yet.
    is_news: bool,
}

impl Timers {
    pub(crate) const fn new() -> Self {
        Timers {
            at: [NEVER; TIMERS],
            look: NEVER,
            is_news: false,
        }
    }

    #[inline]
    pub(crate) fn set(&mut self, timer: Timer, at: Instant) {
        if let Some(place) = self.at.get_mut(timer as usize) {
            *place = at;
        }
        if at < self.look {
            self.look = at;
            self.is_news = true;
        }
    }

    #[inline]
    pub(crate) fn clear(&mut self, timer: Timer) {
        if let Some(place) = self.at.get_mut(timer as usize) {
            *place = NEVER;
        }
    }

    pub(crate) fn clear_all(&mut self) {
        self.at = [NEVER; TIMERS];
    }

    #[inline]
    pub(crate) fn is_set(&self, timer: Timer) -> bool {
        self.get(timer) != NEVER
    }

    /// When `timer` fires; the end of time if it does not.
    #[inline]
    pub(crate) fn get(&self, timer: Timer) -> Instant {
        self.at.get(timer as usize).copied().unwrap_or(NEVER)
    }

    /// Whether `timer` has fired; it is cleared then.
    pub(crate) fn take(&mut self, timer: Timer, now: Instant) -> bool {
        let has_fired = self.get(timer) <= now;
        if has_fired {
            self.clear(timer);
        }
        has_fired
    }

    /// When the wheel is to look, if that is earlier than it knows.
    #[inline]
    pub(crate) fn take_news(&mut self) -> Option<Instant> {
        std::mem::take(&mut self.is_news).then_some(self.look)
    }

    /// The wheel has looked: from now on it knows nothing. Whether a timer has fired.
    pub(crate) fn on_look(&mut self, now: Instant) -> bool {
        self.look = self.at.iter().copied().fold(NEVER, Instant::min);
        self.is_news = self.look != NEVER;
        self.look <= now
    }
}
