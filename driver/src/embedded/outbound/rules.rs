//! Which frames of the driver go to the backend, and how the others are counted.

use super::super::header::NetHeader;
use super::super::offloads;
use super::super::stats::EmbeddedStats;
use super::gathered::Gathered;
use crate::features::FeatureBits;

/// Ethernet header, and one VLAN tag that the MTU does not count.
const ETHERNET_HEADER: usize = 14;
const VLAN_TAG: usize = 4;

/// What a driver may send now.
pub(in super::super) struct Rules {
    features: FeatureBits,
    /// The longest frame that asks for no segmentation.
    longest_plain: usize,
    /// The longest of all.
    longest: usize,
    link_up: bool,
}

impl Rules {
    pub(in super::super) fn new(features: FeatureBits, mtu: u16, link_up: bool) -> Self {
        let longest_plain = usize::from(mtu) + ETHERNET_HEADER + VLAN_TAG;
        Rules {
            features,
            longest_plain,
            longest: offloads::longest_frame(features, longest_plain),
            link_up,
        }
    }

    /// The longest frame that is worth looking at.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// Counts a transmitted frame. Returns its length if it goes to the backend.
    #[inline(always)]
    pub(super) fn judge(
        &self,
        gathered: Gathered,
        header: &NetHeader,
        stats: &mut EmbeddedStats,
    ) -> Option<usize> {
        let length = match gathered {
            Gathered::Frame(length) => length,
            Gathered::TooLong(length) => {
                stats.from_driver.add(length);
                stats.oversized.add(length);
                return None;
            }
        };
        stats.from_driver.add(length);
        let is_allowed =
            header.is_plain_transmit() || offloads::is_allowed(header, length, self.features);
        let dropped = if !is_allowed {
            &mut stats.violations
        } else if length < ETHERNET_HEADER {
            &mut stats.runts
        } else if header.gso_type == 0 && length > self.longest_plain {
            &mut stats.oversized
        } else if !self.link_up {
            &mut stats.link_down_from_driver
        } else {
            return Some(length);
        };
        dropped.add(length);
        None
    }
}
