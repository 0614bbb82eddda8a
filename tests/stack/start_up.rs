//! Start-up errors: one line each, that names the stage and says what to do.

use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use virtroupe::driver::embedded::{
    EmbeddedConfig, EmbeddedHandle, EmbeddedTransport, Link, LinkConfig,
};
use virtroupe::driver::memory::DmaMemory;
use virtroupe::driver::transport::{
    DeviceConfig, DeviceEvent, QueueNotifiers, RingLayout, TransportError,
};
use virtroupe::driver::{RingFormat, Transport};
use virtroupe::{Config, FeatureBits, Stage, StartError, Supervisor};

use super::support::{config, within};

async fn failure(config: Config) -> StartError {
    match within(Supervisor::start(config)).await {
        Ok(_) => panic!("it started"),
        Err(error) => {
            assert_eq!(error.to_string().lines().count(), 1, "{error}");
            error
        }
    }
}

fn vhost(path: &str) -> Config {
    let url = format!("vhost-user:{path}").parse().expect("a URL");
    Config::new(url)
        .address("10.0.0.1/24".parse().expect("an address"))
        .mac("02:00:00:00:00:01".parse().expect("an address"))
}

/// The error of a start-up on the embedded device `device`.
async fn failure_on(device: EmbeddedConfig, config: Config) -> StartError {
    let (end, _other) = Link::pair(LinkConfig::default());
    let (transport, _, _) = EmbeddedTransport::inline(device, end).expect("a device");
    let started = within(Supervisor::start_on(Box::new(transport), config)).await;
    started.err().expect("an error")
}

/// A device that does not offer `feature`.
fn without(feature: FeatureBits) -> EmbeddedConfig {
    EmbeddedConfig {
        features: EmbeddedConfig::SUPPORTED - feature,
        ..EmbeddedConfig::default()
    }
}

#[track_caller]
fn says(error: &StartError, stage: Stage, words: &[&str]) {
    assert_eq!(error.stage, stage, "{error}");
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
}

#[actix::test]
async fn no_such_socket() {
    let error = failure(vhost("/nonexistent/vhost.sock")).await;
    says(
        &error,
        Stage::Device,
        &["/nonexistent/vhost.sock", "start the backend"],
    );
}

#[actix::test]
async fn a_backend_that_accepts_and_says_nothing() {
    let path = std::env::temp_dir().join(format!("virtroupe-silent-{}", std::process::id()));
    let _listener = UnixListener::bind(&path).expect("a socket");
    let mut config = vhost(path.to_str().expect("a path"));
    config.limits.device_ms = 500;
    let error = failure(config).await;
    std::fs::remove_file(&path).expect("removed");
    says(
        &error,
        Stage::Device,
        &["500 ms", "does the device answer?"],
    );
}

#[actix::test]
async fn a_device_without_version_1() {
    let error = failure_on(without(FeatureBits::VERSION_1), config(1)).await;
    says(
        &error,
        Stage::Device,
        &["VIRTIO_F_VERSION_1", "virtio 1.0 or later"],
    );
}

#[actix::test]
async fn no_address() {
    let mut config = vhost("/tmp/x");
    config.host.addresses.clear();
    says(
        &failure(config).await,
        Stage::Configuration,
        &["host.addresses", "--ip"],
    );
}

#[actix::test]
async fn no_ethernet_address() {
    let error = failure_on(without(FeatureBits::MAC), config(1)).await;
    says(&error, Stage::Device, &["--mac"]);
}

#[actix::test]
async fn more_memory_than_there_is() {
    let mut config = config(1);
    config.options.pool_frames = (1 << 31) - 1;
    let error = failure_on(EmbeddedConfig::default(), config).await;
    says(&error, Stage::Device, &["pool_frames", "memory"]);
}

#[actix::test]
async fn a_ring_size_that_the_device_does_not_take() {
    let mut config = config(1);
    config.options.queue_size = 300;
    // Packed rings have no such limit.
    config.options.ring_format = RingFormat::Split;
    let error = failure_on(EmbeddedConfig::default(), config).await;
    says(
        &error,
        Stage::Device,
        &["queue_size is 300", "power of two"],
    );
}

#[actix::test]
async fn a_link_that_stays_down() {
    let (end, _other) = Link::pair(LinkConfig::default());
    let (transport, device, _) =
        EmbeddedTransport::inline(EmbeddedConfig::default(), end).expect("a device");
    device.set_link(false);
    let mut config = config(1);
    config.limits.link_ms = 50;
    let error = within(Supervisor::start_on(Box::new(transport), config))
        .await
        .err();
    says(
        &error.expect("an error"),
        Stage::Link,
        &["50 ms", "other side of the link"],
    );
}

#[actix::test]
async fn an_ethernet_address_of_a_group() {
    let config = vhost("/tmp/x").mac("ff:ff:ff:ff:ff:ff".parse().expect("an address"));
    let error = failure(config).await;
    says(&error, Stage::Configuration, &["options.mac", "unicast"]);
}

#[actix::test]
async fn an_ethernet_address_where_it_has_no_effect() {
    let mut config = vhost("/tmp/x");
    config.host.mac = "02:00:00:00:00:02".parse().expect("an address");
    let error = failure(config).await;
    says(&error, Stage::Configuration, &["host.mac", "options.mac"]);
}

/// What a test does to a transport, and sees of it.
#[derive(Default)]
struct Trick {
    /// Told when the first request may be answered; `None`: at once.
    answer: Option<std::sync::mpsc::Receiver<()>>,
    /// The device that is unplugged when the driver first waits for its link.
    unplug: Option<EmbeddedHandle>,
    /// Told of `reset`, and closed when the transport is dropped.
    resets: Option<UnboundedSender<()>>,
}

/// An embedded device that answers late, or is lost at the worst time.
struct Tricky {
    inner: EmbeddedTransport,
    trick: Trick,
    enabled: bool,
    asked: u32,
}

impl Tricky {
    fn boxed(inner: EmbeddedTransport, trick: Trick) -> Box<dyn Transport> {
        Box::new(Tricky {
            inner,
            trick,
            enabled: false,
            asked: 0,
        })
    }
}

impl Transport for Tricky {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn offered_features(&mut self) -> Result<FeatureBits, TransportError> {
        if let Some(answer) = self.trick.answer.take() {
            let _ = answer.recv();
        }
        self.inner.offered_features()
    }

    fn accept_features(&mut self, accepted: FeatureBits) -> Result<(), TransportError> {
        self.inner.accept_features(accepted)
    }

    fn config(&mut self) -> Result<DeviceConfig, TransportError> {
        let Some(device) = self.trick.unplug.as_ref().filter(|_| self.enabled) else {
            return self.inner.config();
        };
        // Lost when first asked for the link; the link is up some questions later.
        device.unplug();
        self.asked += 1;
        Ok(DeviceConfig {
            link_up: Some(self.asked > 5),
            ..DeviceConfig::default()
        })
    }

    fn max_queue_size(&mut self, queue: u16) -> Result<u16, TransportError> {
        self.inner.max_queue_size(queue)
    }

    fn map_memory(&mut self, memory: &Arc<DmaMemory>) -> Result<u64, TransportError> {
        self.inner.map_memory(memory)
    }

    fn set_up_queue(
        &mut self,
        queue: u16,
        ring: &RingLayout,
    ) -> Result<QueueNotifiers, TransportError> {
        self.inner.set_up_queue(queue, ring)
    }

    fn enable(&mut self, pairs: u16) -> Result<(), TransportError> {
        self.enabled = true;
        self.inner.enable(pairs)
    }

    fn reset(&mut self) -> Result<(), TransportError> {
        if let Some(resets) = &self.trick.resets {
            let _ = resets.send(());
        }
        self.inner.reset()
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.event_fd()
    }

    fn take_event(&mut self) -> Option<DeviceEvent> {
        self.inner.take_event()
    }
}

/// A transport whose device answers after the stage has been given up.
#[actix::test]
async fn a_device_that_comes_too_late_is_reset_and_let_go() {
    let (end, _other) = Link::pair(LinkConfig::default());
    let (inner, _, _) =
        EmbeddedTransport::inline(EmbeddedConfig::default(), end).expect("a device");
    let (resets, mut told) = unbounded_channel();
    let (go, answer) = std::sync::mpsc::channel();
    let trick = Trick {
        answer: Some(answer),
        resets: Some(resets),
        ..Trick::default()
    };
    let mut config = config(1);
    config.limits.device_ms = 20;
    let error = within(Supervisor::start_on(Tricky::boxed(inner, trick), config)).await;
    says(&error.err().expect("an error"), Stage::Device, &["20 ms"]);
    go.send(()).expect("it waits");
    assert_eq!(within(told.recv()).await, Some(()));
    assert_eq!(within(told.recv()).await, None, "the transport is gone");
}

#[actix::test]
async fn a_stack_that_was_shut_down_lets_go_of_its_device() {
    let (end, _other) = Link::pair(LinkConfig::default());
    let (inner, _, _) =
        EmbeddedTransport::inline(EmbeddedConfig::default(), end).expect("a device");
    let (resets, mut told) = unbounded_channel();
    let trick = Trick {
        resets: Some(resets),
        ..Trick::default()
    };
    let stack = within(Supervisor::start_on(Tricky::boxed(inner, trick), config(1))).await;
    let stack = stack.expect("it starts");
    within(stack.shutdown()).await;
    assert_eq!(within(told.recv()).await, Some(()));
    assert_eq!(within(told.recv()).await, None, "the transport is gone");
}

#[actix::test]
async fn a_device_that_is_lost_during_start_up() {
    let (end, _other) = Link::pair(LinkConfig::default());
    let (inner, device, _) =
        EmbeddedTransport::inline(EmbeddedConfig::default(), end).expect("a device");
    let trick = Trick {
        unplug: Some(device),
        ..Trick::default()
    };
    let started = within(Supervisor::start_on(Tricky::boxed(inner, trick), config(1))).await;
    // If the loss was noticed only after the start, the stack ends like any other.
    if let Ok(stack) = started {
        within(async { while stack.stats().await.is_ok() {} }).await;
    }
}

/// Only its text: whoever runs this test may well be allowed to.
#[test]
fn the_text_for_a_refused_tap_says_what_to_do() {
    let error = TransportError::System {
        context: "cannot open /dev/net/tun".into(),
        source: std::io::Error::from_raw_os_error(13),
        advice: "run with --sandbox or as root".into(),
    };
    let text = error.to_string();
    assert!(
        text.starts_with("cannot open /dev/net/tun: Permission denied"),
        "{text}"
    );
    assert!(text.ends_with("run with --sandbox or as root"), "{text}");
}
