//! The configuration of packet functions, which need a device but no address.

use virtroupe::{Config, DeviceUrl, MacAddr};

use crate::device::{DeviceArgs, NO_DEVICE};
use crate::exit::Outcome;

/// An address for the host that nobody talks to: from a network for documentation (RFC 5737).
const UNUSED: &str = "192.0.2.1/24";

/// The configuration that the options describe.
///
/// # Errors
/// When it is not valid, or no device is named.
pub fn config(device: &DeviceArgs) -> Outcome<Config> {
    let mut config = device.to_config()?.ok_or(NO_DEVICE)?;
    if config.host.addresses.is_empty() && config.host.owned.is_empty() {
        config = config.address(UNUSED.parse()?);
    }
    if matches!(config.device, DeviceUrl::VhostUser(_)) {
        // A backend does not say its Ethernet address.
        config.options.mac = config.options.mac.or(Some(MacAddr([2, 0, 0, 0, 0, 1])));
    }
    Ok(config)
}
