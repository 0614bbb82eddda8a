//! Stopping: queues first, so that what waits is sent; then the device; then the memory that it
//! held.

use std::time::Duration;

use actix::prelude::*;
use tokio::time::timeout;
use virtroupe_actors::cpu_actor::{DrainTcp, ReleaseQueue, StopQueue};
use virtroupe_actors::device::{DeviceActor, ResetDevice};
use virtroupe_actors::{CloseReason, CpuAddr, CpuRole};

use crate::supervisor::Cpus;

/// How long a cpu may take to answer at shutdown, on top of what draining takes.
const GRACE: Duration = Duration::from_secs(2);

/// Everything that is to be stopped.
pub(crate) struct Stopping {
    pub(crate) cpus: Cpus,
    pub(crate) device: Addr<DeviceActor>,
    /// How long the device may take to send what waits.
    pub(crate) drain: Duration,
    /// What the owners of sockets are told.
    pub(crate) reason: CloseReason,
}

impl Stopping {
    /// Stops all cpus and the device, and gives back their memory.
    pub(crate) async fn run(self) {
        if !self.drain.is_zero() {
            self.finish_connections().await;
        }
        // Proxies send through the queues of others, which therefore stop behind them.
        for role in [CpuRole::Proxy, CpuRole::Queue] {
            for actor in self.actors().filter(|actor| actor.role() == role) {
                self.stop(actor).await;
            }
        }
        match self.device.send(ResetDevice).await {
            Ok(Ok(())) => {
                for actor in self.actors() {
                    let _ = timeout(GRACE, actor.send(ReleaseQueue)).await;
                }
            }
            // The device may still write: its memory stays mapped until the process ends.
            Ok(Err(error)) => tracing::warn!(%error, "the device could not be reset"),
            Err(error) => tracing::warn!(%error, "the device actor is gone"),
        }
        for arbiter in self.cpus.arbiters {
            arbiter.stop();
        }
    }

    /// Finishes the TCP connections of all cpus at once, while all of them run.
    async fn finish_connections(&self) {
        let drain = DrainTcp { limit: self.drain };
        let limit = self.drain.saturating_add(GRACE);
        let cpus = self.cpus.actors.iter().filter_map(|actors| actors.first());
        let finishing: Vec<_> = cpus
            .cloned()
            .map(|cpu| actix::spawn(async move { timeout(limit, cpu.send(drain)).await }))
            .collect();
        for finished in finishing {
            let _ = finished.await;
        }
    }

    fn actors(&self) -> impl Iterator<Item = &CpuAddr> {
        self.cpus.actors.iter().flatten()
    }

    /// Drains and closes the queue of an actor. A cpu that an application keeps busy is not
    /// waited for.
    async fn stop(&self, actor: &CpuAddr) {
        let stop = actor.send(StopQueue {
            drain: self.drain,
            reason: self.reason.clone(),
        });
        if timeout(self.drain.saturating_add(GRACE), stop)
            .await
            .is_err()
        {
            tracing::warn!("a cpu does not answer: an actor on it blocks; it is left behind");
        }
    }
}
