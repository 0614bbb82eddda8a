//! The device actor: owns the device, gives each cpu its queues or the way to another's, and
//! watches for changes.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use actix::prelude::*;
use tokio::io::unix::AsyncFd;
use virtroupe_driver::transport::{DeviceConfig, DeviceEvent, TransportError};
use virtroupe_driver::{Device, DeviceError, DeviceOptions, DeviceParts, Features, Transport};
use virtroupe_wire::placement::PlacementError;

use crate::plan::{CpuPlan, LocalQueues, local_queues};
use crate::poll::watch;

/// How often the link is asked for while start-up waits for it.
const LINK_INTERVAL: Duration = Duration::from_millis(20);

/// Owns the hardware, which is initialised once and shared by all cpus.
///
/// What may block (initialisation, reset, reading the configuration) runs on a blocking thread,
/// within the time limits of the transport.
pub struct DeviceActor {
    device: Option<Arc<Mutex<Device>>>,
    /// What the cpus will be given, by cpu, until they ask for it.
    locals: Vec<Option<LocalQueues>>,
    watcher: Recipient<DeviceChanged>,
    /// The future that waits for the device's events.
    watch: Option<SpawnHandle>,
    /// Set by [`ResetDevice`]: an initialisation that is still under way must not come to life.
    is_over: bool,
}

impl DeviceActor {
    /// An actor without a device; send it [`Initialize`]. `watcher` is told what the device
    /// reports later.
    pub fn new(watcher: Recipient<DeviceChanged>) -> Self {
        DeviceActor {
            device: None,
            locals: Vec::new(),
            watcher,
            watch: None,
            is_over: false,
        }
    }
}

impl Actor for DeviceActor {
    type Context = Context<Self>;
}

/// The device reports a change.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub enum DeviceChanged {
    /// The link went up.
    LinkUp,
    /// The link went down.
    LinkDown,
    /// The device is gone or wants a reset. Says what was seen.
    Lost(String),
}

/// Initialises the device behind a transport.
#[derive(Message)]
#[rtype(result = "Result<Features, InitializeError>")]
pub struct Initialize {
    /// The way to the device.
    pub transport: Box<dyn Transport>,
    /// What to ask of it.
    pub options: DeviceOptions,
    /// Which cpus will use it.
    pub cpus: CpuPlan,
}

/// Why the device actor has no device.
#[derive(Debug, thiserror::Error)]
pub enum InitializeError {
    /// The device could not be initialised.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Its queues can not be shared as asked.
    #[error(transparent)]
    Placement(#[from] PlacementError),
}

impl Handler<Initialize> for DeviceActor {
    type Result = ResponseActFuture<Self, Result<Features, InitializeError>>;

    fn handle(&mut self, message: Initialize, _: &mut Self::Context) -> Self::Result {
        let Initialize {
            transport,
            options,
            cpus,
        } = message;
        let name = transport.name().to_owned();
        let pools = cpus.proxies(options.queue_pairs);
        let work =
            tokio::task::spawn_blocking(move || Device::initialize_for(transport, &options, pools));
        let done = work.into_actor(self).map(move |result, actor, ctx| {
            let parts = result.unwrap_or_else(|_| {
                let problem = "the transport panicked during start-up; please report it".into();
                Err(TransportError::Device {
                    device: name,
                    problem,
                }
                .into())
            })?;
            actor.initialized(parts, &cpus, ctx)
        });
        Box::pin(done)
    }
}

impl DeviceActor {
    fn initialized(
        &mut self,
        parts: DeviceParts,
        cpus: &CpuPlan,
        ctx: &mut Context<Self>,
    ) -> Result<Features, InitializeError> {
        let features = parts.device.features().clone();
        let device = Arc::new(Mutex::new(parts.device));
        let locals = local_queues(cpus, &features, parts.pairs, parts.pools);
        if self.is_over || locals.is_err() {
            // Nobody waits for it any more. The device must still be stopped.
            let device = device.clone();
            actix::spawn(async move {
                if let Err(error) = reset(device).await {
                    tracing::warn!(%error, "the device could not be reset");
                }
            });
            return locals.map(|_| features).map_err(Into::into);
        }
        self.locals = locals?.into_iter().map(Some).collect();
        self.device = Some(device);
        self.watch(ctx);
        Ok(features)
    }
}

impl DeviceActor {
    /// Watches the transport's event file until the device is lost.
    fn watch(&mut self, ctx: &mut Context<Self>) {
        let Some(device) = self.device.clone() else {
            return;
        };
        let Some(events) = event_file(&device) else {
            tracing::debug!("the device has no event file that could be watched");
            return;
        };
        let watch = ctx.spawn(
            async move {
                while let Ok(mut ready) = events.readable().await {
                    ready.clear_ready();
                    let changes = tokio::task::spawn_blocking({
                        let device = device.clone();
                        move || changes(&device)
                    });
                    let changes = changes.await.unwrap_or_default();
                    let lost = changes
                        .iter()
                        .any(|change| matches!(change, DeviceChanged::Lost(_)));
                    if !changes.is_empty() {
                        return (changes, lost);
                    }
                }
                (Vec::new(), true)
            }
            .into_actor(self)
            .map(|(changes, lost), actor, ctx| {
                for change in changes {
                    actor.watcher.do_send(change);
                }
                if !lost {
                    actor.watch(ctx);
                }
            }),
        );
        self.watch = Some(watch);
    }
}

/// Resets the device and lets go of it. If that fails the device may still write, so the memory
/// that was mapped for it is kept until the process ends.
async fn reset(device: Arc<Mutex<Device>>) -> Result<(), TransportError> {
    let kept = device.clone();
    let work = tokio::task::spawn_blocking(move || lock(&device).reset());
    let result = match work.await {
        // Gone, so it writes no more.
        Ok(Err(TransportError::Closed { .. })) => Ok(()),
        Ok(result) => result,
        Err(_) => Err(TransportError::Device {
            device: lock(&kept).name().to_owned(),
            problem: "the transport panicked during reset; please report it".into(),
        }),
    };
    if result.is_err() {
        std::mem::forget(kept);
    }
    result
}

fn event_file(device: &Mutex<Device>) -> Option<AsyncFd<OwnedFd>> {
    let device = lock(device);
    let file = device.event_fd()?.try_clone_to_owned().ok()?;
    watch(file).ok()
}

/// The device, also after a panic of another holder: every call checks its own state.
fn lock(device: &Mutex<Device>) -> MutexGuard<'_, Device> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the device reports now. May ask it for its configuration, so it may block.
fn changes(device: &Mutex<Device>) -> Vec<DeviceChanged> {
    let mut device = lock(device);
    let mut changes = Vec::new();
    while let Some(event) = device.take_event() {
        changes.push(match event {
            DeviceEvent::Lost(how) => DeviceChanged::Lost(how),
            DeviceEvent::NeedsReset => DeviceChanged::Lost("the device asks for a reset".into()),
            DeviceEvent::ConfigChanged => match device.config() {
                Ok(DeviceConfig {
                    link_up: Some(false),
                    ..
                }) => DeviceChanged::LinkDown,
                Ok(_) => DeviceChanged::LinkUp,
                Err(error) => DeviceChanged::Lost(error.to_string()),
            },
        });
        if matches!(changes.last(), Some(DeviceChanged::Lost(_))) {
            break;
        }
    }
    changes
}

/// A cpu asks for its local queues.
#[derive(Debug, Message)]
#[rtype(result = "Option<LocalQueues>")]
pub struct ClaimQueue {
    /// The logical number of the cpu.
    pub cpu: u16,
}

impl Handler<ClaimQueue> for DeviceActor {
    type Result = MessageResult<ClaimQueue>;

    fn handle(&mut self, ClaimQueue { cpu }: ClaimQueue, _: &mut Self::Context) -> Self::Result {
        let local = self.locals.get_mut(usize::from(cpu));
        MessageResult(local.and_then(Option::take))
    }
}

/// Waits until the link is up; devices that do not report their link are up.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), TransportError>")]
pub struct WaitForLink;

impl Handler<WaitForLink> for DeviceActor {
    type Result = ResponseFuture<Result<(), TransportError>>;

    fn handle(&mut self, _: WaitForLink, _: &mut Self::Context) -> Self::Result {
        // Weak: who asked may be gone, and then waiting ends with the device.
        let device = self.device.as_ref().map(Arc::downgrade);
        Box::pin(async move {
            while let Some(device) = device.as_ref().and_then(Weak::upgrade) {
                let config = tokio::task::spawn_blocking(move || lock(&device).config());
                match config.await {
                    Ok(Ok(DeviceConfig {
                        link_up: Some(false),
                        ..
                    })) => {}
                    Ok(Err(error)) => return Err(error),
                    Ok(Ok(_)) | Err(_) => return Ok(()),
                }
                tokio::time::sleep(LINK_INTERVAL).await;
            }
            Err(TransportError::Device {
                device: "the device".into(),
                problem: "was lost or stopped before its link was up; its log may say why".into(),
            })
        })
    }
}

/// Stops the device: afterwards it touches no memory of ours.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), TransportError>")]
pub struct ResetDevice;

impl Handler<ResetDevice> for DeviceActor {
    type Result = ResponseFuture<Result<(), TransportError>>;

    fn handle(&mut self, _: ResetDevice, ctx: &mut Self::Context) -> Self::Result {
        self.is_over = true;
        self.locals.clear();
        if let Some(watch) = self.watch.take() {
            ctx.cancel_future(watch);
        }
        let device = self.device.take();
        Box::pin(async move {
            match device {
                Some(device) => reset(device).await,
                None => Ok(()),
            }
        })
    }
}
