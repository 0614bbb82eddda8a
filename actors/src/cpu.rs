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
use crate::cpu_actor::{CpuActorParts, CpuAddr, ProxyActor, QueueActor, QueueEnded};
use crate::crossings::Crossings;
use crate::device::{ClaimQueue, DeviceActor};
use crate::egress::{Egress, QueueEgress};
use crate::plan::{LocalQueues, WayOut};
use crate::poll::PollSettings;
use crate::ports::Ports;
use crate::registry::PortRegistry;
use crate::shard::{Shard, ShardCell, ShardParts};
use crate::tcp::TcpSettings;
use crate::virtual_queue::{Served, VirtualQueue};

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
    /// Where its queues come from.
    pub device: Addr<DeviceActor>,
    /// Addresses, routes and limits. The Ethernet address and the MTU are the device's.
    pub host: HostConfig,
    /// Whether there is TCP, and its limits.
    pub tcp: TcpSettings,
    /// How to poll.
    pub poll: PollSettings,
    /// The bound addresses of all cpus.
    pub registry: PortRegistry,
    /// The clock that all cpus share.
    pub clock: Clock,
    /// Where this cpu's randomness comes from; must not be guessable.
    pub seed: u64,
    /// The same for TCP.
    pub tcp_seed: u64,
    /// Told when the poll loop ends by itself.
    pub watcher: Recipient<QueueEnded>,
}

/// Why a cpu got no stack.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// The device actor is gone or has nothing for this cpu.
    #[error("the device has no queue for cpu {0}: it was lost")]
    NoQueue(u16),
    /// Addresses or routes are not valid.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Builds the stack of a cpu on the current arbiter, and starts its actors: one for each queue
/// pair that it owns, the one that it sends through first, or one proxy. Receiving starts with
/// [`StartReceiving`](crate::cpu_actor::StartReceiving).
///
/// # Errors
/// When there is no queue, or the configuration of the host is not valid.
pub async fn start_stack(setup: CpuSetup) -> Result<Vec<CpuAddr>, CpuError> {
    let CpuSetup {
        cpu,
        device,
        mut host,
        tcp,
        poll,
        registry,
        clock,
        seed,
        tcp_seed,
        watcher,
    } = setup;
    let claimed = device.send(ClaimQueue { cpu }).await.ok().flatten();
    let local = claimed.ok_or(CpuError::NoQueue(cpu))?;
    let features = local.features.clone();
    host.mac = features.mac;
    host.mtu = features.mtu;
    let tcp = tcp.enabled.then(|| tcp.config(features.mtu));
    let host = Host::new(host, seed)?;
    let patience = Duration::from_micros(poll.patience_us);
    let policy = poll.tx_ready;
    let ports = Rc::new(RefCell::new(bind_ports(cpu, local, patience)));
    let shard = ShardCell::new(Shard::new(ShardParts {
        cpu,
        clock,
        features,
        host,
        tcp,
        tcp_seed,
        ports: ports.clone(),
        registry,
        patience,
        policy,
    }));
    let parts = |further| CpuActorParts {
        shard: shard.clone(),
        ports: ports.clone(),
        further,
        clock,
        settings: poll.clone(),
        watcher: watcher.clone(),
    };
    let first = match &ports.borrow().egress {
        Egress::Queue(_) => CpuAddr::Queue(QueueActor::new(parts(None)).start()),
        Egress::Virtual(_) => CpuAddr::Proxy(ProxyActor::new(parts(None)).start()),
    };
    let mut actors = vec![first];
    for further in ports.borrow().further.iter().cloned() {
        let actor = QueueActor::new(parts(Some(further))).start();
        actors.push(CpuAddr::Queue(actor));
    }
    Ok(actors)
}

/// Ties what the cpu was given to the current thread.
fn bind_ports(cpu: u16, local: LocalQueues, patience: Duration) -> Ports {
    let egress = match local.way_out {
        WayOut::Queue(pair, served) => {
            let served = served
                .into_iter()
                .map(|end| Served::new(end.lane, end.credits, end.bell))
                .collect();
            Egress::Queue(Box::new(QueueEgress::new(pair.bind(), served)))
        }
        WayOut::Virtual(lane, credits, pool) => {
            Egress::Virtual(VirtualQueue::new(lane, credits, pool.bind()))
        }
    };
    let further = local.further.into_iter();
    let crossings = local.crossings;
    Ports {
        egress,
        further: further
            .map(|pair| Rc::new(RefCell::new(pair.bind())))
            .collect(),
        crossings: crossings
            .map(|(ends, placement)| Crossings::new(cpu, ends, placement, patience)),
    }
}
