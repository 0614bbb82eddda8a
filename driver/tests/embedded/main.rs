//! The embedded device against a driver that shares no code with the crate's.

mod hostile;
mod impairments;
mod notifications;
mod packets;
mod raw;
mod threads;
mod waiting;

use virtroupe_driver::embedded::{
    Backend, EmbeddedConfig, EmbeddedHandle, EmbeddedStepper, EmbeddedTransport, Link, LinkConfig,
    LinkMonitor,
};
use virtroupe_driver::features::FeatureBits;
use virtroupe_wire::Instant;

use raw::RawDriver;

/// A device that is stepped by the test, with a raw driver.
pub(crate) struct Station {
    pub(crate) transport: EmbeddedTransport,
    pub(crate) handle: EmbeddedHandle,
    pub(crate) stepper: EmbeddedStepper,
    pub(crate) driver: RawDriver,
}

impl Station {
    pub(crate) fn new(
        config: EmbeddedConfig,
        backend: impl Backend + 'static,
        without: FeatureBits,
        size: u16,
    ) -> Station {
        let pairs = config.queue_pairs;
        let (mut transport, handle, stepper) =
            EmbeddedTransport::inline(config, backend).expect("device");
        let driver = RawDriver::start(&mut transport, without, size, pairs);
        Station {
            transport,
            handle,
            stepper,
            driver,
        }
    }
}

/// Two stations on a link, the monitor at the first.
pub(crate) fn linked(
    config: LinkConfig,
    without: FeatureBits,
    size: u16,
) -> (Station, Station, LinkMonitor) {
    let (left, right) = Link::pair(config);
    let monitor = left.monitor();
    (
        Station::new(EmbeddedConfig::default(), left, without, size),
        Station::new(EmbeddedConfig::default(), right, without, size),
        monitor,
    )
}

/// Steps until nothing is left to do at `now`.
pub(crate) fn settle(stations: &[&Station], now: Instant) {
    while stations.iter().map(|s| s.stepper.step(now)).sum::<usize>() > 0 {}
}
