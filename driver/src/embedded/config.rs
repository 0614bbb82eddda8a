//! What the embedded device is.

use std::time::Duration;

use virtroupe_wire::MacAddr;

use crate::features::FeatureBits;
use crate::offload::TransmitOffloads;
use crate::receive::ReceiveOffloads;

/// Properties of an embedded device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedConfig {
    /// The features that the device offers, out of [`EmbeddedConfig::SUPPORTED`], which is the
    /// default. Any may be left out, to see how a driver does without.
    pub features: FeatureBits,
    /// The Ethernet address that it gives its driver. Default 02:00:00:00:00:01.
    pub mac: MacAddr,
    /// The largest IP packet, in bytes: 68 to 65535, default 1500. Longer frames of the driver
    /// are dropped and counted.
    pub mtu: u16,
    /// Number of queue pairs: 1 (default) to 128. More than one needs the feature MQ. There is no
    /// control queue: as with vhost-user, the transport says how many pairs run.
    pub queue_pairs: u16,
    /// The largest ring: a power of two, 2 to 32768, default 1024.
    pub max_queue_size: u16,
    /// With IN_ORDER, whether the device reports each burst that it has sent by one used element
    /// for all (section 2.7.9), as devices may. Default true; false reports every buffer.
    pub in_order_bursts: bool,
}

impl EmbeddedConfig {
    /// Every feature that the device can offer.
    pub const SUPPORTED: FeatureBits = FeatureBits(
        FeatureBits::VERSION_1.0
            | FeatureBits::MAC.0
            | FeatureBits::STATUS.0
            | FeatureBits::MTU.0
            | FeatureBits::MQ.0
            | FeatureBits::MRG_RXBUF.0
            | FeatureBits::EVENT_IDX.0
            | FeatureBits::INDIRECT_DESC.0
            | FeatureBits::RING_PACKED.0
            | FeatureBits::IN_ORDER.0
            | TransmitOffloads::ALL.0
            | ReceiveOffloads::ALL.0,
    );
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        EmbeddedConfig {
            features: Self::SUPPORTED,
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            queue_pairs: 1,
            max_queue_size: 1024,
            in_order_bursts: true,
        }
    }
}

/// How the thread of an embedded device runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceThread {
    /// The cpu that the thread is pinned to; any by default.
    pub cpu: Option<usize>,
    /// How long the thread looks for work before it sleeps, default 20 microseconds. Longer
    /// saves wake-ups of a busy device and costs cpu time of an idle one.
    pub spin: Duration,
}

impl Default for DeviceThread {
    fn default() -> Self {
        DeviceThread {
            cpu: None,
            spin: Duration::from_micros(20),
        }
    }
}
