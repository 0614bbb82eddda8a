use proptest::prelude::*;
use virtroupe_wire::offload::ChecksumState;

use super::*;
use crate::pool::tests::pool;

#[test]
fn a_handle_is_24_bytes_also_in_an_option() {
    assert_eq!(size_of::<Frame>(), 24);
    assert_eq!(size_of::<Option<Frame>>(), 24);
}

#[test]
fn the_tailroom_of_a_chain_is_its_last_segment_s_and_exact() {
    let mut pool = pool(2);
    let mut frame = pool.frame().expect("free");
    for used in [0, 42] {
        let room = frame.tailroom();
        assert_eq!(room, SLOT_STRIDE - usize::from(SLOT_DATA) - used);
        assert!(!frame.extend_from_slice(&vec![1; room + 1]));
        assert!(frame.extend_from_slice(&vec![1; room]));
        assert_eq!(frame.tailroom(), 0);
        if let Some(mut fresh) = pool.frame() {
            assert!(fresh.extend_from_slice(&[2; 42]));
            frame.append(fresh);
        }
    }
    frame.append(Frame::on_heap(b"heap"));
    let room = frame.tailroom();
    assert!(!frame.extend_from_slice(&vec![3; room + 1]));
    assert!(frame.extend_from_slice(&vec![3; room]));
}

#[test]
fn a_dropped_chain_returns_every_slot() {
    let mut pool = pool(16);
    let mut chain = pool.frame().expect("free");
    for _ in 0..9 {
        chain.append(pool.frame().expect("free"));
    }
    chain.append(Frame::on_heap(b"heap"));
    assert_eq!(pool.available(), 6);
    drop(chain);
    assert_eq!(pool.available(), 16);
}

#[test]
fn an_offload_stays_when_the_head_is_trimmed_away_and_goes_with_its_slot() {
    let mut pool = pool(2);
    let described = Offload {
        checksum: ChecksumState::Valid,
        segmentation: None,
    };
    let mut frame = pool.frame().expect("free");
    assert!(frame.extend_from_slice(b"head"));
    let mut tail = pool.frame().expect("free");
    assert!(tail.extend_from_slice(b"tail"));
    frame.append(tail);
    frame.set_offload(described);
    frame.trim_front(5);
    assert_eq!((frame.head(), frame.offload()), (&b"ail"[..], described));
    drop(frame);
    let fresh = [pool.frame(), pool.frame()].map(|frame| frame.expect("free"));
    assert!(fresh.iter().all(|frame| frame.offload().is_none()));
}

#[test]
fn a_copy_on_the_heap_is_whole_however_long_it_is() {
    for length in [0, 65_000, 65_001, 65_549, 200_000] {
        let bytes: Vec<u8> = (0..length).map(|at: u32| (at * 7) as u8).collect();
        let copy = Frame::on_heap(&bytes);
        assert!(copy.to_vec() == bytes, "{length} bytes");
        assert_eq!(copy.is_chain(), length > 65_000);
    }
}

#[test]
fn the_headroom_keeps_room_for_the_net_header() {
    let mut pool = pool(1);
    let mut frame = pool.frame().expect("free");
    assert!(frame.headroom() >= HEADROOM);
    assert!(frame.prepend(frame.headroom()).is_some());
    assert!(frame.prepend(1).is_none());
    assert!(frame.clear_net_header().is_some());
}

#[derive(Debug, Clone)]
enum Operation {
    Prepend(u8),
    TrimFront(u16),
    Truncate(u16),
    /// Of frames of one segment only.
    Narrow(u16, u16),
    Extend(u8),
    Append(bool, u8),
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (0..40u8).prop_map(Operation::Prepend),
        (0..300u16).prop_map(Operation::TrimFront),
        (0..2000u16).prop_map(Operation::Truncate),
        (0..60u16, 0..300u16).prop_map(|(front, length)| Operation::Narrow(front, length)),
        any::<u8>().prop_map(Operation::Extend),
        (any::<bool>(), any::<u8>()).prop_map(|(heap, length)| Operation::Append(heap, length)),
    ]
}

proptest! {
    /// A frame, whatever its segments, behaves as one vector of bytes.
    #[test]
    fn a_frame_is_a_sequence_of_bytes(operations in prop::collection::vec(operation(), 0..40)) {
        let mut pool = pool(64);
        let mut frame = pool.frame().expect("free");
        let mut model: Vec<u8> = Vec::new();
        for (step, operation) in operations.into_iter().enumerate() {
            let fill = step as u8;
            match operation {
                Operation::Prepend(count) => {
                    if let Some(bytes) = frame.prepend(usize::from(count)) {
                        bytes.fill(fill);
                        model.splice(0..0, vec![fill; usize::from(count)]);
                    }
                }
                Operation::TrimFront(count) => {
                    frame.trim_front(usize::from(count));
                    model.drain(..usize::from(count).min(model.len()));
                }
                Operation::Truncate(length) => {
                    frame.truncate(usize::from(length));
                    model.truncate(usize::from(length));
                }
                Operation::Narrow(front, length) => {
                    if !frame.is_chain() {
                        let (front, length) = (usize::from(front), usize::from(length));
                        frame = frame.narrow(front, length);
                        model.drain(..front.min(model.len()));
                        model.truncate(length);
                    }
                }
                Operation::Extend(count) => {
                    let bytes = vec![fill; usize::from(count)];
                    if frame.extend_from_slice(&bytes) {
                        model.extend(bytes);
                    }
                }
                Operation::Append(heap, count) => {
                    let bytes = vec![fill; usize::from(count)];
                    let tail = if heap {
                        Frame::on_heap(&bytes)
                    } else {
                        let mut tail = pool.frame().expect("free");
                        assert!(tail.extend_from_slice(&bytes));
                        tail
                    };
                    frame.append(tail);
                    model.extend(bytes);
                }
            }
            prop_assert_eq!(frame.to_vec(), &model[..]);
            prop_assert_eq!(frame.len(), model.len());
        }
        drop(frame);
        prop_assert_eq!(pool.available(), 64);
    }
}

#[test]
fn a_detached_packet_is_the_same_outside_of_the_pool() {
    let mut pool = pool(2);
    let described = Offload {
        checksum: ChecksumState::Valid,
        segmentation: None,
    };
    for is_chain in [false, true] {
        let mut frame = pool.frame().expect("free");
        assert!(frame.extend_from_slice(b"head"));
        assert!(frame.set_offload(described));
        if is_chain {
            let mut tail = pool.frame().expect("free");
            assert!(tail.extend_from_slice(b" and tail"));
            frame.append(tail);
        }
        let bytes = frame.to_vec();
        frame.detach();
        assert_eq!(pool.available(), 2);
        assert!(frame.is_on_heap());
        assert_eq!(frame.to_vec(), bytes);
        assert_eq!(frame.offload(), described);
    }
}
