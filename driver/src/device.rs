//! The device: what is initialised once and shared by all cpus.
//!
//! [`Device::initialize`] runs the whole start-up of virtio 1.3, section 3.1, over a
//! [`Transport`], and gives out the queue pairs, one [`UnboundQueuePair`] for each cpu that shall
//! have one, and a pool for each cpu that has none. It blocks, within the transport's time
//! limits.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use virtroupe_wire::MacAddr;

use crate::features::FeatureBits;
use crate::memory::{DmaMemory, HugePages, MemoryError};
use crate::offload::TransmitOffloads;
use crate::pool::UnboundPool;
use crate::queue::{AnyReceiveQueue, AnyTransmitQueue};
use crate::queue_pair::UnboundQueuePair;
use crate::receive::{LONGEST_FRAME, ReceiveOffloads};
use crate::transport::{DeviceConfig, DeviceEvent, Transport, TransportError};

mod choice;
mod layout;

pub use choice::{Mergeable, ReceiveOffloadMode, RingFormat};

use choice::ReceivePlan;
use layout::{PairLayout, pool_bytes};

/// Ethernet header and one VLAN tag, on top of the MTU.
const ETHERNET_OVERHEAD: usize = 18;
/// The largest MTU. A large one takes a device that merges receive buffers, and a ring whose half
/// holds a frame.
pub const LARGEST_MTU: u16 = u16::MAX;
/// The largest MTU whose frames fit into one receive slot.
pub const LARGEST_SLOT_MTU: u16 = (LONGEST_FRAME - ETHERNET_OVERHEAD) as u16;

/// What to ask of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeviceOptions {
    /// Queue pairs to use, at most what the device has. 1 by default.
    pub queue_pairs: u16,
    /// Descriptors in each ring, 16 to 32768; 256 by default. A power of two in split rings, any
    /// number in packed ones (a multiple of 4 is faster). Longer rings bear longer bursts and
    /// pauses; shorter ones stay in the cache. Half of the receive ring holds at least one frame:
    /// an MTU of 9000 takes 16 descriptors, one of 65535 takes 62 (64 in split rings).
    pub queue_size: u16,
    /// Packet slots for each queue pair, and for each cpu that has none, 2240 bytes each; and for each
    /// 32 of them a [long slot](crate::pool::LONG_SLOT) of 35 840, for what streams write. At least
    /// twice `queue_size` plus 128. 2048 by default, which is 7 MB. What applications hold comes from
    /// here, and what TCP has sent until it is acknowledged; when it runs low, received packets are
    /// copied to the heap.
    pub pool_frames: u32,
    /// Whether packet memory lies in huge pages.
    pub huge_pages: HugePages,
    /// The Ethernet address, if it shall not be the device's own; needed where the device does
    /// not report one (vhost-user).
    pub mac: Option<MacAddr>,
    /// The largest IP packet in bytes, from 68 (RFC 791) to [`LARGEST_MTU`]; the device's own, or
    /// 1500, by default. Never more than the device's, and above [`LARGEST_SLOT_MTU`] (2094) only
    /// with mergeable buffers.
    pub mtu: Option<u16>,
    /// The memory format of the rings. [`RingFormat::Auto`] by default.
    pub ring_format: RingFormat,
    /// Whether a received frame may span several buffers. [`Mergeable::Auto`] by default.
    pub mergeable: Mergeable,
    /// Whether to use `VIRTIO_F_INDIRECT_DESC` where offered, for frames of more than 4 segments:
    /// each then takes one descriptor of the ring and one slot of the pool. On by default.
    pub indirect: bool,
    /// Whether to use `VIRTIO_F_EVENT_IDX` where offered: fewer notifications while one side
    /// sleeps. On by default.
    pub event_idx: bool,
    /// Whether to use `VIRTIO_F_IN_ORDER` where offered: sent frames come back in batches. On by
    /// default.
    pub in_order: bool,
    /// Whether the device shall complete checksums, segment long packets that are sent and make
    /// fragments of long datagrams, as far as it offers that. On by default; what it does not do is
    /// done in software. Turn it off where whoever is behind the device drops long packets.
    pub transmit_offloads: bool,
    /// Which receive offloads to use, as far as the device offers them.
    /// [`ReceiveOffloadMode::Auto`] by default.
    pub receive_offloads: ReceiveOffloadMode,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        DeviceOptions {
            queue_pairs: 1,
            queue_size: 256,
            pool_frames: 2048,
            huge_pages: HugePages::default(),
            mac: None,
            mtu: None,
            ring_format: RingFormat::default(),
            mergeable: Mergeable::default(),
            indirect: true,
            event_idx: true,
            in_order: true,
            transmit_offloads: true,
            receive_offloads: ReceiveOffloadMode::default(),
        }
    }
}

impl Features {
    /// The transmit offloads that the device carries out.
    pub fn transmit_offloads(&self) -> TransmitOffloads {
        TransmitOffloads::new(self.bits, self.queue_size)
    }

    /// What the device may say of received frames.
    pub fn receive_offloads(&self) -> ReceiveOffloads {
        ReceiveOffloads::new(self.bits)
    }
}

/// What was negotiated with a device: immutable, and cloned to everybody who needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// The feature bits that both sides use.
    pub bits: FeatureBits,
    /// The Ethernet address to use.
    pub mac: MacAddr,
    /// The largest IP packet in bytes.
    pub mtu: u16,
    /// Queue pairs in use.
    pub queue_pairs: u16,
    /// Descriptors in each ring.
    pub queue_size: u16,
    /// Whether the packet memory lies in huge pages.
    pub huge_pages: bool,
}

/// Why a device could not be initialised.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The transport failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// No memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The device lacks something that the driver needs.
    #[error(
        "{device} does not offer {feature}, which Virtroupe needs; use a device or backend that speaks virtio 1.0 or later"
    )]
    MissingFeature {
        /// The device.
        device: String,
        /// The feature's name in the standard.
        feature: &'static str,
    },
    /// The device has no Ethernet address and none was configured.
    #[error("{device} does not report an Ethernet address; set `mac` (--mac 02:00:00:00:00:01)")]
    NoMac {
        /// The device.
        device: String,
    },
    /// An option does not fit the device or the driver's limits.
    #[error("{option} is {value}, but must be {expected}")]
    Option {
        /// The name of the option.
        option: &'static str,
        /// Its value.
        value: u64,
        /// What it must be.
        expected: String,
    },
}

/// An initialised virtio-net device.
pub struct Device {
    transport: Box<dyn Transport>,
    features: Features,
    /// Mapped for the device until `reset`.
    _memory: Arc<DmaMemory>,
}

/// What [`Device::initialize_for`] makes.
pub struct DeviceParts {
    /// The device itself.
    pub device: Device,
    /// Its queue pairs, by index.
    pub pairs: Vec<UnboundQueuePair>,
    /// The further pools.
    pub pools: Vec<UnboundPool>,
}

impl Device {
    /// Initialises the device behind `transport` and starts it.
    ///
    /// # Errors
    /// Says which part failed, who is to blame, and what to do.
    pub fn initialize(
        transport: Box<dyn Transport>,
        options: &DeviceOptions,
    ) -> Result<(Device, Vec<UnboundQueuePair>), DeviceError> {
        let parts = Self::initialize_for(transport, options, 0)?;
        Ok((parts.device, parts.pairs))
    }

    /// As [`initialize`](Self::initialize), with `pools` further pools of
    /// [`pool_frames`](DeviceOptions::pool_frames) slots each, whose frames the device sees too:
    /// for cpus that send through the queue pair of another.
    ///
    /// # Errors
    /// As [`initialize`](Self::initialize).
    pub fn initialize_for(
        mut transport: Box<dyn Transport>,
        options: &DeviceOptions,
        pools: u16,
    ) -> Result<DeviceParts, DeviceError> {
        let offered = transport.offered_features()?;
        // Read before features are accepted (section 3.1.1, step 4): the MTU decides on some.
        let config = transport.config()?;
        let mode = options.receive_offloads;
        let mode = mode.for_device(transport.prefers_large_receive());
        let receive = ReceivePlan::new(offered, &config, options, mode);
        let bits = negotiate(&*transport, offered, options, receive)?;
        transport.accept_features(bits)?;
        let (memory, features) = plan(&mut *transport, &config, bits, receive, options, pools)?;
        // From here on: what to add to an address of ours, not to an offset.
        let iova_offset = transport
            .map_memory(&memory)?
            .wrapping_sub(memory.base().as_ptr() as u64);
        let mut pairs = Vec::new();
        for index in 0..features.queue_pairs {
            pairs.push(set_up_pair(
                &mut *transport,
                &memory,
                iova_offset,
                &features,
                options,
                index,
            )?);
        }
        let pools = further_pools(&memory, &features, options, pools)?;
        transport.enable(features.queue_pairs)?;
        tracing::info!(device = transport.name(), ?features, "device is ready");
        let device = Device {
            transport,
            features,
            _memory: memory,
        };
        Ok(DeviceParts {
            device,
            pairs,
            pools,
        })
    }

    /// The device as the user named it.
    pub fn name(&self) -> &str {
        self.transport.name()
    }

    /// What was negotiated.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// Reads the configuration space again.
    ///
    /// # Errors
    /// When the device does not answer.
    pub fn config(&mut self) -> Result<DeviceConfig, TransportError> {
        self.transport.config()
    }

    /// A file that becomes readable when [`take_event`](Self::take_event) has something.
    pub fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.transport.event_fd()
    }

    /// The next event of the device. Never blocks.
    pub fn take_event(&mut self) -> Option<DeviceEvent> {
        self.transport.take_event()
    }

    /// Stops the device: afterwards it touches no memory of ours.
    ///
    /// # Errors
    /// When the device does not answer; its memory must then be left mapped.
    pub fn reset(&mut self) -> Result<(), TransportError> {
        self.transport.reset()
    }
}

/// Chooses what to use of what the device offers.
fn negotiate(
    transport: &dyn Transport,
    offered: FeatureBits,
    options: &DeviceOptions,
    receive: ReceivePlan,
) -> Result<FeatureBits, DeviceError> {
    if !offered.contains(FeatureBits::VERSION_1) {
        return Err(DeviceError::MissingFeature {
            device: transport.name().into(),
            feature: "VIRTIO_F_VERSION_1",
        });
    }
    let mut wanted = FeatureBits::VERSION_1
        | FeatureBits::MAC
        | FeatureBits::STATUS
        | FeatureBits::ACCESS_PLATFORM
        | options.ring_format.wanted(offered, options.in_order)
        | receive.features;
    if options.event_idx {
        wanted |= FeatureBits::EVENT_IDX;
    }
    if options.in_order {
        wanted |= FeatureBits::IN_ORDER;
    }
    if options.transmit_offloads {
        wanted |= TransmitOffloads::of(offered);
    }
    if options.indirect {
        wanted |= FeatureBits::INDIRECT_DESC;
    }
    let starts_pairs = offered.contains(FeatureBits::CTRL_VQ) || transport.enables_pairs_itself();
    if options.queue_pairs > 1 && starts_pairs {
        wanted |= FeatureBits::MQ | FeatureBits::CTRL_VQ;
    }
    Ok(offered & wanted)
}

fn check(
    option: &'static str,
    value: u64,
    valid: bool,
    expected: impl Into<String>,
) -> Result<(), DeviceError> {
    if valid {
        Ok(())
    } else {
        Err(DeviceError::Option {
            option,
            value,
            expected: expected.into(),
        })
    }
}

/// Checks the options against the device and allocates the memory.
fn plan(
    transport: &mut dyn Transport,
    config: &DeviceConfig,
    bits: FeatureBits,
    receive: ReceivePlan,
    options: &DeviceOptions,
    pools: u16,
) -> Result<(Arc<DmaMemory>, Features), DeviceError> {
    let pairs = options.queue_pairs;
    // At most 0x8000 (section 5.1.4.1); a device may claim more.
    let available = match config.max_queue_pairs {
        Some(most) if bits.contains(FeatureBits::MQ) => most.clamp(1, 0x8000),
        _ => 1,
    };
    check(
        "queue_pairs",
        pairs.into(),
        (1..=available).contains(&pairs),
        format!("1 to {available}, what the device can start"),
    )?;
    let size = options.queue_size;
    let longest = transport.max_queue_size(0)?.min(1 << 15);
    let packed = bits.contains(FeatureBits::RING_PACKED);
    check(
        "queue_size",
        size.into(),
        (packed || size.is_power_of_two()) && (16..=longest).contains(&size),
        if packed {
            format!("from 16 to {longest}")
        } else {
            format!("a power of two from 16 to {longest}, as the rings are split")
        },
    )?;
    let least = 2 * u32::from(size) + 128;
    check(
        "pool_frames",
        options.pool_frames.into(),
        options.pool_frames >= least,
        format!("at least {least}"),
    )?;
    let (mtu, largest) = (receive.mtu, receive.largest_mtu);
    check(
        "mtu",
        mtu.into(),
        (68..=largest).contains(&mtu),
        format!(
            "68 to {largest}, by the device's MTU, a ring of {size} descriptors, and mergeable buffers if above {LARGEST_SLOT_MTU}"
        ),
    )?;
    let mac = options
        .mac
        .or(config.mac)
        .filter(|mac| mac.is_unicast())
        .ok_or_else(|| DeviceError::NoMac {
            device: transport.name().into(),
        })?;

    let pair = PairLayout::new(bits, size, options.pool_frames, 0).end;
    let bytes = usize::from(pairs) * pair + usize::from(pools) * pool_bytes(options.pool_frames);
    let memory = Arc::new(DmaMemory::allocate(bytes, options.huge_pages)?);
    let features = Features {
        bits,
        mac,
        mtu,
        queue_pairs: pairs,
        queue_size: size,
        huge_pages: memory.is_huge(),
    };
    Ok((memory, features))
}

/// Lays out one queue pair in the memory and tells the device.
fn set_up_pair(
    transport: &mut dyn Transport,
    memory: &Arc<DmaMemory>,
    iova_offset: u64,
    features: &Features,
    options: &DeviceOptions,
    index: u16,
) -> Result<UnboundQueuePair, DeviceError> {
    let (bits, size, frames) = (features.bits, features.queue_size, options.pool_frames);
    let base = usize::from(index) * PairLayout::new(bits, size, frames, 0).end;
    let layout = PairLayout::new(bits, size, frames, base);
    // `plan` sized the memory for exactly this layout and checked the ring size.
    let outside = || outside(options);
    let receive = AnyReceiveQueue::new(memory.clone(), &layout.receive, iova_offset, bits);
    let transmit = AnyTransmitQueue::new(memory.clone(), &layout.transmit, iova_offset, bits);
    let pool = UnboundPool::new(memory.clone(), layout.slots, frames);
    Ok(UnboundQueuePair {
        index,
        receive: receive.ok_or_else(outside)?,
        transmit: transmit.ok_or_else(outside)?,
        pool: pool.ok_or_else(outside)?,
        receive_notifiers: transport.set_up_queue(2 * index, &layout.receive)?,
        transmit_notifiers: transport.set_up_queue(2 * index + 1, &layout.transmit)?,
    })
}

/// Makes the further pools, which lie behind the queue pairs.
fn further_pools(
    memory: &Arc<DmaMemory>,
    features: &Features,
    options: &DeviceOptions,
    pools: u16,
) -> Result<Vec<UnboundPool>, DeviceError> {
    let (bits, size) = (features.bits, features.queue_size);
    let pair = PairLayout::new(bits, size, options.pool_frames, 0).end;
    let base = usize::from(features.queue_pairs) * pair;
    let pool = |index: u16| {
        let at = base + usize::from(index) * pool_bytes(options.pool_frames);
        UnboundPool::new(memory.clone(), at, options.pool_frames).ok_or_else(|| outside(options))
    };
    (0..pools).map(pool).collect()
}

/// The slots do not fit into the memory.
fn outside(options: &DeviceOptions) -> DeviceError {
    DeviceError::Option {
        option: "pool_frames",
        value: options.pool_frames.into(),
        expected: "small enough for the memory".into(),
    }
}
