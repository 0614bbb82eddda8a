//! The control path of the embedded device.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use nix::sys::eventfd::{EfdFlags, EventFd};
use virtroupe_wire::Instant;

use super::backend::Backend;
use super::config::{DeviceThread, EmbeddedConfig};
use super::device::Device;
use super::memory::GuestMemory;
use super::pair::Queue;
use super::ring::{Ring, UsedReports};
use super::runner;
use super::stats::EmbeddedStats;
use crate::features::FeatureBits;
use crate::memory::DmaMemory;
use crate::transport::{
    DeviceConfig, DeviceEvent, Doorbell, QueueNotifiers, RingLayout, Transport, TransportError,
};

/// A [`Transport`] to a software device in this process.
///
/// Dropping it stops the device and its thread.
pub struct EmbeddedTransport {
    device: Arc<Device>,
    thread: Option<JoinHandle<()>>,
    accepted: Option<FeatureBits>,
    memory: Option<GuestMemory>,
    prefers_large_receive: bool,
}

impl EmbeddedTransport {
    /// A device that runs on a thread of its own, named `virtroupe-device`.
    ///
    /// # Errors
    /// When `config` is out of range, when the backend cannot be opened, or when the system
    /// gives no thread.
    pub fn threaded(
        config: EmbeddedConfig,
        backend: impl Backend + 'static,
        thread: DeviceThread,
    ) -> Result<(Self, EmbeddedHandle), TransportError> {
        let mut transport = Self::new(config, Box::new(backend))?;
        let device = Arc::clone(&transport.device);
        let spawned = thread::Builder::new()
            .name("virtroupe-device".into())
            .spawn(move || {
                let _guard = ReportEnd(&device);
                runner::run(&device, thread);
            });
        let spawned = spawned.map_err(|source| TransportError::System {
            context: "cannot start the device's thread".into(),
            source,
            advice: "raise the limit of threads (ulimit -u)".into(),
        })?;
        transport.thread = Some(spawned);
        let handle = transport.handle();
        Ok((transport, handle))
    }

    /// A device without a thread: it does what it has to do when the [`EmbeddedStepper`] is
    /// called, on the thread of the caller, and in the caller's time. Nothing wakes it: it asks
    /// its driver for no doorbell.
    ///
    /// # Errors
    /// When `config` is out of range, or when the backend cannot be opened.
    pub fn inline(
        config: EmbeddedConfig,
        backend: impl Backend + 'static,
    ) -> Result<(Self, EmbeddedHandle, EmbeddedStepper), TransportError> {
        let transport = Self::new(config, Box::new(backend))?;
        let handle = transport.handle();
        let stepper = EmbeddedStepper {
            device: Arc::clone(&transport.device),
        };
        Ok((transport, handle, stepper))
    }

    fn new(config: EmbeddedConfig, backend: Box<dyn Backend>) -> Result<Self, TransportError> {
        Ok(EmbeddedTransport {
            prefers_large_receive: backend.prefers_large_receive(),
            device: Arc::new(Device::new(config, backend)?),
            thread: None,
            accepted: None,
            memory: None,
        })
    }

    fn handle(&self) -> EmbeddedHandle {
        EmbeddedHandle {
            device: Arc::clone(&self.device),
        }
    }

    fn present(&self, request: &'static str) -> Result<(), TransportError> {
        if self.device.is_unplugged() {
            return Err(TransportError::Closed {
                device: self.device.name().into(),
                request,
            });
        }
        Ok(())
    }

    fn refuse<T>(&self, problem: impl Into<String>) -> Result<T, TransportError> {
        Err(TransportError::Device {
            device: self.device.name().into(),
            problem: problem.into(),
        })
    }
}

impl Transport for EmbeddedTransport {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn offered_features(&mut self) -> Result<FeatureBits, TransportError> {
        self.present("offered_features")?;
        Ok(self.device.config().features)
    }

    /// Refuses what was not offered, and drivers that do not accept VERSION_1 (section 6.1).
    fn accept_features(&mut self, accepted: FeatureBits) -> Result<(), TransportError> {
        self.present("accept_features")?;
        let unknown = accepted - self.device.config().features;
        if !unknown.is_empty() {
            return self.refuse(format!(
                "the driver accepted {unknown}, which is not offered"
            ));
        }
        if !accepted.contains(FeatureBits::VERSION_1) {
            return self.refuse("the driver did not accept VERSION_1; a legacy driver cannot run");
        }
        self.accepted = Some(accepted);
        Ok(())
    }

    /// The device has no control queue.
    fn enables_pairs_itself(&self) -> bool {
        true
    }

    fn prefers_large_receive(&self) -> bool {
        self.prefers_large_receive
    }

    fn config(&mut self) -> Result<DeviceConfig, TransportError> {
        self.present("config")?;
        let config = self.device.config();
        let has = |feature| config.features.contains(feature);
        Ok(DeviceConfig {
            mac: has(FeatureBits::MAC).then_some(config.mac),
            link_up: has(FeatureBits::STATUS).then(|| self.device.is_link_up()),
            max_queue_pairs: has(FeatureBits::MQ).then_some(config.queue_pairs),
            mtu: has(FeatureBits::MTU).then_some(config.mtu),
        })
    }

    fn max_queue_size(&mut self, queue: u16) -> Result<u16, TransportError> {
        self.present("max_queue_size")?;
        let config = self.device.config();
        if queue / 2 >= config.queue_pairs {
            return self.refuse(format!("has no queue {queue}"));
        }
        Ok(config.max_queue_size)
    }

    /// The address that descriptors carry is the offset plus the address of the mapping in this
    /// process, so that a driver that confuses the two is found out.
    fn map_memory(&mut self, memory: &Arc<DmaMemory>) -> Result<u64, TransportError> {
        self.present("map_memory")?;
        let iova = memory.base().as_ptr().addr() as u64;
        self.memory = Some(GuestMemory::new(Arc::clone(memory), iova));
        Ok(iova)
    }

    fn set_up_queue(
        &mut self,
        queue: u16,
        ring: &RingLayout,
    ) -> Result<QueueNotifiers, TransportError> {
        let limit = self.max_queue_size(queue)?;
        let (Some(accepted), Some(memory)) = (self.accepted, self.memory.clone()) else {
            return self.refuse("a queue was set up before features and memory");
        };
        if ring.size > limit {
            return self.refuse(format!(
                "queue {queue} has {} descriptors; the limit is {limit}",
                ring.size
            ));
        }
        let transmits = queue % 2 == 1;
        let reports = if transmits && self.device.config().in_order_bursts {
            UsedReports::Burst
        } else {
            UsedReports::Each
        };
        let ring = match Ring::new(memory, ring, accepted, reports) {
            Ok(ring) => ring,
            Err(fault) => return self.refuse(format!("queue {queue}: {fault}")),
        };
        let (notifiers, interrupt) =
            notifiers(&self.device).map_err(|source| TransportError::System {
                context: format!("{}: cannot create an eventfd", self.device.name()),
                source,
                advice: "raise the limit of open files (ulimit -n)".into(),
            })?;
        self.device.with_pair(queue / 2, |pair| {
            let queue = Some(Queue { ring, interrupt });
            if transmits {
                pair.transmit = queue;
            } else {
                pair.receive = queue;
            }
        });
        Ok(notifiers)
    }

    fn enable(&mut self, pairs: u16) -> Result<(), TransportError> {
        self.present("enable")?;
        let Some(accepted) = self.accepted else {
            return self.refuse("was enabled before features were accepted");
        };
        if pairs == 0 || pairs > self.device.config().queue_pairs {
            return self.refuse(format!("cannot enable {pairs} queue pairs"));
        }
        if pairs > 1 && !accepted.contains(FeatureBits::MQ) {
            return self.refuse("several queue pairs need MQ, which was not accepted");
        }
        let mut complete = true;
        self.device.with_pairs(|pair| {
            let wanted = pair.index < pairs;
            complete &= !wanted || (pair.receive.is_some() && pair.transmit.is_some());
        });
        if !complete {
            return self.refuse("a queue pair was enabled before both its queues were set up");
        }
        self.device.steering().activate(pairs);
        self.device.with_pairs(|pair| {
            if pair.index < pairs {
                pair.start(accepted);
            }
        });
        self.device.waker().wake();
        Ok(())
    }

    fn reset(&mut self) -> Result<(), TransportError> {
        self.device.reset();
        self.accepted = None;
        self.memory = None;
        self.present("reset")
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.device.events().file())
    }

    fn take_event(&mut self) -> Option<DeviceEvent> {
        self.device.events().take()
    }
}

impl Drop for EmbeddedTransport {
    fn drop(&mut self) {
        self.device.stop();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported as the loss of the device.
            let _ = thread.join();
        }
    }
}

/// All queues share one doorbell: the device looks at every queue when it wakes.
fn notifiers(device: &Device) -> std::io::Result<(QueueNotifiers, EventFd)> {
    let interrupt = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let notifiers = QueueNotifiers {
        doorbell: Doorbell::EventFd(device.waker().doorbell()?),
        interrupt: interrupt.as_fd().try_clone_to_owned()?,
    };
    Ok((notifiers, interrupt))
}

/// Reports the device lost if its thread ends by a panic.
struct ReportEnd<'a>(&'a Device);

impl Drop for ReportEnd<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0
                .events()
                .push(DeviceEvent::Lost("the device's thread panicked".into()));
        }
    }
}

/// Observes and disturbs an embedded device, from any thread.
#[derive(Clone)]
pub struct EmbeddedHandle {
    device: Arc<Device>,
}

impl EmbeddedHandle {
    /// A snapshot of the counters of all queue pairs.
    pub fn stats(&self) -> EmbeddedStats {
        self.device.stats()
    }

    /// A snapshot of the counters of one queue pair; `None` if there is no such pair.
    pub fn pair_stats(&self, pair: u16) -> Option<EmbeddedStats> {
        self.device.pair_stats(pair)
    }

    /// Takes the link down or up. The driver is told if the device offers STATUS; while the link
    /// is down every frame is dropped and counted.
    pub fn set_link(&self, up: bool) {
        self.device.set_link(up);
    }

    /// Takes the device away, as if its card were unplugged or its process killed: it stops
    /// touching memory, reports [`DeviceEvent::Lost`], and refuses every request.
    pub fn unplug(&self) {
        self.device.unplug();
    }

    /// Brings an unplugged device back; the driver sets it up again from the beginning.
    pub fn plug_in(&self) {
        self.device.plug_in();
    }
}

/// Does the work of a device that has no thread. Clones step the same device; different threads
/// may step different pairs at once.
#[derive(Clone)]
pub struct EmbeddedStepper {
    device: Arc<Device>,
}

impl EmbeddedStepper {
    /// Moves at most one burst of 64 frames each way on every queue pair. Returns how much was
    /// done: zero means that nothing is left to do at `now`. Both ends of a link must be stepped
    /// in the same time.
    pub fn step(&self, now: Instant) -> usize {
        self.device.step(now)
    }

    /// As [`step`](Self::step), for one queue pair.
    pub fn step_pair(&self, pair: u16, now: Instant) -> usize {
        self.device.step_pair(pair, now)
    }

    /// When the backend will have something that it does not have now.
    pub fn deadline(&self) -> Option<Instant> {
        self.device.deadline()
    }
}
