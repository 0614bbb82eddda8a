//! The supervisor actor, and the handle to a running stack.

use std::future::Future;
use std::time::Duration;

use actix::dev::ToEnvelope;
use actix::prelude::*;
use tokio::sync::oneshot;
use virtroupe_actors::clock::Clock;
use virtroupe_actors::cpu::{CpuSetup, start_arbiter, start_stack};
use virtroupe_actors::device::{DeviceActor, DeviceChanged, Initialize, ResetDevice, WaitForLink};
use virtroupe_actors::queue::{
    CollectStats, QueueActor, QueueEnded, ReleaseQueue, RunLocal, StartReceiving, StopQueue,
};
use virtroupe_actors::registry::PortRegistry;
use virtroupe_actors::{CloseReason, LocalStack};
use virtroupe_driver::{Features, Transport};

use crate::config::{Config, TimeLimits};
use crate::error::{Stage, StartError, StartFailure};
use crate::stats::Stats;
use crate::transport;

/// Starts the device and the cpus, watches them, and stops them again.
pub struct Supervisor {
    device: Addr<DeviceActor>,
    cpus: Vec<Cpu>,
    limits: TimeLimits,
    subscribers: Vec<Recipient<Lifecycle>>,
    /// Callers of [`Stack::ended`].
    waiting: Vec<oneshot::Sender<Lifecycle>>,
    /// How the stack ended.
    ended: Option<Lifecycle>,
    stopped: bool,
}

struct Cpu {
    arbiter: Arbiter,
    queue: Addr<QueueActor>,
}

/// What happens to the stack as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub enum Lifecycle {
    /// The stack receives and sends.
    Ready(Features),
    /// The device reports that its link went up.
    LinkUp,
    /// The device reports that its link went down.
    LinkDown,
    /// The device is lost or broken, or a queue failed; all sockets were closed.
    DeviceLost(String),
    /// The stack was shut down.
    Stopped,
}

impl Supervisor {
    /// Starts a stack on the device that `config` names.
    ///
    /// Must be called inside an actix system. Start-up goes through the stages in
    /// [`Stage`], each with the time limit in [`TimeLimits`].
    ///
    /// # Errors
    /// Names the stage that failed and says what to do. Nothing is left running.
    pub async fn start(config: Config) -> Result<Stack, StartError> {
        let at = |cause: StartFailure| StartError {
            stage: Stage::Configuration,
            cause,
        };
        config.validate().map_err(|error| at(error.into()))?;
        let transport = transport::open(&config).map_err(|error| StartError {
            stage: Stage::Device,
            cause: error.into(),
        })?;
        Self::start_on(transport, config).await
    }

    /// Starts a stack on a transport of the caller's; `config.device` is not used.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_on(
        transport: Box<dyn Transport>,
        config: Config,
    ) -> Result<Stack, StartError> {
        config.validate().map_err(|error| StartError {
            stage: Stage::Configuration,
            cause: error.into(),
        })?;
        let mut device = None;
        let supervisor = Supervisor::create(|ctx| {
            let actor = DeviceActor::new(ctx.address().recipient()).start();
            device = Some(actor.clone());
            Supervisor {
                device: actor,
                cpus: Vec::new(),
                limits: config.limits.clone(),
                subscribers: Vec::new(),
                waiting: Vec::new(),
                ended: None,
                stopped: false,
            }
        });
        let failed = |stage, cause| StartError { stage, cause };
        let device = device.ok_or(failed(Stage::Device, StartFailure::Ended))?;
        let mut start = StartUp {
            device,
            supervisor,
            config,
            cpus: Vec::new(),
        };
        match start.run(transport).await {
            Ok(features) => start.finish(features).await,
            Err(error) => {
                start.abandon().await;
                Err(error)
            }
        }
    }
}

/// A start-up under way.
struct StartUp {
    device: Addr<DeviceActor>,
    supervisor: Addr<Supervisor>,
    config: Config,
    cpus: Vec<Cpu>,
}

impl StartUp {
    /// Goes through the stages; each has its time limit.
    async fn run(&mut self, transport: Box<dyn Transport>) -> Result<Features, StartError> {
        let limits = self.config.limits.clone();
        let initialize = Initialize {
            transport,
            options: self.config.options.clone(),
        };
        let features = stage(
            Stage::Device,
            limits.device_ms,
            self.device.send(initialize),
        )
        .await?;
        let arbiter = self.arbiter(limits.queue_ms).await?;
        stage(Stage::Link, limits.link_ms, self.device.send(WaitForLink)).await?;
        let queue = self.stack(&arbiter, limits.stack_ms).await?;
        let started = stage(
            Stage::Receive,
            limits.receive_ms,
            queue.send(StartReceiving),
        )
        .await;
        self.cpus.push(Cpu { arbiter, queue });
        started?;
        Ok(features)
    }

    async fn arbiter(&self, limit: u64) -> Result<Arbiter, StartError> {
        let started = start_arbiter(0, self.config.core);
        stage(Stage::Queue, limit, async { Ok(started.await) }).await
    }

    async fn stack(&self, arbiter: &Arbiter, limit: u64) -> Result<Addr<QueueActor>, StartError> {
        let setup = CpuSetup {
            cpu: 0,
            device: self.device.clone(),
            host: self.config.host.clone(),
            poll: self.config.poll.clone(),
            registry: PortRegistry::default(),
            clock: Clock::new(),
            seed: unguessable(),
            watcher: self.supervisor.clone().recipient(),
        };
        let (report, built) = oneshot::channel();
        arbiter.spawn(async move {
            let _ = report.send(start_stack(setup).await);
        });
        let built = async move { built.await.map_err(|_| MailboxError::Closed) };
        let started = stage(Stage::Stack, limit, built).await;
        if started.is_err() {
            arbiter.stop();
        }
        started
    }

    /// Hands everything to the supervisor.
    async fn finish(self, features: Features) -> Result<Stack, StartError> {
        let queues = self.cpus.iter().map(|cpu| cpu.queue.clone()).collect();
        let adopt = Adopt {
            cpus: self.cpus,
            features: Some(features.clone()),
        };
        let adopted = self.supervisor.send(adopt).await;
        adopted.map_err(|_| StartError {
            stage: Stage::Receive,
            cause: StartFailure::Ended,
        })?;
        Ok(Stack {
            supervisor: self.supervisor,
            queues,
            features,
        })
    }

    /// Undoes what was done.
    async fn abandon(self) {
        let adopt = Adopt {
            cpus: self.cpus,
            features: None,
        };
        let _ = self.supervisor.send(adopt).await;
        let _ = self.supervisor.send(Shutdown).await;
    }
}

/// Runs one stage within its limit.
async fn stage<T, E: Into<StartFailure>>(
    stage: Stage,
    limit: u64,
    work: impl Future<Output = Result<Result<T, E>, MailboxError>>,
) -> Result<T, StartError> {
    let result = match tokio::time::timeout(Duration::from_millis(limit), work).await {
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
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

impl Actor for Supervisor {
    type Context = Context<Self>;
}

impl Supervisor {
    fn tell(&mut self, event: Lifecycle) {
        self.subscribers.retain(Recipient::connected);
        for subscriber in &self.subscribers {
            subscriber.do_send(event.clone());
        }
        if matches!(event, Lifecycle::DeviceLost(_) | Lifecycle::Stopped) {
            for waiting in self.waiting.drain(..) {
                let _ = waiting.send(event.clone());
            }
            self.ended = Some(event);
        }
    }

    /// Stops all cpus and the device, and gives back their memory.
    fn stop(&mut self, reason: CloseReason) -> impl Future<Output = ()> + 'static {
        let cpus = std::mem::take(&mut self.cpus);
        let device = self.device.clone();
        let drain = match reason {
            CloseReason::Shutdown => self.limits.drain(),
            CloseReason::DeviceLost(_) => Duration::ZERO,
        };
        self.stopped = true;
        async move {
            for cpu in &cpus {
                let _ = cpu
                    .queue
                    .send(StopQueue {
                        drain,
                        reason: reason.clone(),
                    })
                    .await;
            }
            match device.send(ResetDevice).await {
                Ok(Ok(())) => {
                    for cpu in &cpus {
                        let _ = cpu.queue.send(ReleaseQueue).await;
                    }
                }
                // The device may still write: its memory stays mapped until the process ends.
                Ok(Err(error)) => tracing::warn!(%error, "the device could not be reset"),
                Err(error) => tracing::warn!(%error, "the device actor is gone"),
            }
            for cpu in cpus {
                cpu.arbiter.stop();
            }
        }
    }

    fn device_lost(&mut self, how: String, ctx: &mut Context<Self>) {
        if self.stopped {
            return;
        }
        tracing::error!(%how, "the device is lost; all sockets are closed");
        let stop = self.stop(CloseReason::DeviceLost(how.clone()));
        ctx.spawn(
            stop.into_actor(self)
                .map(|_, actor, _| actor.tell(Lifecycle::DeviceLost(how))),
        );
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Adopt {
    cpus: Vec<Cpu>,
    /// `None` if start-up failed.
    features: Option<Features>,
}

impl Handler<Adopt> for Supervisor {
    type Result = ();

    fn handle(&mut self, adopt: Adopt, _: &mut Self::Context) {
        self.cpus = adopt.cpus;
        if let Some(features) = adopt.features {
            self.tell(Lifecycle::Ready(features));
        }
    }
}

impl Handler<DeviceChanged> for Supervisor {
    type Result = ();

    fn handle(&mut self, change: DeviceChanged, ctx: &mut Self::Context) {
        match change {
            DeviceChanged::LinkUp => self.tell(Lifecycle::LinkUp),
            DeviceChanged::LinkDown => self.tell(Lifecycle::LinkDown),
            DeviceChanged::Lost(how) => self.device_lost(how, ctx),
        }
    }
}

impl Handler<QueueEnded> for Supervisor {
    type Result = ();

    fn handle(&mut self, ended: QueueEnded, ctx: &mut Self::Context) {
        self.device_lost(format!("cpu {}: {:?}", ended.cpu, ended.end), ctx);
    }
}

/// Subscribes to [`Lifecycle`] messages.
#[derive(Message)]
#[rtype(result = "()")]
struct Subscribe(Recipient<Lifecycle>);

impl Handler<Subscribe> for Supervisor {
    type Result = ();

    fn handle(&mut self, Subscribe(subscriber): Subscribe, _: &mut Self::Context) {
        self.subscribers.push(subscriber);
    }
}

#[derive(Message)]
#[rtype(result = "Lifecycle")]
struct WaitForEnd;

impl Handler<WaitForEnd> for Supervisor {
    type Result = ResponseFuture<Lifecycle>;

    fn handle(&mut self, _: WaitForEnd, _: &mut Self::Context) -> Self::Result {
        if let Some(ended) = self.ended.clone() {
            return Box::pin(async { ended });
        }
        let (sender, ended) = oneshot::channel();
        self.waiting.push(sender);
        Box::pin(async { ended.await.unwrap_or(Lifecycle::Stopped) })
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Shutdown;

impl Handler<Shutdown> for Supervisor {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: Shutdown, _: &mut Self::Context) -> Self::Result {
        let stop = self.stop(CloseReason::Shutdown);
        Box::pin(stop.into_actor(self).map(|_, actor, ctx| {
            actor.tell(Lifecycle::Stopped);
            ctx.stop();
        }))
    }
}

/// A running stack. Clones name the same one; it runs until [`shutdown`](Self::shutdown).
#[derive(Clone)]
pub struct Stack {
    supervisor: Addr<Supervisor>,
    queues: Vec<Addr<QueueActor>>,
    features: Features,
}

/// The stack, or the cpu, is not running any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stack is not running any more; a Lifecycle message said why")]
pub struct NotRunning;

impl Stack {
    /// What was negotiated with the device.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// The number of cpus.
    pub fn cpus(&self) -> u16 {
        self.queues.len() as u16
    }

    /// The address of a cpu's actor, for the messages in [`virtroupe_actors::queue`].
    pub fn queue(&self, cpu: u16) -> Option<&Addr<QueueActor>> {
        self.queues.get(usize::from(cpu))
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
        self.queue(cpu)
            .ok_or(NotRunning)?
            .send(run)
            .await
            .map_err(|_| NotRunning)?;
        result.await.map_err(|_| NotRunning)
    }

    /// A snapshot of every counter.
    ///
    /// # Errors
    /// When the stack is not running.
    pub async fn stats(&self) -> Result<Stats, NotRunning> {
        let mut cpus = Vec::new();
        for queue in &self.queues {
            cpus.push(queue.send(CollectStats).await.map_err(|_| NotRunning)?);
        }
        Ok(Stats { cpus })
    }

    /// Subscribes an actor to what happens to the stack as a whole.
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
