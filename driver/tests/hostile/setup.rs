//! What a [`Harness`](super::harness::Harness) negotiates.

use virtroupe_driver::features::FeatureBits;
use virtroupe_driver::memory::HugePages;
use virtroupe_driver::{DeviceOptions, Mergeable, ReceiveOffloadMode, RingFormat};
use virtroupe_wire::MacAddr;

use super::net_header;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    pub packed: bool,
    pub event_idx: bool,
    pub in_order: bool,
    pub mergeable: bool,
    pub indirect: bool,
    /// Whether headers say something of received frames.
    pub described: bool,
    pub queue_size: u16,
}

impl Setup {
    pub const PLAIN: Setup = Setup {
        packed: false,
        event_idx: false,
        in_order: false,
        mergeable: false,
        indirect: false,
        described: false,
        queue_size: 16,
    };
    pub const IN_ORDER: Setup = Setup {
        event_idx: true,
        in_order: true,
        ..Self::PLAIN
    };
    pub const ALL: Setup = Setup {
        mergeable: true,
        indirect: true,
        described: true,
        queue_size: 32,
        ..Self::IN_ORDER
    };
    pub const PACKED: Setup = Setup {
        packed: true,
        ..Self::PLAIN
    };
    pub const PACKED_ALL: Setup = Setup {
        packed: true,
        queue_size: 21,
        ..Self::ALL
    };

    /// Both formats, with all features and with none.
    pub const EITHER: [Setup; 5] = [
        Self::PLAIN,
        Self::IN_ORDER,
        Self::ALL,
        Self::PACKED,
        Self::PACKED_ALL,
    ];

    pub fn from_bits(bits: u8) -> Self {
        let packed = bits & 128 != 0;
        let sizes = match packed {
            true => [16, 21, 32, 70],
            false => [16, 32, 64, 128],
        };
        Setup {
            packed,
            event_idx: bits & 1 != 0,
            in_order: bits & 2 != 0,
            mergeable: bits & 4 != 0,
            indirect: bits & 8 != 0,
            described: bits & 64 != 0,
            queue_size: sizes[usize::from(bits >> 4 & 3)],
        }
    }

    pub fn features(self) -> FeatureBits {
        let optional = [
            (self.packed, FeatureBits::RING_PACKED),
            (self.event_idx, FeatureBits::EVENT_IDX),
            (self.in_order, FeatureBits::IN_ORDER),
            (self.mergeable, FeatureBits::MRG_RXBUF),
            (self.indirect, FeatureBits::INDIRECT_DESC),
        ];
        let wanted = optional.iter().filter(|(wanted, _)| *wanted);
        wanted.fold(FeatureBits::VERSION_1 | self.offloads(), |all, (_, one)| {
            all | *one
        })
    }

    /// The receive offloads: checksums alone where a frame of all kinds would not fit.
    fn offloads(self) -> FeatureBits {
        match (self.described, self.mergeable && self.queue_size >= 62) {
            (false, _) => FeatureBits::NONE,
            (true, false) => FeatureBits::GUEST_CSUM,
            (true, true) => net_header::ALL,
        }
    }

    pub fn options(self) -> DeviceOptions {
        DeviceOptions {
            queue_size: self.queue_size,
            pool_frames: 2 * u32::from(self.queue_size) + 128,
            huge_pages: HugePages::Never,
            mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
            ring_format: RingFormat::Packed,
            mergeable: Mergeable::Always,
            receive_offloads: ReceiveOffloadMode::All,
            ..DeviceOptions::default()
        }
    }

    /// Buffers that are posted in an unused ring: packed ones by whole cache lines of descriptors.
    pub fn posted(self) -> usize {
        match self.packed {
            true => usize::from(self.queue_size) / 4 * 4,
            false => usize::from(self.queue_size),
        }
    }
}
