//! The poll loop of one queue: the heart of the data path.
//!
//! It is a future that polls itself: it takes a few bursts, lets shard and applications have
//! them, wakes its own waker and returns, so the other actors of the arbiter run in between and
//! tokio's driver gets its turn. When there is nothing to do for longer than the spin time, it
//! asks the device for an interrupt and sleeps on its eventfds.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::time::Sleep;
use virtroupe_driver::{Frame, QueuePair, Violation};
use virtroupe_wire::{DropReason, Instant};

use crate::clock::Clock;
use crate::shard::ShardCell;

/// How a queue is polled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PollSettings {
    /// Frames in one burst, 1 to 256; 64 by default. Longer bursts cost latency under load,
    /// shorter ones rate.
    pub burst: usize,
    /// Bursts taken before the other actors of the arbiter run, 1 to 16; 2 by default.
    pub bursts_per_poll: usize,
    /// How long to poll an idle queue before sleeping, in microseconds; 50 by default, 0 to
    /// sleep at once, `u64::MAX` never to sleep. Spinning saves the wake-up time of some
    /// microseconds and costs the cpu.
    pub spin_us: u64,
    /// How long to wait for a receiver whose mailbox is full before dropping, in microseconds;
    /// 1000 by default. Meanwhile the device's ring fills.
    pub patience_us: u64,
}

impl Default for PollSettings {
    fn default() -> Self {
        PollSettings {
            burst: 64,
            bursts_per_poll: 2,
            spin_us: 50,
            patience_us: 1000,
        }
    }
}

/// What a poll loop counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PollCounters {
    /// Times that the loop ran.
    pub polls: u64,
    /// Times that it found nothing to do.
    pub empty_polls: u64,
    /// Times that it went to sleep.
    pub sleeps: u64,
    /// Nanoseconds from the start of a poll that found work to the start of the next: the time
    /// that this queue's packets took, in the stack and in applications on its arbiter.
    pub busy_nanos: u64,
}

/// Why a poll loop ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueueEnd {
    /// It was told to stop, and drained.
    Stopped,
    /// The device broke the rules of its rings.
    Broken(Violation),
    /// An engine panicked.
    Panicked,
}

/// What the queue actor and its loop share.
pub(crate) struct Control {
    pub counters: Cell<PollCounters>,
    /// Set to make the loop drain until then, and end.
    pub stop_at: Cell<Option<Instant>>,
    waker: RefCell<Option<std::task::Waker>>,
}

impl Control {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Control {
            counters: Cell::default(),
            stop_at: Cell::default(),
            waker: RefCell::default(),
        })
    }

    pub(crate) fn stop(&self, at: Instant) {
        self.stop_at.set(Some(at));
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

pub(crate) struct PollLoop {
    shard: ShardCell,
    pair: Rc<RefCell<QueuePair>>,
    control: Rc<Control>,
    clock: Clock,
    settings: PollSettings,
    burst: Vec<Frame>,
    interrupts: Vec<AsyncFd<OwnedFd>>,
    timer: Pin<Box<Sleep>>,
    counters: PollCounters,
    last_poll: Option<Instant>,
    idle_since: Option<Instant>,
    asleep: bool,
}

impl PollLoop {
    /// A loop over `pair`. Must be called on an arbiter.
    ///
    /// # Errors
    /// When the interrupt files can not be watched: too many open files.
    pub(crate) fn new(
        shard: ShardCell,
        pair: Rc<RefCell<QueuePair>>,
        control: Rc<Control>,
        clock: Clock,
        settings: PollSettings,
    ) -> std::io::Result<Self> {
        let mut interrupts = Vec::new();
        for interrupt in pair.borrow().interrupts() {
            interrupts.push(watch(interrupt.try_clone_to_owned()?)?);
        }
        pair.borrow_mut().disarm();
        Ok(PollLoop {
            shard,
            pair,
            control,
            clock,
            settings,
            burst: Vec::new(),
            interrupts,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            counters: PollCounters::default(),
            last_poll: None,
            idle_since: None,
            asleep: false,
        })
    }

    /// One turn: out with what waits, in with a few bursts, then the timers. Returns how many
    /// frames moved.
    fn turn(&mut self, now: Instant) -> Result<usize, Violation> {
        let mut shard = self.shard.borrow();
        let mut pair = self.pair.borrow_mut();
        let mut moved = shard.flush(&mut pair)?;
        if !shard.is_blocked() && self.control.stop_at.get().is_none() {
            for _ in 0..self.settings.bursts_per_poll {
                let taken = pair.receive(&mut self.burst, self.settings.burst)?;
                if taken == 0 {
                    break;
                }
                moved += taken;
                shard.receive(now, &mut self.burst, pair.pool());
            }
        }
        shard.handle_timeout(now, pair.pool());
        shard.dispatch(now);
        moved += shard.flush(&mut pair)?;
        Ok(moved)
    }

    fn is_drained(&self) -> bool {
        let mut pair = self.pair.borrow_mut();
        let waiting = pair.transmit_outstanding();
        waiting == pair.reclaim().unwrap_or(waiting) && !self.shard.borrow().has_output()
    }

    /// Goes to sleep if nothing came meanwhile. Returns whether it did.
    fn sleep(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let needs_room = {
            let mut shard = self.shard.borrow();
            if shard.owes_notices(&mut self.pair.borrow_mut()) {
                return false;
            }
            shard.needs_room()
        };
        if !self.pair.borrow_mut().arm(needs_room) {
            self.pair.borrow_mut().disarm();
            return false;
        }
        for interrupt in &self.interrupts {
            if let Poll::Ready(Ok(mut ready)) = interrupt.poll_read_ready(cx) {
                ready.clear_ready();
                self.pair.borrow_mut().disarm();
                return false;
            }
        }
        let mut shard = self.shard.borrow();
        if let Some(deadline) = shard.next_deadline(now) {
            self.timer
                .as_mut()
                .reset(self.clock.to_std(deadline).into());
            if self.timer.as_mut().poll(cx).is_ready() {
                drop(shard);
                self.pair.borrow_mut().disarm();
                return false;
            }
        }
        shard.set_sleeper(Some(cx.waker().clone()));
        *self.control.waker.borrow_mut() = Some(cx.waker().clone());
        self.counters.sleeps += 1;
        self.asleep = true;
        true
    }

    fn wake_up(&mut self) {
        self.asleep = false;
        self.idle_since = None;
        self.shard.borrow().set_sleeper(None);
        self.pair.borrow_mut().disarm();
    }

    fn is_spinning(&mut self, now: Instant) -> bool {
        let since = *self.idle_since.get_or_insert(now);
        now.since(since) < Duration::from_micros(self.settings.spin_us)
            || self.settings.spin_us == u64::MAX
            || self.shard.borrow().is_blocked()
    }

    fn account(&mut self, now: Instant, moved: usize) {
        self.counters.polls += 1;
        if moved == 0 {
            self.counters.empty_polls += 1;
        } else {
            self.idle_since = None;
        }
        self.last_poll = (moved > 0).then_some(now);
        self.control.counters.set(self.counters);
    }

    fn end(&mut self, end: QueueEnd) -> Poll<QueueEnd> {
        // What came before a violation is lost, and counted. Of a burst in which an engine
        // panicked, what the engine had taken is gone uncounted.
        let lost = self.burst.drain(..).count() as u64;
        let reason = match end {
            QueueEnd::Panicked => DropReason::EnginePanic,
            QueueEnd::Broken(_) => DropReason::DeviceViolation,
            QueueEnd::Stopped => DropReason::Shutdown,
        };
        self.shard.try_with(|shard| shard.count_drop(reason, lost));
        Poll::Ready(end)
    }
}

/// Lets tokio watch an eventfd of the device.
pub(crate) fn watch(file: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    #[expect(
        deprecated,
        reason = "the new form is unsafe; an OwnedFd upholds what it demands"
    )]
    AsyncFd::new(file)
}

impl Future for PollLoop {
    type Output = QueueEnd;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<QueueEnd> {
        let this = self.get_mut();
        let now = this.clock.now();
        if let Some(last) = this.last_poll {
            this.counters.busy_nanos += now.since(last).as_nanos() as u64;
        }
        if this.asleep {
            this.wake_up();
        }
        let moved = match catch_unwind(AssertUnwindSafe(|| this.turn(now))) {
            Ok(Ok(moved)) => moved,
            Ok(Err(violation)) => return this.end(QueueEnd::Broken(violation)),
            Err(_) => return this.end(QueueEnd::Panicked),
        };
        this.account(now, moved);
        if let Some(stop_at) = this.control.stop_at.get() {
            if now >= stop_at || this.is_drained() {
                return this.end(QueueEnd::Stopped);
            }
        } else if moved == 0 && !this.is_spinning(now) && this.sleep(now, cx) {
            return Poll::Pending;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
