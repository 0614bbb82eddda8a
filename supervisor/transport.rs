//! From a device's URL to its transport.

use virtroupe_driver::Transport;
use virtroupe_driver::embedded::{DeviceThread, EmbeddedConfig, EmbeddedTransport, Tap, TapConfig};
use virtroupe_driver::transport::TransportError;
use virtroupe_driver::vhost_user::{VhostUser, VhostUserConfig};
use virtroupe_wire::MacAddr;

use crate::config::{Config, DeviceUrl};
use crate::start_up::unguessable;

/// Makes the transport that the configuration names.
pub(crate) fn open(config: &Config) -> Result<Box<dyn Transport>, TransportError> {
    match &config.device {
        DeviceUrl::VhostUser(path) => {
            let mut vhost = VhostUserConfig::new(path);
            vhost.mac = config.options.mac;
            vhost.mtu = config.options.mtu;
            vhost.queue_pairs = config.options.queue_pairs;
            Ok(Box::new(VhostUser::new(vhost)))
        }
        DeviceUrl::Tap(name) => {
            let tap = TapConfig {
                name: name.clone(),
                up: true,
                ..TapConfig::default()
            };
            Ok(Box::new(tap_transport(tap, config)?))
        }
        DeviceUrl::Own(name) => Err(TransportError::Device {
            device: name.clone(),
            problem: "the program must hand over this transport with Supervisor::start_on".into(),
        }),
    }
}

/// The embedded device in front of a TAP interface, with the properties that `config` asks for.
///
/// For programs that set up the interface themselves, as `echo_server --sandbox` does; the URL
/// `tap:NAME` is this with an interface that is only brought up.
///
/// # Errors
/// When the interface can not be opened or set up, or the system gives no thread.
pub fn tap_transport(
    mut tap: TapConfig,
    config: &Config,
) -> Result<EmbeddedTransport, TransportError> {
    let mut device = EmbeddedConfig {
        mac: config.options.mac.unwrap_or_else(random_mac),
        queue_pairs: config.options.queue_pairs,
        ..EmbeddedConfig::default()
    };
    if let Some(mtu) = config.options.mtu {
        device.mtu = mtu;
    }
    tap.mtu = tap.mtu.or(config.options.mtu);
    tap.multi_queue |= config.options.queue_pairs > 1;
    let (transport, _) =
        EmbeddedTransport::threaded(device, Tap::new(tap), DeviceThread::default())?;
    Ok(transport)
}

/// A locally administered unicast address, as the kernel draws one for a new interface.
fn random_mac() -> MacAddr {
    let [a, b, c, d, e, ..] = unguessable().to_ne_bytes();
    MacAddr([0x02, a, b, c, d, e])
}
