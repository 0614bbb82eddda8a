//! The timers of one connection. It has one place in the wheel, which comes up no later than the
//! first of them.

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

    /// Whether a timer has fired.
    pub(crate) fn has_fired(&self, now: Instant) -> bool {
        self.first() <= now
    }

    /// The wheel has looked, and those that had fired were taken: from now on it knows nothing, and
    /// is to look for the first of the others.
    pub(crate) fn on_look(&mut self) {
        self.look = self.first();
        self.is_news = self.look != NEVER;
    }

    /// When the first fires; the end of time if none does.
    fn first(&self) -> Instant {
        self.at.iter().copied().fold(NEVER, Instant::min)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tcp::wheel::Wheel;
    use crate::time::Span;

    const ALL: [Timer; TIMERS] = [
        Timer::Retransmit,
        Timer::TailProbe,
        Timer::Reorder,
        Timer::DelayedAck,
        Timer::Keepalive,
        Timer::User,
        Timer::Close,
        Timer::Pace,
        Timer::Idle,
    ];

    /// More than the wheel rounds up by.
    const TICK: Span = Span::from_nanos(1 << 17);

    #[derive(Debug, Clone)]
    enum Step {
        Set(usize, u64),
        Clear(usize),
        ClearAll,
        Pass(u64),
        /// Another connection takes the place.
        Replace,
    }

    fn step() -> impl Strategy<Value = Step> {
        let span = || (0_u32..40).prop_flat_map(|bits| 0..1_u64 << bits);
        prop_oneof![
            8 => (0..TIMERS, span()).prop_map(|(timer, span)| Step::Set(timer, span)),
            3 => (0..TIMERS).prop_map(Step::Clear),
            1 => Just(Step::ClearAll),
            6 => span().prop_map(Step::Pass),
            1 => Just(Step::Replace),
        ]
    }

    /// The timers of one connection, in the wheel as its engine keeps them.
    struct Bed {
        wheel: Wheel,
        timers: Timers,
        now: Instant,
    }

    impl Bed {
        fn new() -> Self {
            Bed {
                wheel: Wheel::new(),
                timers: Timers::new(),
                now: Instant::from_nanos(1 << 40),
            }
        }

        fn enter(&mut self) {
            if let Some(look) = self.timers.take_news() {
                self.wheel.arm(self.now, 0, look);
            }
        }

        /// Lets time pass, and takes what fires. Returns how often the wheel looked.
        fn pass(&mut self, span: Span) -> usize {
            self.now = self.now + span;
            let mut looks = 0;
            while self.wheel.expire(self.now).is_some() {
                looks += 1;
                if self.timers.has_fired(self.now) {
                    for timer in ALL {
                        self.timers.take(timer, self.now);
                    }
                }
                self.timers.on_look();
                self.enter();
            }
            looks
        }
    }

    proptest! {
        #[test]
        fn every_timer_fires_in_time_whatever_was_set_and_cleared_before(
            steps in proptest::collection::vec(step(), 1..200),
        ) {
            let mut bed = Bed::new();
            for step in steps {
                match step {
                    Step::Set(timer, span) => {
                        bed.timers.set(ALL[timer], bed.now + Span::from_nanos(span));
                    }
                    Step::Clear(timer) => bed.timers.clear(ALL[timer]),
                    Step::ClearAll => bed.timers.clear_all(),
                    Step::Pass(span) => {
                        bed.pass(Span::from_nanos(span));
                    }
                    Step::Replace => {
                        bed.wheel.disarm(0);
                        bed.timers = Timers::new();
                    }
                }
                bed.enter();
                let first = bed.timers.first();
                prop_assert!(first + TICK > bed.now, "{first:?} was missed");
                if first != NEVER {
                    let next = bed.wheel.next_deadline();
                    prop_assert!(next.is_some_and(|next| next <= first.max(bed.now) + TICK));
                }
            }
        }
    }

    #[test]
    fn a_timer_that_has_fired_costs_one_look() {
        let mut bed = Bed::new();
        bed.timers
            .set(Timer::DelayedAck, bed.now + Span::from_millis(40));
        bed.timers
            .set(Timer::Idle, bed.now + Span::from_millis(1000));
        bed.enter();
        assert_eq!(bed.pass(Span::from_millis(41)), 1);
        let next = bed.wheel.next_deadline().expect("one timer is left");
        assert!(next.since(bed.now).as_millis() > 100, "{next:?}");
        // However the wheel comes down its levels.
        assert_eq!(bed.pass(Span::from_millis(1000)), 1);
        assert_eq!(bed.wheel.next_deadline(), None);
    }
}
