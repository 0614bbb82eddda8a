use proptest::prelude::*;

use super::*;
use crate::buffer::HeapBuffer;

/// The byte that belongs at `position`.
fn byte(position: u64) -> u8 {
    (position * 31 % 251) as u8
}

fn bytes(start: u64, length: u64) -> HeapBuffer {
    let bytes: Vec<u8> = (start..start + length).map(byte).collect();
    HeapBuffer::new(&bytes)
}

proptest! {
    /// Against a plain bitmap: whatever arrives in whatever order, what comes out is in order,
    /// right, and exactly what arrived; blocks say what is there.
    #[test]
    fn what_comes_out_is_what_arrived_in_order(
        arrivals in proptest::collection::vec((0_u64..300, 1_u64..40, any::<bool>()), 1..100),
    ) {
        let mut reassembly = Reassembly::new();
        let mut arrived = [false; 400];
        let mut next = 0;
        for (start, length, is_read) in arrivals {
            let end = start + length;
            if start <= next {
                // As the connection does: the front is handled without the queue.
                next = next.max(end);
                arrived[start as usize..end as usize].fill(true);
            } else {
                let known = (start..end).find(|position| arrived[*position as usize]);
                let duplicate = reassembly.insert(start, bytes(start, length));
                prop_assert_eq!(duplicate.map(|range| range.start), known);
                arrived[start as usize..end as usize].fill(true);
                let first = reassembly.blocks().next().expect("something waits");
                prop_assert!(first.start <= start && start < first.end);
            }
            if is_read || start <= next {
                while let Some((payload, end)) = reassembly.take(next) {
                    let read = payload.to_vec();
                    prop_assert_eq!(read.len() as u64, end - next);
                    for (offset, read) in read.iter().enumerate() {
                        prop_assert_eq!(*read, byte(next + offset as u64));
                    }
                    next = end;
                }
                prop_assert!(arrived[..next as usize].iter().all(|there| *there));
                prop_assert!(!arrived[next as usize]);
            }
            for block in reassembly.blocks() {
                let there = &arrived[block.start as usize..block.end as usize];
                prop_assert!(block.start > next && there.iter().all(|there| *there));
                prop_assert!(!arrived[block.end as usize] && !arrived[block.start as usize - 1]);
            }
            let memory: usize = reassembly.pieces.iter().map(|piece| piece.payload.memory()).sum();
            prop_assert_eq!(reassembly.memory(), memory);
        }
        while reassembly.give_up_last() {}
        prop_assert_eq!(reassembly.memory(), 0);
        prop_assert_eq!(reassembly.ranges.len(), 0);
    }
}

#[test]
fn the_newest_block_comes_first() {
    let mut reassembly = Reassembly::new();
    for start in [10, 30, 50, 70, 90] {
        reassembly.insert(start, bytes(start, 5));
    }
    reassembly.insert(35, bytes(35, 5));
    let starts: Vec<u64> = reassembly.blocks().map(|block| block.start).collect();
    assert_eq!(starts, [30, 90, 70, 50]);
}
