//! Which frames of the driver go to the backend, and how the others are counted.

use super::super::header::NetHeader;
use super::super::offloads;
use super::super::stats::EmbeddedStats;
use super::gathered::Gathered;
use crate::features::FeatureBits;

/// Ethernet header, and one VLAN tag that the MTU does not count.
pub(super) const ETHERNET_HEADER: usize = 14;
pub(super) const VLAN_TAG: usize = 4;

/// What a driver may send now.
pub(super) struct Rules {
    pub(super) features: FeatureBits,
    /// The longest frame that asks for no segmentation.
    pub(super) longest: usize,
    pub(super) link_up: bool,
}

impl Rules {
    /// Counts a transmitted frame. Returns its length if it goes to the backend.
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
        let dropped = if !offloads::is_allowed(header, length, self.features) {
            &mut stats.violations
        } else if length < ETHERNET_HEADER {
            &mut stats.runts
        } else if header.gso_type == 0 && length > self.longest {
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
