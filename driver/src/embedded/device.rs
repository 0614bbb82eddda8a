//! The device: its queue pairs, and the state that the control path shares with who steps it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::sys::eventfd::{EfdFlags, EventFd};
use virtroupe_wire::Instant;

use super::backend::{Attachment, Backend};
use super::config::EmbeddedConfig;
use super::pair::{Pair, PairFault};
use super::runner::Waker;
use super::stats::EmbeddedStats;
use super::steering::Steering;
use crate::features::FeatureBits;
use crate::transport::{DeviceEvent, TransportError};

/// One embedded device, shared by its transport, its handles and its thread.
///
/// A pair is locked for one burst at a time, by whoever steps it or by the control path. So
/// when a reset has taken a pair's rings under its lock, nobody touches their memory any more.
pub(super) struct Device {
    name: String,
    config: EmbeddedConfig,
    pairs: Vec<Mutex<Pair>>,
    waker: Arc<Waker>,
    steering: Arc<Steering>,
    events: Events,
    link_up: AtomicBool,
    unplugged: AtomicBool,
    stopped: AtomicBool,
    /// Callers of the control path that wait for a pair: a busy device lets them go first.
    control: AtomicUsize,
}

impl Device {
    pub(super) fn new(
        config: EmbeddedConfig,
        backend: Box<dyn Backend>,
    ) -> Result<Self, TransportError> {
        let name = format!("embedded:{}", backend.name());
        check(&config, &name)?;
        let system = |context: &str, source: std::io::Error| TransportError::System {
            context: format!("{name}: {context}"),
            source,
            advice: "raise the limit of open files (ulimit -n)".into(),
        };
        let waker = Waker::new().map_err(|e| system("cannot create an eventfd", e.into()))?;
        let (waker, steering) = (Arc::new(waker), Arc::new(Steering::new()));
        let ports = backend.open(&Attachment {
            pairs: config.queue_pairs,
            waker: Arc::clone(&waker),
            steering: Arc::clone(&steering),
        })?;
        let mut pairs = Vec::new();
        for (index, port) in (0u16..).zip(ports) {
            let pair = Pair::new(index, port, Arc::clone(&steering), config.mtu)
                .map_err(|e| system("cannot duplicate a file", e))?;
            pairs.push(Mutex::new(pair));
        }
        let events = Events::new().map_err(|e| system("cannot create an eventfd", e.into()))?;
        Ok(Device {
            name,
            config,
            pairs,
            waker,
            steering,
            events,
            link_up: AtomicBool::new(true),
            unplugged: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            control: AtomicUsize::new(0),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn config(&self) -> &EmbeddedConfig {
        &self.config
    }

    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }

    pub(super) fn steering(&self) -> &Steering {
        &self.steering
    }

    pub(super) fn events(&self) -> &Events {
        &self.events
    }

    /// Moves at most one burst each way on every pair. Returns how much was done.
    pub(super) fn step(&self, now: Instant) -> usize {
        self.pairs.iter().map(|pair| self.step_one(pair, now)).sum()
    }

    /// As [`step`](Self::step), for one pair.
    pub(super) fn step_pair(&self, pair: u16, now: Instant) -> usize {
        self.pairs
            .get(usize::from(pair))
            .map_or(0, |pair| self.step_one(pair, now))
    }

    fn step_one(&self, pair: &Mutex<Pair>, now: Instant) -> usize {
        let link_up = self.link_up.load(Ordering::Relaxed);
        let outcome = lock(pair).step(now, link_up);
        outcome.unwrap_or_else(|fault| {
            self.report(&fault);
            1
        })
    }

    fn report(&self, fault: &PairFault) {
        let device = self.name.as_str();
        match fault {
            PairFault::Ring { queue, fault } => {
                tracing::warn!(device, queue, %fault, "the driver broke a queue; it needs a reset");
                self.events.push(DeviceEvent::NeedsReset);
            }
            PairFault::Backend(error) => {
                tracing::warn!(device, %error, "the backend of an embedded device is gone");
                self.unplugged.store(true, Ordering::Relaxed);
                self.events
                    .push(DeviceEvent::Lost(format!("the backend failed: {error}")));
            }
        }
    }

    /// Runs `change` on every pair, before the next step of each.
    pub(super) fn with_pairs(&self, mut change: impl FnMut(&mut Pair)) {
        for pair in 0..self.config.queue_pairs {
            self.with_pair(pair, &mut change);
        }
    }

    /// Runs `change` on one pair, if there is such a pair.
    pub(super) fn with_pair<T>(&self, pair: u16, change: impl FnOnce(&mut Pair) -> T) -> Option<T> {
        let pair = self.pairs.get(usize::from(pair))?;
        self.control.fetch_add(1, Ordering::Relaxed);
        let mut pair = lock(pair);
        self.control.fetch_sub(1, Ordering::Relaxed);
        Some(change(&mut pair))
    }

    /// Lets the control path have the locks, which a busy thread would take again at once.
    pub(super) fn yield_to_control(&self) {
        while self.control.load(Ordering::Relaxed) > 0 {
            thread::yield_now();
        }
    }

    /// Takes all rings away: nothing touches the driver's memory when this returns.
    pub(super) fn reset(&self) {
        self.with_pairs(Pair::reset);
        self.events.forget(&DeviceEvent::NeedsReset);
        self.steering.activate(1);
    }

    /// True if there is work already.
    pub(super) fn prepare_sleep(&self) -> bool {
        self.pairs.iter().any(|pair| lock(pair).prepare_sleep())
    }

    pub(super) fn count_sleep(&self) {
        if let Some(pair) = self.pairs.first() {
            lock(pair).stats.sleeps += 1;
        }
    }

    /// When a backend will have something for a driver that can take it.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.pairs
            .iter()
            .filter_map(|pair| lock(pair).deadline())
            .min()
    }

    /// The files of the ports that could deliver.
    pub(super) fn readiness(&self) -> Vec<Arc<OwnedFd>> {
        let file = |pair| lock(pair).readiness();
        self.pairs.iter().filter_map(file).collect()
    }

    pub(super) fn stats(&self) -> EmbeddedStats {
        let mut sum = EmbeddedStats::default();
        self.with_pairs(|pair| sum += &pair.stats);
        sum
    }

    pub(super) fn pair_stats(&self, pair: u16) -> Option<EmbeddedStats> {
        self.with_pair(pair, |pair| pair.stats)
    }

    pub(super) fn is_link_up(&self) -> bool {
        self.link_up.load(Ordering::Relaxed)
    }

    pub(super) fn set_link(&self, up: bool) {
        let changed = self.link_up.swap(up, Ordering::Relaxed) != up;
        if changed && self.config.features.contains(FeatureBits::STATUS) {
            self.events.push(DeviceEvent::ConfigChanged);
        }
    }

    pub(super) fn is_unplugged(&self) -> bool {
        self.unplugged.load(Ordering::Relaxed)
    }

    pub(super) fn unplug(&self) {
        if !self.unplugged.swap(true, Ordering::Relaxed) {
            self.reset();
            self.events
                .push(DeviceEvent::Lost("the device was unplugged".into()));
        }
    }

    pub(super) fn plug_in(&self) {
        self.unplugged.store(false, Ordering::Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Stops for good, and closes the backend: a handle that is still around keeps no interface
    /// alive.
    pub(super) fn stop(&self) {
        self.with_pairs(Pair::close);
        self.stopped.store(true, Ordering::Relaxed);
        self.waker.wake();
    }
}

/// A pair whose stepper panicked is in order: a step leaves no invariant broken half-way that
/// another step relies on, and a reset rebuilds the rings.
fn lock(pair: &Mutex<Pair>) -> MutexGuard<'_, Pair> {
    pair.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check(config: &EmbeddedConfig, name: &str) -> Result<(), TransportError> {
    let unsupported = config.features - EmbeddedConfig::SUPPORTED;
    let problem = if !unsupported.is_empty() {
        format!("cannot offer {unsupported}; leave it out of `features`")
    } else if !(1..=128).contains(&config.queue_pairs) {
        "queue_pairs must be 1 to 128".into()
    } else if !config.max_queue_size.is_power_of_two()
        || !(2..=1 << 15).contains(&config.max_queue_size)
    {
        "max_queue_size must be a power of two from 2 to 32768".into()
    } else if config.mtu < 68 {
        "mtu must be at least 68".into()
    } else {
        return Ok(());
    };
    Err(TransportError::Device {
        device: name.into(),
        problem,
    })
}

/// What the device has to tell the driver, with a file that is readable meanwhile.
pub(super) struct Events {
    queue: Mutex<VecDeque<DeviceEvent>>,
    eventfd: EventFd,
}

impl Events {
    fn new() -> nix::Result<Self> {
        Ok(Events {
            queue: Mutex::new(VecDeque::new()),
            eventfd: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
        })
    }

    /// Adds `event`, unless it waits already.
    pub(super) fn push(&self, event: DeviceEvent) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if !queue.contains(&event) {
            queue.push_back(event);
        }
        // A full counter is the only failure, and then it is readable anyway.
        let _ = nix::unistd::write(self.eventfd.as_fd(), &1u64.to_ne_bytes());
    }

    fn forget(&self, event: &DeviceEvent) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.retain(|waiting| waiting != event);
    }

    pub(super) fn take(&self) -> Option<DeviceEvent> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let event = queue.pop_front();
        if event.is_none() {
            // Fails only when nothing was written.
            let _ = nix::unistd::read(self.eventfd.as_fd(), &mut [0; 8]);
        }
        event
    }

    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}
