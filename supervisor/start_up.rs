//! Start-up: device, threads, link, stacks, receiving; each stage within its time limit.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::mem::take;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;
use tokio::time::timeout;
use virtroupe_actors::CpuAddr;
use virtroupe_actors::clock::Clock;
use virtroupe_actors::cpu::{CpuSetup, start_arbiter, start_stack};
use virtroupe_actors::cpu_actor::StartReceiving;
use virtroupe_actors::device::{DeviceActor, Initialize, WaitForLink};
use virtroupe_actors::plan::CpuPlan;
use virtroupe_actors::registry::PortRegistry;
use virtroupe_driver::{Features, Transport};

use crate::config::Config;
use crate::error::{Stage, StartError, StartFailure};
use crate::stack::Stack;
use crate::supervisor::{Adopt, Cpus, Shutdown, Supervisor};

/// A start-up under way.
pub(crate) struct StartUp {
    device: Addr<DeviceActor>,
    supervisor: Addr<Supervisor>,
    config: Config,
    cpus: Cpus,
}

impl StartUp {
    pub(crate) fn new(
        device: Addr<DeviceActor>,
        supervisor: Addr<Supervisor>,
        config: Config,
    ) -> Self {
        StartUp {
            device,
            supervisor,
            config,
            cpus: Cpus::default(),
        }
    }

    /// Starts everything, or nothing.
    pub(crate) async fn run(mut self, transport: Box<dyn Transport>) -> Result<Stack, StartError> {
        let started = match self.stages(transport).await {
            Ok(features) => self.finish(features).await,
            Err(error) => Err(error),
        };
        if started.is_err() {
            self.abandon().await;
        }
        started
    }

    /// Goes through the stages.
    async fn stages(&mut self, transport: Box<dyn Transport>) -> Result<Features, StartError> {
        let limits = self.config.limits.clone();
        let initialize = Initialize {
            transport,
            options: self.config.options.clone(),
            cpus: self.plan(),
        };
        let features = stage(
            Stage::Device,
            limits.device_ms,
            self.device.send(initialize),
        )
        .await?;
        for thread in 0..self.config.cpus.threads() {
            let core = self.config.cpus.cores.get(usize::from(thread)).copied();
            let started = start_arbiter(thread, core);
            let started = async { Ok(started.await) };
            let arbiter = stage(Stage::Queue, limits.queue_ms, started).await?;
            self.cpus.arbiters.push(arbiter);
        }
        stage(Stage::Link, limits.link_ms, self.device.send(WaitForLink)).await?;
        self.stacks(limits.stack_ms).await?;
        self.receive(limits.receive_ms).await?;
        Ok(features)
    }

    fn plan(&self) -> CpuPlan {
        CpuPlan {
            weights: self.config.cpus.weights(),
            first: self.config.cpus.device,
            seed: unguessable(),
            credits: self.config.poll.credits,
            lane_frames: self.config.poll.lane_frames,
        }
    }

    /// Builds the stack of each cpu on its thread.
    async fn stacks(&mut self, limit: u64) -> Result<(), StartError> {
        let registry = PortRegistry::default();
        let clock = Clock::new();
        for cpu in 0..self.config.cpus.count {
            let setup = CpuSetup {
                cpu,
                device: self.device.clone(),
                host: self.config.host.clone(),
                tcp: self.config.tcp.clone(),
                poll: self.config.poll.clone(),
                registry: registry.clone(),
                clock,
                seed: unguessable(),
                tcp_seed: unguessable(),
                watcher: self.supervisor.clone().recipient(),
            };
            let (report, built) = oneshot::channel();
            let thread = usize::from(cpu % self.config.cpus.threads());
            if let Some(arbiter) = self.cpus.arbiters.get(thread) {
                arbiter.spawn(async move {
                    let _ = report.send(start_stack(setup).await);
                });
            }
            let built = async move { built.await.map_err(|_| MailboxError::Closed) };
            let actors = stage(Stage::Stack, limit, built).await?;
            self.cpus.actors.push(actors);
        }
        Ok(())
    }

    /// Starts all poll loops, once every cpu knows the others.
    async fn receive(&self, limit: u64) -> Result<(), StartError> {
        for (cpu, actors) in self.cpus.actors.iter().enumerate() {
            let others = (0..).zip(self.serving()).filter(|(other, _)| *other != cpu);
            let peers: Vec<_> = others
                .map(|(other, actor)| actor.as_peer(other as u16))
                .collect();
            for actor in actors {
                let start = StartReceiving {
                    peers: peers.clone(),
                };
                stage(Stage::Receive, limit, actor.send(start)).await?;
            }
        }
        Ok(())
    }

    /// The actor of each cpu that serves its applications.
    fn serving(&self) -> impl Iterator<Item = &CpuAddr> {
        self.cpus.actors.iter().filter_map(|actors| actors.first())
    }

    /// Hands everything to the supervisor, unless the device was lost meanwhile.
    async fn finish(&mut self, features: Features) -> Result<Stack, StartError> {
        let failed = |cause| StartError {
            stage: Stage::Receive,
            cause,
        };
        let cpus = self.serving().cloned().collect();
        let adopt = Adopt {
            cpus: take(&mut self.cpus),
            features: Some(features.clone()),
        };
        match self.supervisor.send(adopt).await {
            Ok(None) => Ok(Stack::new(self.supervisor.clone(), cpus, features)),
            Ok(Some(end)) => Err(failed(StartFailure::DeviceLost(end))),
            Err(_) => Err(failed(StartFailure::Ended)),
        }
    }

    /// Undoes what was done.
    async fn abandon(&mut self) {
        let cpus = take(&mut self.cpus);
        if !cpus.arbiters.is_empty() {
            let adopt = Adopt {
                cpus,
                features: None,
            };
            let _ = self.supervisor.send(adopt).await;
        }
        let _ = self.supervisor.send(Shutdown).await;
    }
}

/// Runs one stage within its limit.
async fn stage<T, E: Into<StartFailure>>(
    stage: Stage,
    limit: u64,
    work: impl Future<Output = Result<Result<T, E>, MailboxError>>,
) -> Result<T, StartError> {
    let result = match timeout(Duration::from_millis(limit), work).await {
        Ok(Ok(result)) => result.map_err(Into::into),
        Ok(Err(_)) => Err(StartFailure::Ended),
        Err(_) => Err(StartFailure::TimedOut {
            milliseconds: limit,
            advice: advice(stage),
        }),
    };
    match &result {
        Ok(_) => tracing::debug!(%stage, "start-up stage done"),
        Err(error) => tracing::debug!(%stage, %error, "start-up stage failed"),
    }
    result.map_err(|cause| StartError { stage, cause })
}

fn advice(stage: Stage) -> &'static str {
    match stage {
        Stage::Link => "is the other side of the link up? raise limits.link_ms to wait longer",
        Stage::Device => "does the device answer? raise limits.device_ms to wait longer",
        _ => "is the machine overloaded? raise the stage's limit to wait longer",
    }
}

/// A number that nobody outside can guess: std seeds its hash keys from the system.
pub(crate) fn unguessable() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
