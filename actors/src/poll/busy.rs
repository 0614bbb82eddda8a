//! How long a cpu works, without a clock of its own for that: the loop reads the clock once a turn.
//!
//! A turn that found something lasts to the beginning of the next, and so includes the applications
//! that it woke. After an empty one other tasks may run, too, such as one that an application has
//! woken: then the next turn comes late. While the loop sleeps only the system knows what its
//! thread does; it is asked when the loop goes to sleep, so that no packet waits for it.
//!
//! Who else polls on the same thread would be taken for an application: where several loops share
//! one, only turns that found something count.

use std::cell::Cell;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use virtroupe_wire::Instant;

/// From one empty turn to the next if nobody else works: 0.13 us were measured, and 2 to 3 us once in
/// 4000 turns, when tokio asks the system for events. So an idle cpu that polls is seen to be busy for
/// less than 1 % of the time, most of which is the system's.
const EMPTY_TURN: Duration = Duration::from_micros(1);

thread_local! {
    /// Loops of this thread.
    static LOOPS: Cell<u32> = const { Cell::new(0) };
}

/// The time that one loop has worked.
#[derive(Debug)]
pub(super) struct Busy {
    total: Duration,
    /// When the last turn began, and whether it found something; `None` while the loop sleeps.
    last: Option<(Instant, bool)>,
    woken_at: Instant,
    /// What the thread had used when the loop last went to sleep.
    used: Option<Duration>,
}

impl Busy {
    /// Of a loop that begins, on this thread.
    pub(super) fn new() -> Self {
        LOOPS.with(|loops| loops.set(loops.get() + 1));
        Busy {
            total: Duration::ZERO,
            last: None,
            woken_at: Instant::ZERO,
            used: None,
        }
    }

    /// All in all, in nanoseconds.
    pub(super) fn nanos(&self) -> u64 {
        u64::try_from(self.total.as_nanos()).unwrap_or(u64::MAX)
    }

    /// A turn begins.
    #[inline]
    pub(super) fn begin_turn(&mut self, now: Instant) {
        let Some((since, has_found)) = self.last else {
            self.woken_at = now;
            return;
        };
        let elapsed = now.since(since);
        if has_found || (elapsed > EMPTY_TURN && is_alone()) {
            self.total += elapsed;
        }
    }

    /// The turn that began at `now` has, or has not, `found` something to do.
    #[inline]
    pub(super) fn end_turn(&mut self, now: Instant, found: bool) {
        self.last = Some((now, found));
    }

    /// The loop goes to sleep, after a turn that began at `now`.
    pub(super) fn sleep(&mut self, now: Instant) {
        self.last = None;
        let used = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
        let before = std::mem::replace(&mut self.used, used.ok());
        if let (Some(before), Some(used)) = (before, self.used)
            && is_alone()
        {
            let awake = now.since(self.woken_at);
            self.total += used.saturating_sub(before).saturating_sub(awake);
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        // Fails only where the thread ends, and with it all loops.
        let _ = LOOPS.try_with(|loops| loops.set(loops.get().saturating_sub(1)));
    }
}

/// Whether no other loop runs on this thread.
fn is_alone() -> bool {
    LOOPS.with(Cell::get) == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Instant {
        Instant::ZERO + Duration::from_micros(micros)
    }

    #[test]
    fn a_turn_counts_that_found_something_or_behind_which_somebody_else_works() {
        let mut busy = Busy::new();
        for (begin, found, expected) in [
            (100, true, 0),
            (120, false, 20),
            (121, false, 20),
            (200, false, 99),
            (201, false, 99),
        ] {
            busy.begin_turn(at(begin));
            assert_eq!(busy.nanos(), expected * 1000, "at {begin}");
            busy.end_turn(at(begin), found);
        }
        let _other = Busy::new();
        busy.begin_turn(at(300));
        assert_eq!(busy.nanos(), 99_000, "it may have been the other loop");
    }

    #[test]
    fn what_the_thread_does_while_the_loop_sleeps_counts() {
        let mut busy = Busy::new();
        busy.sleep(at(0));
        let begin = busy.used.expect("Linux knows");
        let used =
            || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("known"));
        while used() < begin + Duration::from_millis(2) {}
        busy.begin_turn(at(5000));
        busy.end_turn(at(5000), false);
        busy.sleep(at(5000));
        assert!(busy.nanos() >= 2_000_000, "{}", busy.nanos());
        let before = busy.nanos();
        while used() < busy.used.expect("known") + Duration::from_millis(2) {}
        // It was the loop that worked.
        busy.begin_turn(at(10_000));
        busy.sleep(at(10_000_000));
        assert_eq!(busy.nanos(), before);
    }
}
