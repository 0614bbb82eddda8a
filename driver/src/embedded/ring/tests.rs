//! The split ring alone: what it writes where, and what it asks for.

use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::driver_side::{BUFFERS, DEVICE, DRIVER, DriverSide};
use super::split::passed;
use super::{Chain, Ring, RingFault, UsedReports};
use crate::features::FeatureBits;

const SIZE: u16 = 8;

/// A ring, and its driver.
struct Rig {
    ring: Ring,
    driver: DriverSide,
}

impl Rig {
    fn new(features: FeatureBits, reports: UsedReports) -> Rig {
        let driver = DriverSide::new(false, SIZE);
        let ring = Ring::new(driver.memory.clone(), &driver.layout, features, reports);
        Rig {
            ring: ring.expect("ring"),
            driver,
        }
    }

    /// Makes `count` more buffers available; buffer n is descriptor n modulo the size.
    fn offer(&mut self, count: u16) {
        (0..count).for_each(|_| self.driver.write(BUFFERS, 16, 0, 0));
    }

    /// Takes and completes what is available, at most `limit`.
    fn serve(&mut self, limit: u16) -> u16 {
        let mut chain = Chain::default();
        let mut served = 0;
        while served < limit && self.ring.take(&mut chain).expect("a sane ring") {
            self.ring.complete(&chain, u32::from(chain.id) + 100);
            served += 1;
        }
        served
    }

    fn used_index(&self) -> u16 {
        self.driver.area.load_u16(DEVICE + 2, Ordering::Acquire)
    }

    fn used_element(&self, slot: u16) -> (u16, u16) {
        let at = DEVICE + 4 + usize::from(slot) * 8;
        (
            self.driver.area.load_u16(at, Ordering::Relaxed),
            self.driver.area.load_u16(at + 4, Ordering::Relaxed),
        )
    }
}

#[test]
fn a_burst_in_order_is_one_used_element_where_its_first_would_be() {
    let mut rig = Rig::new(FeatureBits::IN_ORDER, UsedReports::Burst);
    rig.offer(5);
    assert_eq!(rig.serve(3), 3);
    assert_eq!(rig.used_index(), 0, "nothing shows before it is published");
    assert!(rig.ring.publish());
    assert_eq!(rig.used_index(), 3);
    assert_eq!(rig.used_element(0).0, 2);
    rig.serve(2);
    assert!(rig.ring.publish());
    assert_eq!(rig.used_element(3).0, 4);
    assert!(!rig.ring.publish(), "nothing new, no notification");
}

#[test]
fn without_in_order_every_buffer_has_its_used_element() {
    let mut rig = Rig::new(FeatureBits::NONE, UsedReports::Burst);
    rig.offer(3);
    rig.serve(3);
    assert!(rig.ring.publish());
    for id in 0..3 {
        assert_eq!(rig.used_element(id), (id, id + 100));
    }
}

#[test]
fn what_is_given_back_comes_again() {
    let mut rig = Rig::new(FeatureBits::IN_ORDER, UsedReports::Each);
    rig.offer(2);
    let mut chains = [Chain::default(), Chain::default()];
    for chain in &mut chains {
        assert_eq!(rig.ring.take(chain), Ok(true));
    }
    assert_eq!(rig.ring.take(&mut Chain::default()), Ok(false));
    for chain in chains.iter().rev() {
        rig.ring.give_back(chain);
    }
    assert_eq!(rig.serve(9), 2);
}

#[test]
fn enabling_notifications_tells_of_what_came_meanwhile() {
    for features in [FeatureBits::NONE, FeatureBits::EVENT_IDX] {
        let mut rig = Rig::new(features, UsedReports::Each);
        rig.ring.disable_notifications();
        rig.offer(1);
        rig.serve(1);
        assert_eq!(rig.ring.enable_notifications(), Ok(false));
        rig.offer(1);
        assert_eq!(rig.ring.enable_notifications(), Ok(true));
    }
}

#[test]
fn an_index_that_jumps_is_a_fault_wherever_it_is_read() {
    let mut rig = Rig::new(FeatureBits::NONE, UsedReports::Each);
    rig.driver
        .area
        .store_u16(DRIVER + 2, SIZE + 1, Ordering::Release);
    assert_eq!(rig.ring.has_available(), Err(RingFault::AvailableIndex));
    assert_eq!(
        rig.ring.enable_notifications(),
        Err(RingFault::AvailableIndex)
    );
}

proptest! {
    /// `passed` is the question whether one of the indices from `old` up to, not including,
    /// `new` is the event.
    #[test]
    fn passing_an_index_is_what_counting_says(event: u16, old: u16, count in 0..300u16) {
        let new = old.wrapping_add(count);
        let counted = (0..count).any(|i| old.wrapping_add(i) == event);
        prop_assert_eq!(passed(event, old, new), counted);
    }

    /// The ring against a model of three counters, over many wraps of the ring.
    #[test]
    fn the_ring_counts_as_a_model_does(
        burst in any::<bool>(),
        event_index in any::<bool>(),
        operations in prop::collection::vec((0..4u8, 0..9u16, any::<bool>()), 1..200),
    ) {
        let mut features = FeatureBits::IN_ORDER;
        if event_index {
            features |= FeatureBits::EVENT_IDX;
        }
        let reports = if burst { UsedReports::Burst } else { UsedReports::Each };
        let mut rig = Rig::new(features, reports);
        let (mut offered, mut taken, mut shown) = (0u16, 0u16, 0u16);
        for (operation, count, wants) in operations {
            match operation {
                0 => {
                    let count = count.min(SIZE - (offered - shown));
                    rig.offer(count);
                    offered += count;
                }
                1 => {
                    let served = rig.serve(count);
                    prop_assert_eq!(served, count.min(offered - taken));
                    taken += served;
                }
                _ => {
                    // The driver wants to hear of the next buffer, or of none.
                    let event = if wants { shown } else { shown.wrapping_sub(1) };
                    let at = DRIVER + 4 + usize::from(SIZE) * 2;
                    rig.driver.area.store_u16(at, event, Ordering::Relaxed);
                    rig.driver.area.store_u16(DRIVER, u16::from(!wants), Ordering::Relaxed);
                    prop_assert_eq!(rig.ring.publish(), wants && taken != shown);
                    shown = taken;
                    prop_assert_eq!(rig.used_index(), shown);
                }
            }
        }
    }
}
