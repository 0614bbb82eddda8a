use virtroupe_wire::Buffer;

use super::*;
use crate::pool::tests::pool;
use crate::pool::{batch_returns, drop_burst};

/// Slots of a pool that has two long ones.
const SLOTS: u32 = 64;
/// Bytes that fit into a long slot.
const ROOM: usize = LONG_SLOT - SLOT_DATA as usize;

#[test]
fn a_long_slot_holds_as_much_as_sixteen_in_one_piece() {
    let mut pool = pool(SLOTS);
    let mut frames: Vec<_> = std::iter::from_fn(|| pool.long_frame()).collect();
    assert_eq!(frames.len(), 2);
    for (frame, fill) in frames.iter_mut().zip(1..) {
        assert_eq!((frame.tailroom(), frame.memory()), (ROOM, LONG_SLOT));
        assert!(frame.extend_from_slice(&[fill; ROOM]));
        assert!(!frame.extend_from_slice(&[0]));
        assert!(!frame.is_chain());
    }
    let packets: Vec<_> = std::iter::from_fn(|| pool.frame()).collect();
    assert_eq!(packets.len(), SLOTS as usize, "no slot was taken for them");
    for mut packet in packets {
        assert!(packet.extend_from_slice(&[9; 2000]));
    }
    for (frame, fill) in frames.iter().zip(1..) {
        assert!(frame.head().iter().all(|byte| *byte == fill));
    }
}

#[test]
fn long_slots_come_home_to_their_own_stack_wherever_they_are_dropped() {
    let mut pool = pool(SLOTS);
    type Work = fn(Vec<Frame>);
    let ways: [Work; 4] = [
        drop,
        |mut frames| drop_burst(&mut frames),
        |frames| std::thread::scope(|scope| drop(scope.spawn(|| drop(frames)))),
        |frames| {
            std::thread::scope(|scope| drop(scope.spawn(|| batch_returns(|| drop(frames)))));
        },
    ];
    for way in ways {
        let mut frames = vec![pool.frame().expect("free")];
        frames.extend(std::iter::from_fn(|| pool.long_frame()));
        assert_eq!(frames.len(), 3);
        way(frames);
        pool.collect();
        assert_eq!((pool.available(), pool.available_long()), (64, 2));
    }
}

#[test]
fn a_chain_of_both_kinds_goes_home_whole() {
    let mut pool = pool(SLOTS);
    let mut chain = pool.long_frame().expect("free");
    chain.append(pool.frame().expect("free"));
    chain.append(pool.long_frame().expect("free"));
    drop(chain);
    assert_eq!((pool.available(), pool.available_long()), (64, 2));
}

#[test]
fn a_chunk_of_a_long_slot_outlives_its_pool() {
    let mut pool = pool(SLOTS);
    let mut frame = pool.long_frame().expect("free");
    assert!(frame.extend_from_slice(&[5; 30_000]));
    let chunk = frame.freeze().slice(20_000..);
    drop(pool);
    assert!(chunk[..] == [5; 10_000]);
}
