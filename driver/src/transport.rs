//! What a virtio transport does for the driver.
//!
//! A [`Transport`] carries the control path only: features, configuration, memory, the
//! addresses of the rings, and the two notifications of each queue. Packets never pass through
//! it. The order of calls is that of virtio 1.3, section 3.1.1:
//!
//! ```text
//! offered_features -> config -> accept_features -> map_memory
//!     -> set_up_queue for each queue -> enable -> (run) -> reset
//! ```
//!
//! Every call may block, but none without a time limit, which each transport
//! takes at its construction. The device actor calls from a blocking thread, never from an arbiter.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use virtroupe_wire::MacAddr;

use crate::features::FeatureBits;
use crate::memory::DmaMemory;

/// The control path to one virtio-net device.
pub trait Transport: Send {
    /// The device as the user named it, for messages: `vhost-user:/tmp/x.sock`.
    fn name(&self) -> &str;

    /// Connects, if need be, and reads what the device offers.
    fn offered_features(&mut self) -> Result<FeatureBits, TransportError>;

    /// Tells the device which of its features the driver uses (sets `FEATURES_OK`). May refuse.
    fn accept_features(&mut self, accepted: FeatureBits) -> Result<(), TransportError>;

    /// Whether [`enable`](Transport::enable) starts queue pairs by means of the transport's own.
    /// If so, `VIRTIO_NET_F_MQ` is used without a control queue, too: the standard makes it depend
    /// on `VIRTIO_NET_F_CTRL_VQ` (section 5.1.3.1), whose command starts pairs (5.1.6.5.5).
    /// False by default.
    fn enables_pairs_itself(&self) -> bool {
        false
    }

    /// Whether each received frame costs the device so much, such as a system call, that fewer and
    /// longer ones are worth a virtio-net header that is written and read for each:
    /// [`ReceiveOffloadMode::Auto`](crate::ReceiveOffloadMode) then asks for large receive. False by
    /// default.
    fn prefers_large_receive(&self) -> bool {
        false
    }

    /// Reads the configuration space (section 5.1.4). A field is `None` if the device has none.
    fn config(&mut self) -> Result<DeviceConfig, TransportError>;

    /// The largest ring that the device takes for `queue`.
    fn max_queue_size(&mut self, queue: u16) -> Result<u16, TransportError>;

    /// Makes `memory` visible to the device, all of it, for as long as the device runs. Returns
    /// what to add to an offset into `memory` to get the address that descriptors carry.
    fn map_memory(&mut self, memory: &Arc<DmaMemory>) -> Result<u64, TransportError>;

    /// Tells the device where ring `queue` lies. Receive is `2n`, transmit `2n + 1`.
    fn set_up_queue(
        &mut self,
        queue: u16,
        ring: &RingLayout,
    ) -> Result<QueueNotifiers, TransportError>;

    /// Starts the first `pairs` queue pairs (sets `DRIVER_OK`).
    fn enable(&mut self, pairs: u16) -> Result<(), TransportError>;

    /// Stops the device. When this returns `Ok`, it touches no memory of ours any more. After
    /// it the transport can be set up again from `offered_features`.
    fn reset(&mut self) -> Result<(), TransportError>;

    /// A file that becomes readable when [`take_event`](Transport::take_event) has something.
    fn event_fd(&self) -> Option<BorrowedFd<'_>>;

    /// The next change that the device reports; `None` when there is no more. Never blocks.
    fn take_event(&mut self) -> Option<DeviceEvent>;
}

/// Where one split or packed ring lies, as offsets into the mapped [`DmaMemory`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingLayout {
    /// Number of descriptors, a power of two for split rings.
    pub size: u16,
    /// Offset of the descriptor table (split) or descriptor ring (packed).
    pub descriptors: usize,
    /// Offset of the available ring (split) or driver event suppression area (packed).
    pub driver: usize,
    /// Offset of the used ring (split) or device event suppression area (packed).
    pub device: usize,
}

/// The two notifications of one queue.
#[derive(Debug)]
pub struct QueueNotifiers {
    /// Driver to device: 'available buffer'.
    pub doorbell: Doorbell,
    /// Device to driver: 'used buffer'. An eventfd; readable when it was signalled.
    pub interrupt: OwnedFd,
}

/// How the driver notifies the device.
#[derive(Debug)]
pub enum Doorbell {
    /// By adding one to an eventfd.
    EventFd(OwnedFd),
}

impl Doorbell {
    /// Notifies the device. An eventfd whose counter is at its limit is signalled anyway.
    pub fn ring(&self) {
        match self {
            Doorbell::EventFd(fd) => {
                // The only failure of a non-blocking eventfd is a full counter: still signalled.
                let _ = nix::unistd::write(fd.as_fd(), &1u64.to_ne_bytes());
            }
        }
    }
}

/// What the configuration space says (virtio 1.3, section 5.1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceConfig {
    /// The device's Ethernet address (`VIRTIO_NET_F_MAC`).
    pub mac: Option<MacAddr>,
    /// Whether the link is up (`VIRTIO_NET_F_STATUS`).
    pub link_up: Option<bool>,
    /// Number of queue pairs (`VIRTIO_NET_F_MQ`).
    pub max_queue_pairs: Option<u16>,
    /// Largest IP packet in bytes (`VIRTIO_NET_F_MTU`).
    pub mtu: Option<u16>,
}

/// What a device reports while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceEvent {
    /// The configuration space changed; read it again.
    ConfigChanged,
    /// The device is gone: socket closed, process killed, card unplugged. Says how it was seen.
    Lost(String),
    /// The device wants a reset (`DEVICE_NEEDS_RESET`).
    NeedsReset,
}

/// Why a transport failed. Each message names who is to blame and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The operating system refused something.
    #[error("{context}: {source}{}", hint(.advice))]
    System {
        /// What was tried: `cannot open /dev/net/tun`.
        context: String,
        /// What the system said.
        source: std::io::Error,
        /// What the user can do, or empty.
        advice: String,
    },
    /// The device did not answer in time.
    #[error(
        "{device} did not answer {request} within {milliseconds} ms; is the backend running and not stopped?"
    )]
    TimedOut {
        /// The device.
        device: String,
        /// The request that got no answer.
        request: &'static str,
        /// The limit.
        milliseconds: u64,
    },
    /// The device closed the connection or is gone.
    #[error("{device} closed the connection during {request}; its log may say why")]
    Closed {
        /// The device.
        device: String,
        /// The request that was under way.
        request: &'static str,
    },
    /// The device broke the rules of its standard, or lacks what we need.
    #[error("{device}: {problem}")]
    Device {
        /// The device.
        device: String,
        /// What is wrong and what to do.
        problem: String,
    },
}

fn hint(advice: &str) -> String {
    if advice.is_empty() {
        String::new()
    } else {
        format!("; {advice}")
    }
}
