//! A cpu: one arbiter on one thread, and how its stack comes to be.
//!
//! A cpu's stack is created only after the device is ready: the cpu asks the device actor for
//! its queue and gets the device's facts with it, as values.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use actix::prelude::*;
use virtroupe_wire::host::{Host, HostConfig, HostError};

use crate::clock::Clock;
use crate::device::{ClaimQueue, DeviceActor, LocalQueue};
use crate::poll::PollSettings;
use crate::queue::{QueueActor, QueueEnded};
use crate::registry::PortRegistry;
use crate::shard::{Shard, ShardCell, ShardParts};

/// Starts the arbiter of a cpu, on a thread of its own, pinned to `core` if that is given. Must
/// be called inside an actix system.
///
/// # Errors
/// When the core does not exist or is not ours, or the thread did not start.
///
/// # Panics
/// When the system gives no thread, or no files for its runtime: actix offers no other way.
pub async fn start_arbiter(cpu: u16, core: Option<usize>) -> std::io::Result<Arbiter> {
    let (report, pinned) = tokio::sync::oneshot::channel();
    let arbiter = Arbiter::with_tokio_rt(move || {
        let _ = report.send(core.map_or(Ok(()), pin));
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name(format!("virtroupe-{cpu}"))
            .build()
            .unwrap_or_else(|error| panic!("cannot build the runtime of cpu {cpu}: {error}"))
    });
    let mut guard = StopUnlessStarted(Some(arbiter));
    match pinned.await {
        Ok(Ok(())) => guard
            .0
            .take()
            .ok_or_else(|| std::io::Error::other("the arbiter is gone")),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(std::io::Error::other("the arbiter's thread did not start")),
    }
}

/// Ends the thread when nobody takes the arbiter: it did not start, or took too long.
struct StopUnlessStarted(Option<Arbiter>);

impl Drop for StopUnlessStarted {
    fn drop(&mut self) {
        if let Some(arbiter) = &self.0 {
            arbiter.stop();
        }
    }
}

fn pin(core: usize) -> std::io::Result<()> {
    let mut set = nix::sched::CpuSet::new();
    set.set(core)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)?;
    Ok(())
}

/// What a cpu needs to build its stack.
pub struct CpuSetup {
    /// Its logical number.
    pub cpu: u16,
    /// Where the queue comes from.
    pub device: Addr<DeviceActor>,
    /// Addresses, routes and limits. The Ethernet address and the MTU are the device's.
    pub host: HostConfig,
    /// How to poll.
    pub poll: PollSettings,
    /// The bound addresses of all cpus.
    pub registry: PortRegistry,
    /// The clock that all cpus share.
    pub clock: Clock,
    /// Where this cpu's randomness comes from; must not be guessable.
    pub seed: u64,
    /// Told when the poll loop ends by itself.
    pub watcher: Recipient<QueueEnded>,
}

/// Why a cpu got no stack.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// The device actor is gone or has no queue for this cpu.
    #[error("the device has no queue for cpu {0}: it was lost, or has fewer queues than cpus")]
    NoQueue(u16),
    /// Addresses or routes are not valid.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Builds the stack of the current arbiter's cpu. Receiving starts with
/// [`StartReceiving`](crate::queue::StartReceiving).
///
/// # Errors
/// When there is no queue, or the configuration of the host is not valid.
pub async fn start_stack(setup: CpuSetup) -> Result<Addr<QueueActor>, CpuError> {
    let CpuSetup {
        cpu,
        device,
        mut host,
        poll,
        registry,
        clock,
        seed,
        watcher,
    } = setup;
    let claimed = device.send(ClaimQueue { cpu }).await.ok().flatten();
    let LocalQueue { pair, features } = claimed.ok_or(CpuError::NoQueue(cpu))?;
    host.mac = features.mac;
    host.mtu = features.mtu;
    let host = Host::new(host, seed)?;
    let pair = Rc::new(RefCell::new(pair.bind()));
    let shard = ShardCell::new(Shard::new(ShardParts {
        cpu,
        clock,
        features,
        host,
        egress: pair.clone(),
        registry,
        patience: Duration::from_micros(poll.patience_us),
    }));
    Ok(QueueActor::new(shard, pair, clock, poll, watcher).start())
}
