use super::*;
use crate::memory::HugePages;

/// A pool of so many slots, for the tests of whatever takes frames from one.
pub(crate) fn pool(count: u32) -> Pool {
    let memory = DmaMemory::allocate(UnboundPool::bytes(count), HugePages::Never);
    UnboundPool::new(Arc::new(memory.expect("memory")), 0, count)
        .expect("it fits")
        .bind()
}

#[test]
fn frames_dropped_on_another_thread_come_home_one_by_one_and_in_batches() {
    let mut pool = pool(64);
    for batched in [false, true] {
        let frames: Vec<_> = std::iter::from_fn(|| pool.frame()).collect();
        assert_eq!(frames.len(), 64);
        assert!(pool.frame().is_none());
        std::thread::spawn(move || {
            if batched {
                batch_returns(|| drop(frames))
            } else {
                drop(frames)
            }
        })
        .join()
        .expect("the thread drops frames");
        assert_eq!(pool.available(), 0);
        assert_eq!(pool.collect(), 64);
        assert_eq!(pool.available(), 64);
    }
}

#[test]
fn a_batch_of_two_pools_returns_each_slot_to_its_own() {
    let (mut first, mut second) = (pool(8), pool(8));
    let mut frames = Vec::new();
    for _ in 0..8 {
        frames.extend([first.frame().expect("free"), second.frame().expect("free")]);
    }
    std::thread::spawn(move || batch_returns(|| drop(frames)))
        .join()
        .expect("joined");
    assert_eq!((first.collect(), second.collect()), (8, 8));
}

#[test]
fn frames_may_outlive_their_pool_and_free_the_memory_with_the_last_one() {
    let memory = Arc::new(DmaMemory::allocate(4 * SLOT_STRIDE, HugePages::Never).expect("memory"));
    let mut pool = UnboundPool::new(memory.clone(), 0, 4)
        .expect("it fits")
        .bind();
    let (first, second) = (pool.frame(), pool.frame());
    drop(pool);
    assert_eq!(Arc::strong_count(&memory), 2);
    drop(first);
    assert_eq!(Arc::strong_count(&memory), 2);
    std::thread::spawn(move || drop(second))
        .join()
        .expect("joined");
    assert_eq!(Arc::strong_count(&memory), 1);
}
