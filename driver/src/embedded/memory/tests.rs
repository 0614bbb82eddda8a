//! The device's accesses to memory, against a vector of the same bytes.

use std::io::Read;
use std::os::fd::AsFd;

use proptest::prelude::*;

use super::*;
use crate::memory::HugePages;

const LENGTH: usize = 8192;
const IOVA: u64 = 0x1_0000_0000;
/// Bytes of a header in front of a frame.
const HEAD: usize = 12;

/// Memory in which no two neighbouring words are the same, and its bytes.
fn patterned() -> (GuestMemory, Vec<u8>) {
    let memory = DmaMemory::allocate(LENGTH, HugePages::Never).expect("memory");
    let guest = GuestMemory::new(Arc::new(memory), IOVA);
    let bytes: Vec<u8> = (0..LENGTH).map(|at| (at * 31 + at / 256) as u8).collect();
    assert!(guest.write(0, &bytes));
    (guest, bytes)
}

/// All of the memory.
fn contents(guest: &GuestMemory) -> Vec<u8> {
    let mut bytes = Vec::new();
    assert!(guest.read(0, LENGTH, &mut bytes));
    bytes
}

/// Where an access may start: anywhere, and often around the end of the memory or of all addresses.
fn offsets() -> impl Strategy<Value = usize> {
    prop_oneof![
        0..LENGTH,
        LENGTH - 100..LENGTH + 100,
        usize::MAX - 100..=usize::MAX,
    ]
}

/// How long one may be.
fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![0..100usize, 0..LENGTH + 100, usize::MAX - 100..=usize::MAX]
}

/// The `length` bytes at `offset` of `bytes`, if all are there.
fn part(bytes: &[u8], offset: usize, length: usize) -> Option<&[u8]> {
    bytes.get(offset..offset.checked_add(length)?)
}

proptest! {
    #[test]
    fn what_is_read_is_what_lies_there_or_nothing(
        offset in offsets(),
        length in lengths(),
        before in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let (guest, bytes) = patterned();
        let behind = length
            .checked_add(HEAD)
            .and_then(|all| part(&bytes, offset, all))
            .map(|found| found.split_at(HEAD));
        let mut read = before.clone();
        let head = guest.read_behind::<HEAD>(offset, length, &mut read);
        prop_assert_eq!(head.as_ref().map(|head| &head[..]), behind.map(|(head, _)| head));
        prop_assert_eq!(&read[..before.len()], &before);
        prop_assert_eq!(&read[before.len()..], behind.map_or(&[][..], |(_, rest)| rest));

        let found = part(&bytes, offset, length);
        let mut read = before.clone();
        prop_assert_eq!(guest.read(offset, length, &mut read), found.is_some());
        prop_assert_eq!(&read[before.len()..], found.unwrap_or_default());

        let expected = part(&bytes, offset, 16).map(|raw| Descriptor {
            address: u64::from_le_bytes(raw[..8].try_into().expect("eight")),
            length: u32::from_le_bytes(raw[8..12].try_into().expect("four")),
            flags: u16::from_le_bytes([raw[12], raw[13]]),
            next: u16::from_le_bytes([raw[14], raw[15]]),
        });
        prop_assert_eq!(guest.table_entry(offset), expected);
    }

    #[test]
    fn what_is_written_lies_there_and_changes_nothing_else(
        offset in offsets(),
        head: [u8; HEAD],
        rest in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let (guest, mut bytes) = patterned();
        let all = [&head[..], &rest].concat();
        let end = offset.checked_add(all.len());
        let target = end.and_then(|end| bytes.get_mut(offset..end));
        let is_inside = target.map(|target| target.copy_from_slice(&all)).is_some();
        prop_assert_eq!(guest.write_behind(offset, &head, &rest), is_inside);
        prop_assert_eq!(contents(&guest), bytes);
    }

    #[test]
    fn an_address_is_where_the_driver_says_the_memory_is(
        offset in offsets(),
        length in lengths(),
        is_before: bool,
    ) {
        let (guest, bytes) = patterned();
        let expected = part(&bytes, offset, length).map(|_| offset);
        if let Some(address) = IOVA.checked_add(offset as u64) {
            prop_assert_eq!(guest.translate(address, length), expected);
        }
        // What is below the memory, and an offset in the place of an address, is none.
        let below = if is_before { IOVA - 1 - offset as u64 % IOVA } else { offset as u64 % IOVA };
        prop_assert_eq!(guest.translate(below, length), None);
    }
}

#[test]
fn segments_are_written_behind_a_head_and_without_what_is_skipped() {
    let memory = DmaMemory::allocate(8192, HugePages::Never).expect("memory");
    let guest = GuestMemory::new(Arc::new(memory), 0);
    assert!(guest.write(100, b"skipped, and ") && guest.write(5000, b"not"));
    let segment = |offset, length| Segment { offset, length };
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    // What is skipped may end inside any segment.
    for (segments, skip, expected) in [
        (vec![segment(100, 13), segment(5000, 3)], 9, "head:and not"),
        (vec![segment(100, 13), segment(5000, 3)], 14, "head:ot"),
        (vec![segment(5000, 3)], 0, "head:not"),
        (vec![], 0, "head:"),
    ] {
        let written = guest.write_to(writer.as_fd(), b"head:", &segments, skip);
        assert_eq!(written.expect("the pipe takes it"), expected.len());
        let mut read = vec![0; expected.len()];
        reader.read_exact(&mut read).expect("it was written");
        assert_eq!(read, expected.as_bytes());
    }
    let outside = guest.write_to(writer.as_fd(), b"", &[segment(8000, 200_000)], 0);
    assert!(outside.is_err());
    let many = vec![segment(0, 1); MOST_WRITTEN + 1];
    assert!(guest.write_to(writer.as_fd(), b"", &many, 0).is_err());
}
