//! The supervisor actor, and the handle to a running stack.

use std::future::Future;
use std::mem::take;
use std::time::Duration;

use actix::dev::ToEnvelope;
use actix::prelude::*;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
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

/// How long a cpu may take to answer at shutdown, on top of what draining takes.
const GRACE: Duration = Duration::from_secs(2);

/// Starts the device and the cpus, watches them, and stops them again.
pub struct Supervisor {
    device: Addr<DeviceActor>,
    cpus: Vec<Cpu>,
    limits: TimeLimits,
    subscribers: Vec<Recipient<Lifecycle>>,
    /// Callers of [`Stack::ended`].
    waiting: Vec<oneshot::Sender<Lifecycle>>,
    /// What a new subscriber is told: `Ready`, or the end. `None` during start-up.
    state: Option<Lifecycle>,
    /// Becomes true when everything is stopped. `None` until stopping begins.
    stopped: Option<watch::Receiver<bool>>,
}

struct Cpu {
    arbiter: Arbiter,
    /// `None` if start-up did not come so far.
    queue: Option<Addr<QueueActor>>,
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
                state: None,
                stopped: None,
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
        let started = match start.run(transport).await {
            Ok(features) => start.finish(features).await,
            Err(error) => Err(error),
        };
        if started.is_err() {
            start.abandon().await;
        }
        started
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
        let spawner = arbiter.handle();
        self.cpus.push(Cpu {
            arbiter,
            queue: None,
        });
        stage(Stage::Link, limits.link_ms, self.device.send(WaitForLink)).await?;
        let queue = self.stack(&spawner, limits.stack_ms).await?;
        if let Some(cpu) = self.cpus.last_mut() {
            cpu.queue = Some(queue.clone());
        }
        stage(
            Stage::Receive,
            limits.receive_ms,
            queue.send(StartReceiving),
        )
        .await?;
        Ok(features)
    }

    async fn arbiter(&self, limit: u64) -> Result<Arbiter, StartError> {
        let started = start_arbiter(0, self.config.core);
        stage(Stage::Queue, limit, async { Ok(started.await) }).await
    }

    async fn stack(
        &self,
        arbiter: &ArbiterHandle,
        limit: u64,
    ) -> Result<Addr<QueueActor>, StartError> {
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
        stage(Stage::Stack, limit, built).await
    }

    /// Hands everything to the supervisor, unless the device was lost meanwhile.
    async fn finish(&mut self, features: Features) -> Result<Stack, StartError> {
        let failed = |cause| StartError {
            stage: Stage::Receive,
            cause,
        };
        let cpus = take(&mut self.cpus);
        let queues = cpus.iter().filter_map(|cpu| cpu.queue.clone()).collect();
        let adopt = Adopt {
            cpus,
            features: Some(features.clone()),
        };
        match self.supervisor.send(adopt).await {
            Ok(None) => Ok(Stack {
                supervisor: self.supervisor.clone(),
                queues,
                features,
            }),
            Ok(Some(end)) => Err(failed(StartFailure::DeviceLost(end))),
            Err(_) => Err(failed(StartFailure::Ended)),
        }
    }

    /// Undoes what was done.
    async fn abandon(&mut self) {
        let cpus = take(&mut self.cpus);
        if !cpus.is_empty() {
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
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

impl Actor for Supervisor {
    type Context = Context<Self>;
}

impl Supervisor {
    fn tell(&mut self, event: Lifecycle) {
        if !matches!(event, Lifecycle::LinkUp | Lifecycle::LinkDown) {
            self.state = Some(event.clone());
        }
        self.subscribers.retain(Recipient::connected);
        for subscriber in &self.subscribers {
            subscriber.do_send(event.clone());
        }
        if matches!(event, Lifecycle::DeviceLost(_) | Lifecycle::Stopped) {
            for waiting in self.waiting.drain(..) {
                let _ = waiting.send(event.clone());
            }
        }
    }

    /// Stops all cpus and the device, and gives back their memory, once; whoever asks again
    /// waits for the same.
    fn stop(&mut self, reason: CloseReason) -> impl Future<Output = ()> + 'static {
        let mut stopped = match &self.stopped {
            Some(stopped) => stopped.clone(),
            None => {
                let (done, stopped) = watch::channel(false);
                let work = stop_all(self.stop_cpus(reason), self.device.clone());
                // Not in the actor's context, whose end would cut it short.
                actix::spawn(async move {
                    work.await;
                    let _ = done.send(true);
                });
                self.stopped = Some(stopped.clone());
                stopped
            }
        };
        async move {
            let _ = stopped.wait_for(|done| *done).await;
        }
    }

    fn stop_cpus(&mut self, reason: CloseReason) -> Vec<Stopping> {
        let drain = match reason {
            CloseReason::Shutdown => self.limits.drain(),
            CloseReason::DeviceLost(_) => Duration::ZERO,
        };
        let stopping = |cpu| Stopping {
            cpu,
            drain,
            reason: reason.clone(),
        };
        take(&mut self.cpus).into_iter().map(stopping).collect()
    }

    fn device_lost(&mut self, how: String, ctx: &mut Context<Self>) {
        if self.stopped.is_some() {
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

/// A cpu that is to be stopped.
struct Stopping {
    cpu: Cpu,
    drain: Duration,
    reason: CloseReason,
}

impl Stopping {
    /// Drains and closes the queue. A cpu that an application keeps busy is not waited for.
    async fn stop(&mut self) {
        let Some(queue) = &self.cpu.queue else { return };
        let stop = queue.send(StopQueue {
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

    /// Takes back the memory of the queue and ends the thread. Only after the device was reset.
    async fn release(&self) {
        if let Some(queue) = &self.cpu.queue {
            let _ = timeout(GRACE, queue.send(ReleaseQueue)).await;
        }
    }
}

/// Queues first, so that what waits is sent; then the device; then the memory that it held.
async fn stop_all(mut cpus: Vec<Stopping>, device: Addr<DeviceActor>) {
    for cpu in &mut cpus {
        cpu.stop().await;
    }
    match device.send(ResetDevice).await {
        Ok(Ok(())) => {
            for cpu in &cpus {
                cpu.release().await;
            }
        }
        // The device may still write: its memory stays mapped until the process ends.
        Ok(Err(error)) => tracing::warn!(%error, "the device could not be reset"),
        Err(error) => tracing::warn!(%error, "the device actor is gone"),
    }
    for Stopping { cpu, .. } in cpus {
        cpu.arbiter.stop();
    }
}

/// Hands over the cpus. Answers how the device was lost, if it was: then start-up has failed,
/// and the cpus were stopped.
#[derive(Message)]
#[rtype(result = "Option<String>")]
struct Adopt {
    cpus: Vec<Cpu>,
    /// `None` if start-up failed.
    features: Option<Features>,
}

impl Handler<Adopt> for Supervisor {
    type Result = ResponseActFuture<Self, Option<String>>;

    fn handle(&mut self, adopt: Adopt, _: &mut Self::Context) -> Self::Result {
        self.cpus = adopt.cpus;
        let Some(stopped) = &self.stopped else {
            if let Some(features) = adopt.features {
                self.tell(Lifecycle::Ready(features));
            }
            return Box::pin(fut::ready(None));
        };
        let mut stopped = stopped.clone();
        let lost = "the device was lost; the log says how".to_owned();
        let cpus = self.stop_cpus(CloseReason::DeviceLost(lost));
        let device = self.device.clone();
        let stop = async move {
            let _ = stopped.wait_for(|done| *done).await;
            stop_all(cpus, device).await;
        };
        Box::pin(stop.into_actor(self).map(|_, actor, _| match &actor.state {
            Some(Lifecycle::DeviceLost(how)) => Some(how.clone()),
            _ => Some("it was stopped".into()),
        }))
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
        if let Some(state) = &self.state {
            subscriber.do_send(state.clone());
        }
        self.subscribers.push(subscriber);
    }
}

#[derive(Message)]
#[rtype(result = "Lifecycle")]
struct WaitForEnd;

impl Handler<WaitForEnd> for Supervisor {
    type Result = ResponseFuture<Lifecycle>;

    fn handle(&mut self, _: WaitForEnd, _: &mut Self::Context) -> Self::Result {
        if let Some(ended @ (Lifecycle::DeviceLost(_) | Lifecycle::Stopped)) = self.state.clone() {
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
