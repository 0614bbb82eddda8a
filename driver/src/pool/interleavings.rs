//! Frames that come home from other threads, in every interleaving that matters, by loom.
//!
//! What frames hold is stood for by cells that loom watches: it complains unless all that one
//! holder did to a slot happened before what the next one does.

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::thread;
use virtroupe_wire::Buffer;

use super::*;
use crate::memory::HugePages;

/// Slots in the pools.
const SLOTS: u32 = 2;
/// Slots where a chunk stands behind two headers.
const LINKED: u32 = 3;

/// Every interleaving in which no thread is interrupted more often than this: loom's authors found
/// that two or three find nearly all faults, and more would take minutes.
const INTERRUPTIONS: usize = 3;

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(INTERRUPTIONS);
    builder.check(model);
}

/// Memory for the pools of all runs of a model.
fn memory(slots: u32) -> Arc<DmaMemory> {
    let memory = DmaMemory::allocate(UnboundPool::bytes(slots), HugePages::Never);
    Arc::new(memory.expect("memory"))
}

fn pool(memory: &Arc<DmaMemory>, slots: u32) -> Pool {
    let pool = UnboundPool::new(memory.clone(), 0, slots);
    pool.expect("it fits").bind()
}

/// What the holders of the slots did.
struct Contents([UnsafeCell<u32>; SLOTS as usize]);

// SAFETY: the cells are reached through `use_by` only, which loom checks.
unsafe impl Sync for Contents {}
// SAFETY: as above.
unsafe impl Send for Contents {}

impl Contents {
    fn new() -> loom::sync::Arc<Self> {
        loom::sync::Arc::new(Contents(std::array::from_fn(|_| UnsafeCell::new(0))))
    }

    /// The holder of `frame` writes into it.
    fn write(&self, frame: &Frame) {
        self.0[frame.slot() as usize].with_mut(|content| {
            // SAFETY: loom fails the test before two can be here.
            unsafe { *content += 1 }
        });
    }
}

/// Takes all frames out of the pool again, waiting for those that are under way.
fn take_all(pool: &mut Pool, contents: &Contents) -> Vec<Frame> {
    let mut frames = Vec::new();
    while frames.len() < SLOTS as usize {
        match pool.frame() {
            Some(frame) => {
                contents.write(&frame);
                frames.push(frame);
            }
            None => thread::yield_now(),
        }
    }
    frames
}

#[test]
fn frames_that_two_threads_return_come_home_with_what_was_done_to_them() {
    let memory = memory(SLOTS);
    explore(move || {
        let mut pool = pool(&memory, SLOTS);
        let contents = Contents::new();
        let threads: Vec<_> = take_all(&mut pool, &contents)
            .into_iter()
            .map(|frame| {
                let contents = contents.clone();
                thread::spawn(move || {
                    contents.write(&frame);
                    drop(frame);
                })
            })
            .collect();
        // While they are at it.
        let frames = take_all(&mut pool, &contents);
        assert_eq!(pool.available() + frames.len(), SLOTS as usize);
        for thread in threads {
            thread.join().expect("it returns its frame");
        }
        assert_eq!(pool.collect(), 0, "no slot came home twice");
    });
}

#[test]
fn a_batch_comes_home_whole() {
    let memory = memory(SLOTS);
    explore(move || {
        let mut pool = pool(&memory, SLOTS);
        let contents = Contents::new();
        let frames = take_all(&mut pool, &contents);
        let thread = thread::spawn({
            let contents = contents.clone();
            move || {
                frames.iter().for_each(|frame| contents.write(frame));
                batch_returns(|| drop(frames));
            }
        });
        take_all(&mut pool, &contents);
        thread.join().expect("it returns its frames");
        assert_eq!(pool.collect(), 0, "no slot came home twice");
    });
}

#[test]
fn a_pool_that_closes_while_frames_are_out_is_freed_once_after_the_last() {
    let memory = memory(SLOTS);
    explore(move || {
        let mut pool = pool(&memory, SLOTS);
        let frames: Vec<_> = std::iter::from_fn(|| pool.frame()).collect();
        assert_eq!(frames.len(), SLOTS as usize);
        let threads: Vec<_> = frames
            .into_iter()
            .map(|frame| thread::spawn(move || drop(frame)))
            .collect();
        drop(pool);
        for thread in threads {
            thread.join().expect("it returns its frame");
        }
        assert_eq!(Arc::strong_count(&memory), 1, "nobody holds the memory");
    });
}

#[test]
fn a_slot_comes_home_after_all_chunks_were_read() {
    let memory = memory(SLOTS);
    explore(move || {
        let mut pool = pool(&memory, SLOTS);
        let contents = Contents::new();
        let mut frames = take_all(&mut pool, &contents);
        let slot = frames[0].slot() as usize;
        let chunk = frames.remove(0).freeze();
        let threads: Vec<_> = [chunk.clone(), chunk]
            .into_iter()
            .map(|chunk| {
                let contents = contents.clone();
                thread::spawn(move || {
                    contents.0[slot].with(|_| assert!(chunk.is_empty()));
                    drop(chunk);
                })
            })
            .collect();
        while pool.available() == 0 && pool.collect() == 0 {
            thread::yield_now();
        }
        let frame = pool.frame().expect("the slot is back");
        contents.write(&frame);
        for thread in threads {
            thread.join().expect("it drops its chunk");
        }
        assert_eq!(pool.collect(), 0, "no slot came home twice");
    });
}

#[test]
fn a_chunk_behind_two_headers_comes_home_after_both_were_read() {
    let memory = memory(LINKED);
    explore(move || {
        let mut pool = pool(&memory, LINKED);
        let contents = Contents::new();
        let mut filled = pool.frame().expect("free");
        contents.write(&filled);
        let slot = filled.slot() as usize;
        assert!(filled.extend_from_slice(&[7; 300]));
        let chunk = filled.freeze();
        let threads: Vec<_> = [chunk.clone(), chunk]
            .into_iter()
            .map(|chunk| {
                let mut frame = pool.frame().expect("free");
                assert!(frame.append_link(chunk).is_ok());
                let contents = contents.clone();
                thread::spawn(move || {
                    contents.0[slot].with(|_| assert_eq!(frame.len(), 300));
                    drop(frame);
                })
            })
            .collect();
        while pool.available() < LINKED as usize {
            if pool.collect() == 0 {
                thread::yield_now();
            }
        }
        let frames: Vec<_> = std::iter::from_fn(|| pool.frame()).collect();
        let filled = frames.iter().find(|frame| frame.slot() as usize == slot);
        contents.write(filled.expect("all slots are back"));
        for thread in threads {
            thread.join().expect("it drops its frame");
        }
        pool.collect();
        assert_eq!(pool.free_links(), LINKED as usize);
    });
}
