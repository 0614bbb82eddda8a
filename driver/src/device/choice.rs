//! What to choose where a device offers a choice.

use serde::{Deserialize, Serialize};

use super::{DeviceOptions, ETHERNET_OVERHEAD, LARGEST_MTU, LARGEST_SLOT_MTU};
use crate::features::FeatureBits;
use crate::receive::{LONGEST_MERGED, ReceiveOffloads, longest_merged_frame};
use crate::transport::DeviceConfig;

/// The memory format of the rings (`VIRTIO_F_RING_PACKED`).
///
/// A packed ring moves fewer cache lines between driver and device for each packet, but the
/// device must have been made for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RingFormat {
    /// Packed where the device offers it together with `VIRTIO_F_IN_ORDER`, as devices do that
    /// were made for speed; else split.
    #[default]
    Auto,
    /// Packed where the device offers it, else split.
    Packed,
    /// Split, which every device has.
    Split,
}

/// Whether a received frame may span several buffers (`VIRTIO_NET_F_MRG_RXBUF`).
///
/// It is what frames need that exceed a slot: MTUs above 2094, and large receive. It costs a few per
/// cent of the packet rate, because the device then writes into every header, and we read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mergeable {
    /// Where frames of the MTU exceed a slot, or [`ReceiveOffloadMode::All`] asks for large
    /// receive, and the device offers it.
    #[default]
    Auto,
    /// Wherever the device offers it.
    Always,
    /// Never; the MTU is at most 2094 then.
    Never,
}

/// Which receive offloads to ask for: what the device may leave undone, or has done, on packets
/// that it gives us (virtio 1.3, section 5.1.6.4).
///
/// All are told in the virtio-net header, which the device then writes for each packet, and we
/// read. Where packets are small, that line of memory costs more than what it saves. Large
/// receive saves most where peers send streams or trains: one frame of up to 64 KiB takes the
/// place of 45. It needs merged buffers ([`Mergeable`]) and at least 62 descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceiveOffloadMode {
    /// All where buffers are merged anyway, so that the header is written and read in any case, and
    /// where each frame costs the device more than that (TAP: a system call); none elsewhere.
    #[default]
    Auto,
    /// All that the device offers, with merged buffers for them.
    All,
    /// Checksums alone: those that the device has verified are not verified again, and those
    /// that it has not computed, since the packet never was on a wire, do not matter.
    Checksum,
    /// None.
    Never,
}

impl ReceiveOffloadMode {
    /// What it means for a device that `prefers_large` frames, or does not.
    pub(super) fn for_device(self, prefers_large: bool) -> Self {
        match self {
            ReceiveOffloadMode::Auto if prefers_large => ReceiveOffloadMode::All,
            mode => mode,
        }
    }

    /// The features to ask for, given whether buffers are merged, and whether a ring whose
    /// buffers are takes the longest frames.
    fn wanted(self, offered: FeatureBits, merge: bool, is_roomy: bool) -> FeatureBits {
        let most = match self {
            ReceiveOffloadMode::All => ReceiveOffloads::ALL,
            ReceiveOffloadMode::Auto if merge => ReceiveOffloads::ALL,
            ReceiveOffloadMode::Checksum => FeatureBits::GUEST_CSUM,
            ReceiveOffloadMode::Auto | ReceiveOffloadMode::Never => FeatureBits::NONE,
        };
        let possible = match merge && is_roomy {
            true => most,
            false => most & FeatureBits::GUEST_CSUM,
        };
        ReceiveOffloads::of(offered & possible)
    }
}

impl RingFormat {
    /// The features to ask for, out of what the device offers.
    pub(super) fn wanted(self, offered: FeatureBits, in_order: bool) -> FeatureBits {
        let packed = match self {
            RingFormat::Auto => in_order && offered.contains(FeatureBits::IN_ORDER),
            RingFormat::Packed => true,
            RingFormat::Split => false,
        };
        if packed {
            FeatureBits::RING_PACKED
        } else {
            FeatureBits::NONE
        }
    }
}

/// How frames of the MTU are received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReceivePlan {
    /// The MTU to use, if it is within `largest_mtu`.
    pub(super) mtu: u16,
    /// The largest that device and ring allow.
    pub(super) largest_mtu: u16,
    /// The features that go with it.
    pub(super) features: FeatureBits,
}

impl ReceivePlan {
    pub(super) fn new(
        offered: FeatureBits,
        config: &DeviceConfig,
        options: &DeviceOptions,
        mode: ReceiveOffloadMode,
    ) -> ReceivePlan {
        let may_merge =
            options.mergeable != Mergeable::Never && offered.contains(FeatureBits::MRG_RXBUF);
        let longest = longest_merged_frame(options.queue_size).saturating_sub(ETHERNET_OVERHEAD);
        let ours = if may_merge {
            let mtu = u16::try_from(longest).unwrap_or(LARGEST_MTU);
            mtu.max(LARGEST_SLOT_MTU)
        } else {
            LARGEST_SLOT_MTU
        };
        let largest_mtu = config.mtu.unwrap_or(LARGEST_MTU).min(ours);
        let mtu = options
            .mtu
            .unwrap_or_else(|| config.mtu.unwrap_or(1500).min(ours));
        // Half of a ring is always posted (section 5.1.6.3.1 asks for the longest frame in all).
        let is_roomy = longest_merged_frame(options.queue_size) == LONGEST_MERGED as usize;
        let is_asked_for = mode == ReceiveOffloadMode::All
            && ReceiveOffloads::new(mode.wanted(offered, may_merge, is_roomy)).is_large();
        let merge = may_merge
            && (mtu > LARGEST_SLOT_MTU || options.mergeable == Mergeable::Always || is_asked_for);
        let mut features = mode.wanted(offered, merge, is_roomy);
        if merge {
            features |= FeatureBits::MRG_RXBUF;
        }
        // Whoever accepts the device's MTU must receive frames as long (section 5.1.4.2).
        let received = if merge { ours } else { LARGEST_SLOT_MTU };
        if config.mtu.is_none_or(|mtu| mtu <= received) {
            features |= FeatureBits::MTU;
        }
        ReceivePlan {
            mtu,
            largest_mtu,
            features,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(device: Option<u16>, options: &DeviceOptions) -> (u16, u16, bool, bool) {
        let config = DeviceConfig {
            mtu: device,
            ..DeviceConfig::default()
        };
        let offered = FeatureBits::MRG_RXBUF | FeatureBits::MTU;
        let plan = ReceivePlan::new(offered, &config, options, options.receive_offloads);
        let has = |feature| plan.features.contains(feature);
        (
            plan.mtu,
            plan.largest_mtu,
            has(FeatureBits::MRG_RXBUF),
            has(FeatureBits::MTU),
        )
    }

    #[test]
    fn buffers_are_merged_where_the_mtu_needs_it() {
        let options = DeviceOptions::default();
        assert_eq!(plan(None, &options), (1500, 65_535, false, true));
        assert_eq!(plan(Some(1500), &options), (1500, 1500, false, true));
        assert_eq!(plan(Some(9000), &options), (9000, 9000, true, true));
        let small = DeviceOptions {
            mtu: Some(1500),
            ..DeviceOptions::default()
        };
        // The device may send 9000 bytes, if we accept its MTU.
        assert_eq!(plan(Some(9000), &small), (1500, 9000, false, false));
    }

    /// The receive offloads, and whether buffers are merged for them.
    fn offloads(
        offered: FeatureBits,
        change: impl FnOnce(&mut DeviceOptions),
    ) -> (FeatureBits, bool) {
        let mut options = DeviceOptions::default();
        change(&mut options);
        let config = DeviceConfig {
            mtu: Some(9000),
            ..DeviceConfig::default()
        };
        options.mtu.get_or_insert(1500);
        let plan = ReceivePlan::new(offered, &config, &options, options.receive_offloads);
        let merge = plan.features.contains(FeatureBits::MRG_RXBUF);
        (plan.features & ReceiveOffloads::ALL, merge)
    }

    #[test]
    fn receive_offloads_are_asked_for_as_the_mode_says() {
        use ReceiveOffloadMode::{All, Checksum, Never};
        let (all, none) = (ReceiveOffloads::ALL, FeatureBits::NONE);
        let checksum = FeatureBits::GUEST_CSUM;
        let offered = all | FeatureBits::MRG_RXBUF;
        let mode = |mode| move |options: &mut DeviceOptions| options.receive_offloads = mode;
        assert_eq!(offloads(offered, |_| ()), (none, false));
        assert_eq!(offloads(offered, mode(All)), (all, true));
        assert_eq!(offloads(offered, mode(Checksum)), (checksum, false));
        // Where buffers are merged for the MTU, the header costs nothing more.
        assert_eq!(offloads(offered, |o| o.mtu = Some(9000)), (all, true));
        let jumbo_without = |options: &mut DeviceOptions| {
            options.mtu = Some(9000);
            options.receive_offloads = Never;
        };
        assert_eq!(offloads(offered, jumbo_without), (none, true));
    }

    #[test]
    fn long_frames_are_asked_for_only_where_there_is_room_for_them() {
        let offered = ReceiveOffloads::ALL | FeatureBits::MRG_RXBUF;
        let checksum = FeatureBits::GUEST_CSUM;
        let ring = |queue_size, mergeable| {
            move |options: &mut DeviceOptions| {
                options.receive_offloads = ReceiveOffloadMode::All;
                options.queue_size = queue_size;
                options.mergeable = mergeable;
            }
        };
        let auto = ReceiveOffloadMode::Auto;
        assert_eq!(auto.for_device(true), ReceiveOffloadMode::All);
        let never = ReceiveOffloadMode::Never;
        assert_eq!(never.for_device(true), never);
        let roomy = offloads(offered, ring(62, Mergeable::Auto));
        assert_eq!(roomy, (ReceiveOffloads::ALL, true));
        let short = offloads(offered, ring(61, Mergeable::Auto));
        assert_eq!(short, (checksum, false));
        let single = offloads(offered, ring(256, Mergeable::Never));
        assert_eq!(single, (checksum, false));
        let without_merging = offered - FeatureBits::MRG_RXBUF;
        let single = offloads(without_merging, ring(256, Mergeable::Auto));
        assert_eq!(single, (checksum, false));
    }

    #[test]
    fn a_ring_bounds_the_mtu_by_the_half_of_it_that_is_always_posted() {
        let options = DeviceOptions {
            queue_size: 16,
            ..DeviceOptions::default()
        };
        let longest = 8 * 2124 - 12 - 18;
        assert_eq!(
            plan(Some(65_535), &options),
            (longest, longest, true, false)
        );
        let tiny = DeviceOptions {
            mergeable: Mergeable::Never,
            ..options
        };
        assert_eq!(plan(Some(9000), &tiny), (2094, 2094, false, false));
    }
}
