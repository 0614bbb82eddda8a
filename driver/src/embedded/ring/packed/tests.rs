//! The packed ring alone: what it writes where, what it asks for, and what it refuses.

use proptest::prelude::*;

use super::super::driver_side::{BUFFERS, DRIVER, DriverSide, IOVA, MEMORY};
use super::*;

const SIZE: u16 = 5;
const TABLE: usize = 512;

/// A ring, and its driver.
struct Rig {
    ring: PackedRing,
    driver: DriverSide,
}

impl Rig {
    fn new(features: FeatureBits, reports: UsedReports) -> Rig {
        let driver = DriverSide::new(true, SIZE);
        let ring = PackedRing::new(driver.memory.clone(), &driver.layout, features, reports);
        Rig {
            ring: ring.expect("ring"),
            driver,
        }
    }

    /// Makes buffers of one descriptor available, under these ids.
    fn offer(&mut self, ids: impl IntoIterator<Item = u16>) {
        for id in ids {
            self.driver.write(BUFFERS, 16, 0, id);
        }
    }

    /// Takes and completes what is available, at most `limit`: the ids.
    fn serve(&mut self, limit: usize) -> Vec<u16> {
        let mut chain = Chain::default();
        let mut ids = Vec::new();
        while ids.len() < limit && self.ring.take(&mut chain).expect("a sane ring") {
            self.ring.complete(&chain, 0);
            ids.push(chain.id);
        }
        ids
    }

    /// The id at `index`, if that is used in a lap with this wrap counter.
    fn used(&self, index: u16, wrap: bool) -> Option<u16> {
        let place = self.driver.area.packed(index).expect("inside");
        let mine = if wrap { AVAIL | USED } else { 0 };
        (place.flags() & (AVAIL | USED) == mine).then(|| place.buffer().2)
    }

    fn refused(mut self) -> RingFault {
        self.ring
            .take(&mut Chain::default())
            .expect_err("not a legal chain")
    }
}

fn plain() -> Rig {
    Rig::new(FeatureBits::INDIRECT_DESC, UsedReports::Each)
}

#[test]
fn nothing_shows_before_it_is_published_and_then_all_of_it() {
    let mut rig = Rig::new(FeatureBits::NONE, UsedReports::Burst);
    rig.offer([7, 3, 9]);
    assert_eq!(rig.serve(9), [7, 3, 9]);
    assert_eq!(rig.used(0, true), None);
    assert!(rig.ring.publish());
    assert!(!rig.ring.publish(), "nothing new, no notification");
    for (index, id) in (0..).zip([7, 3, 9]) {
        assert_eq!(rig.used(index, true), Some(id));
    }
}

#[test]
fn a_burst_in_order_is_one_used_descriptor_where_its_first_was() {
    let mut rig = Rig::new(FeatureBits::IN_ORDER, UsedReports::Burst);
    for lap in [true, false] {
        rig.offer([0, 1, 2]);
        assert_eq!(rig.serve(9).len(), 3);
        assert!(rig.ring.publish());
        rig.offer([3, 4]);
        assert_eq!(rig.serve(9).len(), 2);
        assert!(rig.ring.publish());
        assert_eq!(rig.used(0, lap), Some(2));
        assert_eq!(rig.used(3, lap), Some(4));
    }
}

#[test]
fn a_chain_has_the_id_of_its_last_descriptor_and_takes_all_its_places() {
    let mut rig = plain();
    for (flags, id) in [(NEXT, 77), (NEXT, 88), (0, 1)] {
        rig.driver.write(BUFFERS, 16, flags, id);
    }
    rig.offer([2]);
    assert_eq!(rig.serve(9), [1, 2]);
    assert!(rig.ring.publish());
    assert_eq!(rig.used(0, true), Some(1));
    assert_eq!(rig.used(3, true), Some(2));
}

#[test]
fn what_is_given_back_comes_again_also_across_the_end() {
    let mut rig = plain();
    rig.offer([0, 1, 2, 3]);
    assert_eq!(rig.serve(9).len(), 4);
    assert!(rig.ring.publish());
    rig.offer([5, 6, 7]);
    let mut chains = [Chain::default(), Chain::default(), Chain::default()];
    for chain in &mut chains {
        assert_eq!(rig.ring.take(chain), Ok(true));
    }
    assert_eq!(rig.ring.take(&mut Chain::default()), Ok(false));
    chains
        .iter()
        .rev()
        .for_each(|chain| rig.ring.give_back(chain));
    assert_eq!(rig.ring.has_available(), Ok(true));
    // What was seen is no news, although it was given back.
    assert_eq!(rig.ring.enable_notifications(), Ok(false));
    rig.offer([8]);
    assert_eq!(rig.ring.enable_notifications(), Ok(true));
    assert_eq!(rig.serve(9), [5, 6, 7, 8]);
}

#[test]
fn a_table_is_read_in_order_whatever_its_last_fields_say() {
    let mut rig = plain();
    for entry in 0..3usize {
        let mut bytes = (IOVA + BUFFERS as u64).to_le_bytes().to_vec();
        bytes.extend([entry as u8 + 1, 0, 0, 0, 0xff, 0xff, 0, 0]);
        assert!(rig.driver.memory.write(TABLE + 16 * entry, &bytes));
    }
    rig.driver.write(TABLE, 48, INDIRECT, 4);
    let mut chain = Chain::default();
    assert_eq!(rig.ring.take(&mut chain), Ok(true));
    assert_eq!((chain.id, chain.descriptors), (4, 1));
    let lengths: Vec<_> = chain.readable().iter().map(|part| part.length).collect();
    assert_eq!(lengths, [1, 2, 3]);
}

#[test]
fn what_the_standard_forbids_is_refused() {
    // A chain that never ends.
    let mut rig = plain();
    (0..SIZE).for_each(|_| rig.driver.write(BUFFERS, 16, NEXT, 0));
    assert_eq!(rig.refused(), RingFault::ChainTooLong);
    // Readable behind writable.
    let mut rig = plain();
    rig.driver.write(BUFFERS, 16, WRITE | NEXT, 0);
    rig.driver.write(BUFFERS, 16, 0, 0);
    assert_eq!(rig.refused(), RingFault::Order);
    // Outside of the memory, before and behind it.
    for offset in [MEMORY - 6, usize::MAX - 100] {
        let mut rig = plain();
        rig.driver.write(offset, 16, 0, 0);
        assert_eq!(rig.refused(), RingFault::Address);
    }
    // Tables: with NEXT or WRITE, empty, not whole, longer than the ring, outside of the memory.
    for (offset, length, flags, fault) in [
        (TABLE, 16, INDIRECT | NEXT, RingFault::Indirect),
        (TABLE, 16, INDIRECT | WRITE, RingFault::Indirect),
        (TABLE, 0, INDIRECT, RingFault::Indirect),
        (TABLE, 17, INDIRECT, RingFault::Indirect),
        (
            TABLE,
            16 * u32::from(SIZE) + 16,
            INDIRECT,
            RingFault::Indirect,
        ),
        (MEMORY - 6, 16, INDIRECT, RingFault::Address),
    ] {
        let mut rig = plain();
        rig.driver.write(offset, length, flags, 0);
        assert_eq!(rig.refused(), fault, "{length} {flags:#x}");
    }
    // A table that is not all of its chain.
    let mut rig = plain();
    rig.driver.write(BUFFERS, 16, NEXT, 0);
    rig.driver.write(TABLE, 16, INDIRECT, 0);
    assert_eq!(rig.refused(), RingFault::Indirect);
    // A table that was not negotiated.
    let mut rig = Rig::new(FeatureBits::NONE, UsedReports::Each);
    rig.driver.write(TABLE, 16, INDIRECT, 0);
    assert_eq!(rig.refused(), RingFault::Indirect);
}

#[test]
fn more_than_the_ring_has_is_refused() {
    let mut rig = plain();
    rig.offer(0..SIZE);
    let mut chain = Chain::default();
    for _ in 0..SIZE {
        assert_eq!(rig.ring.take(&mut chain), Ok(true));
    }
    // The driver goes on although nothing was used.
    rig.offer([0]);
    assert_eq!(rig.ring.take(&mut chain), Err(RingFault::ChainTooLong));
}

proptest! {
    #[test]
    fn arbitrary_rings_do_not_panic(
        bytes in prop::collection::vec(any::<u8>(), 16 * usize::from(SIZE)),
        events in any::<[u8; 4]>(),
        features in any::<u64>(),
        operations in prop::collection::vec(0..6u8, 0..60),
    ) {
        let features = FeatureBits(features);
        let mut rig = Rig::new(features, UsedReports::Burst);
        prop_assert!(rig.driver.memory.write(0, &bytes) && rig.driver.memory.write(DRIVER, &events));
        let mut taken = Vec::new();
        for operation in operations {
            match operation {
                0 | 1 => {
                    let mut chain = Chain::default();
                    if rig.ring.take(&mut chain) == Ok(true) {
                        taken.push(chain);
                    }
                }
                2 if !taken.is_empty() => rig.ring.complete(&taken.remove(0), 9),
                3 => {
                    let _ = rig.ring.publish();
                }
                4 => {
                    if let Some(chain) = taken.pop() {
                        rig.ring.give_back(&chain);
                    }
                }
                _ => {
                    let _ = rig.ring.enable_notifications();
                    rig.ring.disable_notifications();
                }
            }
        }
    }
}
