//! The poll loop of a cpu: the heart of the data path.
//!
//! It takes what the cpu's queue received, and what other cpus received for this one, and gives
//! each frame to the cpu that owns its flow. A cpu without a queue runs the same loop over its
//! lanes alone; a cpu with several queues runs one for each, of which the first does all but
//! harvest the further queues.
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
use crate::crossings::Heard;
use crate::ports::{Ports, PortsCell};
use crate::shard::{Shard, ShardCell, TxReadyPolicy};
use busy::Busy;

mod busy;

/// How a queue is polled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PollSettings {
    /// Frames in one burst, 1 to 256; 64 by default. Longer bursts cost latency under load,
    /// shorter ones rate.
    pub burst: usize,
    /// Bursts taken before the other actors of the arbiter run, 1 to 16; 2 by default.
    pub bursts_per_poll: usize,
    /// How long to poll an idle queue before sleeping, in microseconds; 0 to sleep at once,
    /// `u64::MAX` never to sleep. By default 50, but 0 where a stack has more cpus than there are
    /// cores: who spins would keep those from working that it waits for. Spinning saves the
    /// wake-up time of some microseconds and costs the cpu.
    pub spin_us: Option<u64>,
    /// How long to wait for a receiver whose mailbox is full, or for a cpu whose lane is full,
    /// before dropping, in microseconds; 1000 by default. Meanwhile the device's ring fills.
    pub patience_us: u64,
    /// Which of the senders that wait for room are told when there is some: `first`, `all`, or
    /// `fair`, the default.
    pub tx_ready: TxReadyPolicy,
    /// Packets that a cpu without a queue may have under way to the device, 32 to 65536; 512 by
    /// default. What its senders offer beyond that is refused. More bears longer bursts and costs
    /// packet memory; see `pool_frames`. Up to half of them may come back late while the cpu that
    /// owns the queue sleeps, so a burst of half is always taken when nothing is under way.
    pub credits: u32,
    /// Frames that wait for a cpu in the lane from each other one, 32 to 65536; 1024 by default.
    pub lane_frames: u32,
}

impl PollSettings {
    /// How long to poll an idle queue, for a stack of so many cpus.
    pub fn spin(&self, cpus: u16) -> Duration {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let default = if usize::from(cpus) > cores { 0 } else { 50 };
        Duration::from_micros(self.spin_us.unwrap_or(default))
    }
}

impl Default for PollSettings {
    fn default() -> Self {
        PollSettings {
            burst: 64,
            bursts_per_poll: 2,
            spin_us: None,
            patience_us: 1000,
            tx_ready: TxReadyPolicy::default(),
            credits: 512,
            lane_frames: 1024,
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
    /// Nanoseconds in which the cpu worked: from the start of a poll that found work to the start
    /// of the next, in the stack and in applications on its arbiter; and if no other poll loop has
    /// the same thread, also what applications did in between or while this one slept. Less than
    /// a microsecond behind an empty poll is not seen.
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
    /// The actor was dropped without having been stopped.
    Killed,
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
    ports: PortsCell,
    /// The queue pair that this loop harvests, if it is not the one that the cpu sends through.
    further: Option<Rc<RefCell<QueuePair>>>,
    control: Rc<Control>,
    clock: Clock,
    settings: PollSettings,
    spin: Duration,
    burst: Vec<Frame>,
    heard: Heard,
    interrupts: Vec<AsyncFd<OwnedFd>>,
    timer: Pin<Box<Sleep>>,
    counters: PollCounters,
    busy: Busy,
    idle_since: Option<Instant>,
    asleep: bool,
}

impl PollLoop {
    /// A loop over the ports of a cpu, or over one of its further queue pairs. Must be called on
    /// an arbiter.
    ///
    /// # Errors
    /// When the interrupt files can not be watched: too many open files.
    pub(crate) fn new(
        shard: ShardCell,
        ports: PortsCell,
        further: Option<Rc<RefCell<QueuePair>>>,
        control: Rc<Control>,
        clock: Clock,
        settings: PollSettings,
    ) -> std::io::Result<Self> {
        let mut interrupts = Vec::new();
        let mut watch_pair = |pair: &mut QueuePair| {
            for interrupt in pair.interrupts() {
                interrupts.push(watch(interrupt.try_clone_to_owned()?)?);
            }
            pair.disarm();
            std::io::Result::Ok(())
        };
        if let Some(pair) = &further {
            watch_pair(&mut pair.borrow_mut())?;
        } else if let Some(pair) = ports.borrow_mut().egress.pair() {
            watch_pair(pair)?;
        }
        let cpus = ports.borrow().cpus();
        Ok(PollLoop {
            spin: settings.spin(cpus),
            shard,
            ports,
            further,
            control,
            clock,
            settings,
            burst: Vec::new(),
            heard: Heard::default(),
            interrupts,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            counters: PollCounters::default(),
            busy: Busy::new(),
            idle_since: None,
            asleep: false,
        })
    }

    /// One turn: out with what waits, in with a few bursts, then the timers. Returns how many
    /// frames moved and senders were told of room.
    fn turn(&mut self, now: Instant) -> Result<usize, Violation> {
        let shard = self.shard.clone();
        let ports = self.ports.clone();
        let shard = &mut *shard.borrow();
        shard.begin_turn(now);
        let taken_in = self.take_in(now, shard, &mut ports.borrow_mut());
        // What came before a violation is told before that is. A socket that is closed now is taken
        // out of the exceptions, which are in the ports.
        shard.dispatch(now);
        let mut moved = taken_in?;
        moved += shard.flush(&mut ports.borrow_mut().egress)?;
        // What TCP has to tell since: the next turn does.
        moved += usize::from(shard.has_tcp_work());
        if self.further.is_some() && (shard.needs_room() || shard.has_handed_over()) {
            // The first loop of the cpu looks after it.
            shard.wake();
        }
        Ok(moved)
    }

    /// The first part of a turn: all that touches the ports. What came before a violation of the
    /// receive ring goes its way.
    fn take_in(
        &mut self,
        now: Instant,
        shard: &mut Shard,
        ports: &mut Ports,
    ) -> Result<usize, Violation> {
        let mut moved = shard.flush(&mut ports.egress)?;
        if let Some(crossings) = &mut ports.crossings {
            crossings.flush(now);
        }
        let mut harvested = Ok(0);
        if !shard.is_blocked() && self.control.stop_at.get().is_none() {
            if !ports.is_blocked() {
                harvested = self.harvest(now, shard, ports);
            }
            moved += self.take_crossed(now, shard, ports);
        }
        shard.handle_timeout(now, ports.egress.pool());
        shard.exchange_tcp(&mut ports.egress);
        if let Some(crossings) = &mut ports.crossings {
            shard.hand_over(now, crossings, ports.egress.pool());
        }
        Ok(moved + harvested?)
    }

    /// Takes a few bursts from the queue, if there is one, and gives each frame to the cpu that
    /// owns its flow. The frames of one burst are fetched while the next is taken.
    ///
    /// # Errors
    /// The device broke the rules of the ring. What came before that was given to its owners.
    fn harvest(
        &mut self,
        now: Instant,
        shard: &mut Shard,
        ports: &mut Ports,
    ) -> Result<usize, Violation> {
        let mut moved = 0;
        let mut outcome = Ok(());
        for _ in 0..self.settings.bursts_per_poll {
            let limit = self.settings.burst;
            let before = self.burst.len();
            let received = match (&self.further, ports.egress.pair()) {
                (Some(pair), _) => pair.borrow_mut().receive(&mut self.burst, limit),
                (None, Some(pair)) => pair.receive(&mut self.burst, limit),
                (None, None) => Ok(0),
            };
            let taken = match received {
                Ok(taken) => taken,
                Err(violation) => {
                    outcome = Err(violation);
                    break;
                }
            };
            moved += taken;
            let fresh = self.burst.get(before..).unwrap_or_default();
            match &ports.crossings {
                Some(_) => fresh.iter().for_each(Frame::prefetch_head),
                None => shard.expect(fresh),
            }
            // What has come since the ring was emptied comes with the next poll: to look for it at
            // once would take the line from the device that is writing it.
            if taken < limit {
                break;
            }
        }
        if self.burst.is_empty() {
            // What came, if anything, was dropped by the driver.
            return outcome.map(|()| moved);
        }
        if let Some(crossings) = &mut ports.crossings {
            crossings.dispatch(now, &mut self.burst, &mut self.heard);
            shard.expect(&self.burst);
        }
        shard.receive(now, &mut self.burst, ports.egress.pool());
        if !self.heard.is_empty() {
            shard.share_neighbors(&mut self.heard);
        }
        outcome.map(|()| moved)
    }

    /// Takes what other cpus received for this one. Only the first loop of a cpu does.
    fn take_crossed(&mut self, now: Instant, shard: &mut Shard, ports: &mut Ports) -> usize {
        let Some(crossings) = ports.crossings.as_mut().filter(|_| self.further.is_none()) else {
            return 0;
        };
        let taken = crossings.take(now, &mut self.burst, self.settings.burst);
        if taken > 0 {
            shard.receive_handed_over(now, &mut self.burst, ports.egress.pool());
        }
        taken
    }

    fn is_drained(&self) -> bool {
        self.ports.borrow_mut().egress.is_drained() && self.shard.borrow().is_drained()
    }

    /// Goes to sleep if nothing came meanwhile. Returns whether it did.
    fn sleep(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        if self.prepare_sleep(now, cx) {
            if self.further.is_none() {
                self.shard.borrow().set_sleeper(Some(cx.waker().clone()));
            }
            *self.control.waker.borrow_mut() = Some(cx.waker().clone());
            self.counters.sleeps += 1;
            self.busy.sleep(now);
            self.counters.busy_nanos = self.busy.nanos();
            self.control.counters.set(self.counters);
            self.asleep = true;
            return true;
        }
        self.disarm();
        false
    }

    /// Asks everybody who can bring work to wake us. Returns false if there is some already.
    fn prepare_sleep(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let ports = self.ports.clone();
        let mut ports = ports.borrow_mut();
        let mut shard = self.shard.borrow();
        let is_armed = match &self.further {
            Some(pair) => pair.borrow_mut().arm(false),
            None => ports.arm(&mut shard, cx),
        };
        if !is_armed {
            return false;
        }
        for interrupt in &self.interrupts {
            if let Poll::Ready(Ok(mut ready)) = interrupt.poll_read_ready(cx) {
                ready.clear_ready();
                return false;
            }
        }
        let Some(deadline) = shard.next_deadline(now) else {
            return true;
        };
        self.timer
            .as_mut()
            .reset(self.clock.to_std(deadline).into());
        self.timer.as_mut().poll(cx).is_pending()
    }

    fn disarm(&mut self) {
        match &self.further {
            Some(pair) => pair.borrow_mut().disarm(),
            None => self.ports.borrow_mut().disarm(),
        }
    }

    fn wake_up(&mut self) {
        self.asleep = false;
        self.idle_since = None;
        if self.further.is_none() {
            self.shard.borrow().set_sleeper(None);
        }
        self.disarm();
    }

    fn is_spinning(&mut self, now: Instant) -> bool {
        let since = *self.idle_since.get_or_insert(now);
        now.since(since) < self.spin
            || self.settings.spin_us == Some(u64::MAX)
            || self.shard.borrow().is_blocked()
            || self.ports.borrow().is_blocked()
    }

    fn account(&mut self, now: Instant, moved: usize) {
        self.counters.polls += 1;
        if moved == 0 {
            self.counters.empty_polls += 1;
        } else {
            self.idle_since = None;
        }
        self.busy.end_turn(now, moved > 0);
        self.counters.busy_nanos = self.busy.nanos();
        self.control.counters.set(self.counters);
    }

    fn end(&mut self, end: QueueEnd) -> Poll<QueueEnd> {
        // Of a burst in which an engine panicked, what the engine had taken is gone uncounted.
        let lost = self.burst.drain(..).count() as u64;
        let reason = match end {
            QueueEnd::Panicked => DropReason::EnginePanic,
            QueueEnd::Broken(_) => DropReason::DeviceLost,
            QueueEnd::Stopped | QueueEnd::Killed => DropReason::Shutdown,
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
        this.busy.begin_turn(now);
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
