//! Fields of a ring, against a vector of the same bytes.

use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;

use super::super::GuestMemory;
use super::*;
use crate::memory::HugePages;

const LENGTH: usize = 4096;
/// Where the area under test lies, and how long it is: two descriptors, and a part of a third.
const START: usize = 64;
const AREA: usize = 2 * Descriptor::BYTES + 8;

/// Memory, all of its bytes, and an area in it.
struct Rig {
    guest: GuestMemory,
    bytes: Vec<u8>,
    area: Area<16>,
}

impl Rig {
    fn new() -> Self {
        let memory = DmaMemory::allocate(LENGTH, HugePages::Never).expect("memory");
        let guest = GuestMemory::new(Arc::new(memory), 0);
        let bytes: Vec<u8> = (0..LENGTH).map(|at| (at * 37 + 1) as u8).collect();
        assert!(guest.write(0, &bytes));
        Rig {
            area: guest.area(START, AREA).expect("an area"),
            guest,
            bytes,
        }
    }

    /// Expects that what is in memory differs from what was there by `new` at byte `at` of the area.
    fn expect(&mut self, at: usize, new: &[u8]) {
        let from = START + at;
        self.bytes[from..from + new.len()].copy_from_slice(new);
        let mut found = Vec::new();
        assert!(self.guest.read(0, LENGTH, &mut found));
        assert_eq!(found, self.bytes);
    }

    fn u16_at(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[START + at], self.bytes[START + at + 1]])
    }
}

proptest! {
    #[test]
    fn an_area_is_inside_the_memory_and_aligned(
        offset in prop_oneof![0..LENGTH + 40, usize::MAX - 40..=usize::MAX],
        length in prop_oneof![0..80usize, 0..LENGTH + 40, usize::MAX - 40..=usize::MAX],
    ) {
        let memory = DmaMemory::allocate(LENGTH, HugePages::Never).expect("memory");
        let memory = Arc::new(memory);
        let is_inside = offset.checked_add(length).is_some_and(|end| end <= LENGTH);
        let is = |alignment| is_inside && offset % alignment == 0;
        prop_assert_eq!(Area::<2>::new(&memory, offset, length).is_some(), is(2));
        prop_assert_eq!(Area::<4>::new(&memory, offset, length).is_some(), is(4));
        prop_assert_eq!(Area::<16>::new(&memory, offset, length).is_some(), is(16));
    }

    #[test]
    fn a_field_is_where_the_standard_has_it(
        at in (0..AREA / 2).prop_map(|half| half * 2),
        value: u16,
        pair_at in (0..=(AREA - 8) / 4).prop_map(|word| word * 4),
        pair: (u32, u32),
    ) {
        let mut rig = Rig::new();
        prop_assert_eq!(rig.area.load_u16(at, Ordering::Relaxed), rig.u16_at(at));
        rig.area.store_u16(at, value, Ordering::Release);
        rig.expect(at, &value.to_le_bytes());
        rig.area.write_pair(pair_at, pair.0, pair.1);
        let both = u64::from(pair.0) | u64::from(pair.1) << 32;
        rig.expect(pair_at, &both.to_le_bytes());
    }

    #[test]
    fn a_descriptor_of_either_format_is_read_and_reported_as_it_lies(
        index in 0..2u16,
        raw: [u8; 16],
        used: (u32, u16, u16),
    ) {
        let mut rig = Rig::new();
        let at = usize::from(index) * Descriptor::BYTES;
        prop_assert!(rig.guest.write(START + at, &raw));
        rig.expect(at, &raw);
        let value = u128::from_le_bytes(raw);
        let found = rig.area.descriptor(index).expect("inside");
        prop_assert_eq!(found.address, value as u64);
        prop_assert_eq!(found.length, (value >> 64) as u32);
        prop_assert_eq!(found.flags, (value >> 96) as u16);
        prop_assert_eq!(found.next, (value >> 112) as u16);

        let place = rig.area.packed(index).expect("inside");
        prop_assert_eq!(place.flags(), found.next);
        prop_assert_eq!(place.buffer(), (found.address, found.length, found.flags));
        let (length, id, flags) = used;
        place.report(length, id, flags, Ordering::Release);
        let reported = u64::from(length) | u64::from(id) << 32 | u64::from(flags) << 48;
        // The address stays as the driver wrote it.
        rig.expect(at + 8, &reported.to_le_bytes());
    }

    #[test]
    fn there_is_no_descriptor_that_is_not_all_inside(index in prop_oneof![0..8u16, any::<u16>()]) {
        let area = Rig::new().area;
        prop_assert_eq!(area.descriptor(index).is_some(), index < 2);
        prop_assert_eq!(area.packed(index).is_some(), index < 2);
    }
}

/// That the device asks for one is a fault of its own: debug builds say so, and no build touches what
/// is not in the area.
#[test]
fn a_field_that_is_not_in_the_area_is_none() {
    let mut rig = Rig::new();
    for at in [1, AREA - 1, AREA, AREA + 2, usize::MAX - 1, usize::MAX] {
        let area = AssertUnwindSafe(&rig.area);
        let loaded = catch_unwind(|| area.load_u16(at, Ordering::Relaxed));
        assert!(matches!(loaded, Err(_) | Ok(0)), "{at}: {loaded:?}");
        let _ = catch_unwind(|| area.store_u16(at, 0xabcd, Ordering::Relaxed));
        rig.expect(0, &[]);
    }
    for at in [2, AREA - 4, AREA, usize::MAX - 3] {
        let area = AssertUnwindSafe(&rig.area);
        let _ = catch_unwind(|| area.write_pair(at, 1, 2));
        rig.expect(0, &[]);
    }
}

/// An area outlives whoever made it.
#[test]
fn an_area_keeps_its_memory_mapped() {
    let rig = Rig::new();
    let (area, expected) = (
        rig.area,
        u16::from_le_bytes([rig.bytes[START], rig.bytes[START + 1]]),
    );
    drop(rig.guest);
    assert_eq!(area.load_u16(0, Ordering::Relaxed), expected);
}
