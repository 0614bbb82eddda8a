//! The handle to a running stack.

use std::future::Future;

use actix::dev::ToEnvelope;
use actix::prelude::*;
use tokio::sync::oneshot;
use virtroupe_actors::services::{CollectStats, RunLocal};
use virtroupe_actors::{CpuAddr, LocalStack};
use virtroupe_driver::Features;

use crate::stats::Stats;
use crate::supervisor::{Lifecycle, LostStats, Shutdown, Subscribe, Supervisor, WaitForEnd};

/// A running stack. Clones name the same one; it runs until [`shutdown`](Self::shutdown).
#[derive(Clone)]
pub struct Stack {
    supervisor: Addr<Supervisor>,
    /// The actor of each cpu that serves its applications.
    cpus: Vec<CpuAddr>,
    features: Features,
}

/// The stack, or the cpu, is not running any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stack is not running any more; a Lifecycle message said why")]
pub struct NotRunning;

impl Stack {
    pub(crate) fn new(
        supervisor: Addr<Supervisor>,
        cpus: Vec<CpuAddr>,
        features: Features,
    ) -> Self {
        Stack {
            supervisor,
            cpus,
            features,
        }
    }

    /// What was negotiated with the device.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// The number of cpus.
    pub fn cpus(&self) -> u16 {
        self.cpus.len() as u16
    }

    /// The address of a cpu's actor, for the messages in [`virtroupe_actors::services`].
    pub fn cpu(&self, cpu: u16) -> Option<&CpuAddr> {
        self.cpus.get(usize::from(cpu))
    }

    /// Runs `work` on the arbiter of `cpu`, with its stack, and gives what it returns. This is
    /// how application actors get to their cpu: `work` binds sockets and starts actors.
    ///
    /// # Errors
    /// When the stack has no such cpu or is not running, or `work` panicked.
    pub async fn run_on<T, F, Fut>(&self, cpu: u16, work: F) -> Result<T, NotRunning>
    where
        T: Send + 'static,
        F: FnOnce(LocalStack) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let (report, result) = oneshot::channel();
        let run = RunLocal(Box::new(move |local| {
            actix::spawn(async move {
                let _ = report.send(work(local).await);
            });
        }));
        self.cpu(cpu)
            .ok_or(NotRunning)?
            .send(run)
            .await
            .map_err(|_| NotRunning)?;
        result.await.map_err(|_| NotRunning)
    }

    /// Runs `work` on the arbiter of every cpu, each with its own stack, and gives what they
    /// return, by cpu. This is how an application starts one actor on each cpu:
    ///
    /// ```no_run
    /// # use actix::prelude::*;
    /// # use virtroupe::{BindError, Stack, UdpSocket};
    /// # struct Echo(UdpSocket);
    /// # impl Actor for Echo { type Context = Context<Self>; }
    /// # async fn start(stack: &Stack) -> Result<(), Box<dyn std::error::Error>> {
    /// let echoes = stack.run_on_each(|local| async move {
    ///     let socket = local.bind_udp_per_cpu(([0, 0, 0, 0], 7).into()).await?;
    ///     Ok::<_, BindError>(Echo(socket).start())
    /// });
    /// for echo in echoes.await? {
    ///     echo?;
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the stack is not running, or `work` panicked on a cpu.
    pub async fn run_on_each<T, F, Fut>(&self, work: F) -> Result<Vec<T>, NotRunning>
    where
        T: Send + 'static,
        F: Fn(LocalStack) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let mut results = Vec::new();
        for cpu in 0..self.cpus() {
            results.push(self.run_on(cpu, work.clone()).await?);
        }
        Ok(results)
    }

    /// A snapshot of every counter. Those of a cpu that is lost are as they were at its end.
    ///
    /// # Errors
    /// When the stack is not running.
    pub async fn stats(&self) -> Result<Stats, NotRunning> {
        let mut cpus = Vec::new();
        for cpu in &self.cpus {
            cpus.extend(cpu.send(CollectStats).await.ok());
        }
        if cpus.is_empty() {
            return Err(NotRunning);
        }
        if cpus.len() < self.cpus.len() {
            cpus.extend(self.supervisor.send(LostStats).await.unwrap_or_default());
            cpus.sort_by_key(|stats| stats.cpu);
        }
        Ok(Stats { cpus })
    }

    /// Subscribes an actor to what happens to the stack as a whole. It is told at once how the
    /// stack is: [`Lifecycle::Ready`] while it runs.
    pub fn subscribe<A>(&self, subscriber: Addr<A>)
    where
        A: Actor + Handler<Lifecycle>,
        A::Context: ToEnvelope<A, Lifecycle>,
    {
        self.supervisor.do_send(Subscribe(subscriber.recipient()));
    }

    /// Waits until the stack has ended: by [`shutdown`](Self::shutdown), which gives
    /// [`Lifecycle::Stopped`], or by itself, which gives [`Lifecycle::DeviceLost`].
    pub async fn ended(&self) -> Lifecycle {
        self.supervisor
            .send(WaitForEnd)
            .await
            .unwrap_or(Lifecycle::Stopped)
    }

    /// Stops receiving, sends what waits, closes all sockets, and resets the device. Done when
    /// it returns; shutting down again does nothing.
    pub async fn shutdown(&self) {
        let _ = self.supervisor.send(Shutdown).await;
    }
}
