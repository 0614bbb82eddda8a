//! From a device's URL to its transport.

use virtroupe_driver::Transport;
use virtroupe_driver::transport::TransportError;
use virtroupe_driver::vhost_user::{VhostUser, VhostUserConfig};

use crate::config::{Config, DeviceUrl};

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
        DeviceUrl::Tap(name) => Err(TransportError::Device {
            device: name.clone(),
            problem: String::new(),
        }),
        DeviceUrl::Own(name) => Err(TransportError::Device {
            device: name.clone(),
            problem: "the program must hand over this transport with Supervisor::start_on".into(),
        }),
    }
}
