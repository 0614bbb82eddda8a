//! The supervisor actor.

use std::future::Future;
use std::mem::take;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::{oneshot, watch};
use virtroupe_actors::cpu_actor::QueueEnded;
use virtroupe_actors::device::{DeviceActor, DeviceChanged};
use virtroupe_actors::stats::CpuStats;
use virtroupe_actors::{CloseReason, CpuAddr, CpuRole};
use virtroupe_driver::{Features, Transport};

use crate::config::{Config, TimeLimits};
use crate::error::{Stage, StartError, StartFailure};
use crate::stack::Stack;
use crate::start_up::StartUp;
use crate::stopping::Stopping;
use crate::transport;

/// Starts the device and the cpus, watches them, and stops them again.
pub struct Supervisor {
    device: Addr<DeviceActor>,
    cpus: Cpus,
    limits: TimeLimits,
    /// What the cpus had counted whose actors are gone.
    lost: Vec<CpuStats>,
    subscribers: Vec<Recipient<Lifecycle>>,
    /// Callers of [`Stack::ended`].
    waiting: Vec<oneshot::Sender<Lifecycle>>,
    /// What a new subscriber is told: `Ready`, or the end. `None` during start-up.
    state: Option<Lifecycle>,
    /// Becomes true when everything is stopped. `None` until stopping begins.
    stopped: Option<watch::Receiver<bool>>,
}

/// The threads of the cpus and their actors, as far as start-up came.
#[derive(Default)]
pub(crate) struct Cpus {
    pub(crate) arbiters: Vec<Arbiter>,
    /// The actors of each cpu; the first is the one that serves its applications.
    pub(crate) actors: Vec<Vec<CpuAddr>>,
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
    /// A cpu without a queue of its own failed, and its sockets were closed. The others go on: the
    /// flows of sockets that were bound on several cpus go to those that are left, and other
    /// packets of flows that the cpu owned are dropped as `cpu_gone`.
    CpuLost {
        /// Which.
        cpu: u16,
        /// What was seen.
        how: String,
    },
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
                cpus: Cpus::default(),
                limits: config.limits.clone(),
                lost: Vec::new(),
                subscribers: Vec::new(),
                waiting: Vec::new(),
                state: None,
                stopped: None,
            }
        });
        let failed = |stage, cause| StartError { stage, cause };
        let device = device.ok_or(failed(Stage::Device, StartFailure::Ended))?;
        StartUp::new(device, supervisor, config)
            .run(transport)
            .await
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;
}

impl Supervisor {
    fn tell(&mut self, event: Lifecycle) {
        if matches!(
            event,
            Lifecycle::Ready(_) | Lifecycle::DeviceLost(_) | Lifecycle::Stopped
        ) {
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
                let work = self.stopping(reason).run();
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

    fn stopping(&mut self, reason: CloseReason) -> Stopping {
        let drain = match reason {
            CloseReason::Shutdown => self.limits.drain(),
            CloseReason::DeviceLost(_) | CloseReason::CpuLost(_) => Duration::ZERO,
        };
        Stopping {
            cpus: take(&mut self.cpus),
            device: self.device.clone(),
            drain,
            reason,
        }
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

/// Hands over the cpus. Answers how the device was lost, if it was: then start-up has failed,
/// and the cpus were stopped.
#[derive(Message)]
#[rtype(result = "Option<String>")]
pub(crate) struct Adopt {
    pub(crate) cpus: Cpus,
    /// `None` if start-up failed.
    pub(crate) features: Option<Features>,
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
        let stopping = self.stopping(CloseReason::DeviceLost(lost));
        let stop = async move {
            let _ = stopped.wait_for(|done| *done).await;
            stopping.run().await;
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
        let QueueEnded {
            cpu,
            role,
            end,
            last,
        } = ended;
        self.lost.extend(last.map(|last| *last));
        match role {
            CpuRole::Queue => self.device_lost(format!("cpu {cpu}: {end:?}"), ctx),
            CpuRole::Proxy if self.stopped.is_none() => {
                let how = format!("{end:?}");
                tracing::error!(cpu, %how, "a cpu is lost; its sockets are closed");
                self.tell(Lifecycle::CpuLost { cpu, how });
            }
            CpuRole::Proxy => {}
        }
    }
}

/// Asks what the cpus had counted whose actors are gone.
#[derive(Message)]
#[rtype(result = "Vec<CpuStats>")]
pub(crate) struct LostStats;

impl Handler<LostStats> for Supervisor {
    type Result = MessageResult<LostStats>;

    fn handle(&mut self, _: LostStats, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.lost.clone())
    }
}

/// Subscribes to [`Lifecycle`] messages.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Subscribe(pub(crate) Recipient<Lifecycle>);

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
pub(crate) struct WaitForEnd;

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
pub(crate) struct Shutdown;

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
