//! The device actor: owns the device, gives each cpu its queue, and watches for changes.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::poll::watch;
use actix::prelude::*;
use tokio::io::unix::AsyncFd;
use virtroupe_driver::transport::{DeviceConfig, DeviceEvent, TransportError};
use virtroupe_driver::{Device, DeviceError, DeviceOptions, Features, Transport, UnboundQueuePair};

/// Owns the hardware, which is initialised once and shared by all cpus.
///
/// What may block (initialisation, reset, reading the configuration) runs on a blocking thread,
/// within the time limits of the transport.
pub struct DeviceActor {
    device: Option<Arc<Mutex<Device>>>,
    /// The pairs that no cpu has asked for yet, by index.
    pairs: Vec<Option<UnboundQueuePair>>,
    watcher: Recipient<DeviceChanged>,
}

impl DeviceActor {
    /// An actor without a device; send it [`Initialize`]. `watcher` is told what the device
    /// reports later.
    pub fn new(watcher: Recipient<DeviceChanged>) -> Self {
        DeviceActor {
            device: None,
            pairs: Vec::new(),
            watcher,
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
#[rtype(result = "Result<Features, DeviceError>")]
pub struct Initialize {
    /// The way to the device.
    pub transport: Box<dyn Transport>,
    /// What to ask of it.
    pub options: DeviceOptions,
}

impl Handler<Initialize> for DeviceActor {
    type Result = ResponseActFuture<Self, Result<Features, DeviceError>>;

    fn handle(&mut self, message: Initialize, _: &mut Self::Context) -> Self::Result {
        let Initialize { transport, options } = message;
        let name = transport.name().to_owned();
        let work = tokio::task::spawn_blocking(move || Device::initialize(transport, &options));
        let done = work.into_actor(self).map(|result, actor, ctx| {
            let (device, pairs) = result.unwrap_or_else(|_| {
                let problem = "the transport panicked during start-up; please report it".into();
                Err(TransportError::Device {
                    device: name,
                    problem,
                }
                .into())
            })?;
            let features = device.features().clone();
            actor.pairs = pairs.into_iter().map(Some).collect();
            actor.device = Some(Arc::new(Mutex::new(device)));
            actor.watch(ctx);
            Ok(features)
        });
        Box::pin(done)
    }
}

impl DeviceActor {
    /// Watches the transport's event file until the device is lost.
    fn watch(&mut self, ctx: &mut Context<Self>) {
        let Some(device) = self.device.clone() else {
            return;
        };
        let Some(events) = event_file(&device) else {
            return;
        };
        ctx.spawn(
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
    }
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

/// A cpu asks for its local queue.
#[derive(Debug, Message)]
#[rtype(result = "Option<LocalQueue>")]
pub struct ClaimQueue {
    /// The logical number of the cpu.
    pub cpu: u16,
}

/// What a cpu is given: its own queue pair and the device's facts.
pub struct LocalQueue {
    /// The pair, to be bound on the cpu's thread.
    pub pair: UnboundQueuePair,
    /// What was negotiated.
    pub features: Features,
}

impl Handler<ClaimQueue> for DeviceActor {
    type Result = MessageResult<ClaimQueue>;

    fn handle(&mut self, ClaimQueue { cpu }: ClaimQueue, _: &mut Self::Context) -> Self::Result {
        let pair = self.pairs.get_mut(usize::from(cpu)).and_then(Option::take);
        let features = self
            .device
            .as_ref()
            .map(|device| lock(device).features().clone());
        MessageResult(
            pair.zip(features)
                .map(|(pair, features)| LocalQueue { pair, features }),
        )
    }
}

/// Waits until the link is up; devices that do not report their link are up.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), TransportError>")]
pub struct WaitForLink;

impl Handler<WaitForLink> for DeviceActor {
    type Result = ResponseFuture<Result<(), TransportError>>;

    fn handle(&mut self, _: WaitForLink, _: &mut Self::Context) -> Self::Result {
        let device = self.device.clone();
        Box::pin(async move {
            let Some(device) = device else { return Ok(()) };
            loop {
                let device = device.clone();
                let config = tokio::task::spawn_blocking(move || lock(&device).config());
                match config.await {
                    Ok(Ok(DeviceConfig {
                        link_up: Some(false),
                        ..
                    })) => {}
                    Ok(Err(error)) => return Err(error),
                    Ok(Ok(_)) | Err(_) => return Ok(()),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    }
}

/// Stops the device: afterwards it touches no memory of ours.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), TransportError>")]
pub struct ResetDevice;

impl Handler<ResetDevice> for DeviceActor {
    type Result = ResponseFuture<Result<(), TransportError>>;

    fn handle(&mut self, _: ResetDevice, _: &mut Self::Context) -> Self::Result {
        self.pairs.clear();
        let device = self.device.take();
        Box::pin(async move {
            let Some(device) = device else { return Ok(()) };
            tokio::task::spawn_blocking(move || lock(&device).reset())
                .await
                .unwrap_or(Ok(()))
        })
    }
}
