//! Start-up errors: one line each, that names the stage and says what to do.

use std::os::unix::net::UnixListener;

use virtroupe::driver::embedded::{EmbeddedConfig, EmbeddedTransport, Link, LinkConfig};
use virtroupe::driver::transport::TransportError;
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
    let (end, _other) = Link::pair(LinkConfig::default());
    let features = EmbeddedConfig::SUPPORTED - FeatureBits::VERSION_1;
    let device = EmbeddedConfig {
        features,
        ..EmbeddedConfig::default()
    };
    let (transport, _, _) = EmbeddedTransport::inline(device, end).expect("a device");
    let error = within(Supervisor::start_on(Box::new(transport), config(1)))
        .await
        .err();
    says(
        &error.expect("an error"),
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
    let (end, _other) = Link::pair(LinkConfig::default());
    let features = EmbeddedConfig::SUPPORTED - FeatureBits::MAC;
    let device = EmbeddedConfig {
        features,
        ..EmbeddedConfig::default()
    };
    let (transport, _, _) = EmbeddedTransport::inline(device, end).expect("a device");
    let error = within(Supervisor::start_on(Box::new(transport), config(1)))
        .await
        .err();
    says(&error.expect("an error"), Stage::Device, &["--mac"]);
}

#[actix::test]
async fn more_memory_than_there_is() {
    let (end, _other) = Link::pair(LinkConfig::default());
    let (transport, _, _) =
        EmbeddedTransport::inline(EmbeddedConfig::default(), end).expect("a device");
    let mut config = config(1);
    config.options.pool_frames = (1 << 31) - 1;
    let error = within(Supervisor::start_on(Box::new(transport), config))
        .await
        .err();
    says(
        &error.expect("an error"),
        Stage::Device,
        &["pool_frames", "memory"],
    );
}

#[actix::test]
async fn a_ring_size_that_the_device_does_not_take() {
    let (end, _other) = Link::pair(LinkConfig::default());
    let (transport, _, _) =
        EmbeddedTransport::inline(EmbeddedConfig::default(), end).expect("a device");
    let mut config = config(1);
    config.options.queue_size = 300;
    let error = within(Supervisor::start_on(Box::new(transport), config))
        .await
        .err();
    says(
        &error.expect("an error"),
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
