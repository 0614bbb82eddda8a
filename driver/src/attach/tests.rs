use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::memory::{DmaMemory, HugePages};
use crate::pool::{Pool, SLOT_STRIDE, UnboundPool, batch_returns};

/// Slots, and links, of a pool.
const SLOTS: u32 = 64;

/// Pools of the same memory.
fn pools<const N: usize>() -> [Pool; N] {
    let bytes = UnboundPool::bytes(SLOTS);
    let memory = DmaMemory::allocate(N * bytes, HugePages::Never);
    let memory = Arc::new(memory.expect("memory"));
    std::array::from_fn(|index| {
        UnboundPool::new(memory.clone(), index * bytes, SLOTS)
            .expect("it fits")
            .bind()
    })
}

fn filled(pool: &mut Pool, bytes: &[u8]) -> Frame {
    let mut frame = pool.frame().expect("free");
    assert!(frame.extend_from_slice(bytes));
    frame
}

fn numbered(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

#[test]
fn payload_lies_behind_the_headers_however_often_it_is_sent() {
    let payload = Frame::on_heap(b"hello, world").freeze();
    for _ in 0..2 {
        let mut packet = Frame::on_heap(b"header:");
        assert!(packet.attach(SharedPayload::slice(&payload, 7, 99)));
        assert_eq!(packet.to_vec(), b"header:world");
    }
}

#[test]
fn one_chunk_is_in_many_frames_at_once_and_goes_home_with_the_last() {
    let [mut pool] = pools();
    let chunk = filled(&mut pool, &numbered(2000)).freeze();
    let frames: Vec<_> = (0..20)
        .map(|at| {
            let mut frame = filled(&mut pool, b"header");
            assert!(frame.attach(SharedPayload::slice(&chunk, at, at + 1000)));
            frame
        })
        .collect();
    for (at, frame) in frames.iter().enumerate() {
        let attached = frame.tail().expect("a link");
        assert_eq!(attached.head().as_ptr(), chunk[at..].as_ptr(), "not copied");
        assert_eq!(attached.head(), &numbered(2000)[at..at + 1000]);
        assert_eq!(frame.memory(), 2 * SLOT_STRIDE);
    }
    drop(chunk);
    assert_eq!((pool.available(), pool.free_links()), (43, 44));
    drop(frames);
    assert_eq!((pool.available(), pool.free_links()), (64, 64));
}

#[test]
fn a_packet_holds_no_less_memory_than_it_has_bytes() {
    let [mut pool] = pools();
    let mut long = pool.long_frame().expect("free");
    assert!(long.extend_from_slice(&numbered(30_000)));
    let mut frame = filled(&mut pool, b"header");
    assert!(frame.attach(long.freeze()));
    assert!(pool.free_links() < 64, "it is not copied");
    assert_eq!(frame.memory(), SLOT_STRIDE + 30_000);
}

#[test]
fn another_threads_drop_returns_chunk_and_link_alone_and_in_batches() {
    let [mut pool] = pools();
    for batched in [false, true] {
        let chunk = filled(&mut pool, &numbered(2000)).freeze();
        let mut frame = filled(&mut pool, b"header");
        assert!(frame.attach(chunk.clone()) && frame.attach(chunk));
        let work = move || match batched {
            true => batch_returns(|| drop(frame)),
            false => drop(frame),
        };
        std::thread::spawn(work).join().expect("dropped");
        assert_eq!(pool.collect(), 2);
        assert_eq!((pool.available(), pool.free_links()), (64, 64));
    }
}

#[test]
fn a_chunk_and_a_link_may_outlive_both_pools() {
    let [mut ours, mut other] = pools();
    let chunk = filled(&mut other, &numbered(500)).freeze();
    let mut frame = filled(&mut ours, b"header");
    assert!(frame.attach(chunk));
    assert!(!frame.tail().expect("a link").is_on_heap());
    drop((ours, other));
    assert_eq!(frame.tail().expect("a link").head(), numbered(500));
}

#[test]
fn what_cannot_be_shared_is_copied_into_the_pool_and_then_to_the_heap() {
    let [mut pool] = pools();
    let [mut elsewhere] = pools();
    let strange = filled(&mut elsewhere, &numbered(2000)).freeze();
    let long = Frame::on_heap(&numbered(60_000)).freeze();
    let mut frame = filled(&mut pool, b"header");
    assert!(frame.attach(strange.clone()));
    assert!(!frame.is_chain(), "there was room behind the header");
    assert!(frame.attach(long));
    assert_eq!(frame.len(), 6 + 2000 + 60_000);
    let mut on_heap = 0;
    let mut next = frame.tail();
    while let Some(segment) = next {
        on_heap += usize::from(segment.is_on_heap());
        next = segment.tail();
    }
    assert_eq!((on_heap, pool.available()), (0, 34));
    // No link is left, and no slot.
    let own = filled(&mut pool, &numbered(2000)).freeze();
    let mut many = filled(&mut pool, b"header");
    for _ in 0..SLOTS + 40 {
        assert!(many.attach(own.clone()));
    }
    assert_eq!(many.len(), 6 + (SLOTS as usize + 40) * 2000);
    assert_eq!((pool.available(), pool.free_links()), (0, 0));
    drop(many);
    assert_eq!(pool.free_links(), 64);
}

#[test]
fn shared_bytes_are_copied_before_they_can_be_written_and_nothing_is_written_behind_them() {
    let [mut pool] = pools();
    let chunk = filled(&mut pool, &numbered(2000)).freeze();
    let with_header = |pool: &mut Pool| {
        let mut frame = filled(pool, b"header");
        assert!(frame.attach(SharedPayload::slice(&chunk, 100, 600)));
        frame
    };
    let mut extended = with_header(&mut pool);
    assert_eq!(extended.tailroom(), 0);
    assert!(!extended.extend_from_slice(b"more"));

    let mut trimmed = with_header(&mut pool);
    trimmed.trim_front(16);
    assert_eq!(trimmed.head(), &numbered(2000)[110..600]);
    trimmed.head_mut().fill(0xff);
    trimmed.prepend(14).expect("there is headroom").fill(0xff);
    trimmed.write_net_header([0xff; 12]).expect("and for it");
    assert!(trimmed.extend_from_slice(&[0xff; 40]));

    let (_, payload) = with_header(&mut pool).split_head();
    let mut payload = payload.expect("a second segment");
    assert_eq!(payload.head(), &numbered(2000)[100..600]);
    payload.head_mut().fill(0xff);
    assert!(chunk[..] == numbered(2000));
}

#[test]
fn a_chunk_that_nobody_shares_becomes_a_frame_again() {
    let [mut pool] = pools();
    let chunk = filled(&mut pool, b"0123456789").freeze();
    let middle = chunk.slice(2..5);
    let chunk = chunk.try_into_frame().expect_err("it has a slice");
    drop(chunk);
    let mut frame = middle.try_into_frame().expect("it is the last");
    assert!(frame.extend_from_slice(b"abc"));
    assert_eq!(frame.head(), b"234abc");
}

#[derive(Debug, Clone)]
enum Operation {
    /// A fresh frame of so many bytes, of the pool or the heap.
    Make(bool, u16),
    /// A fresh frame of so many bytes in a long slot, if one is free.
    MakeLong(u16),
    Freeze(usize),
    /// Part of a chunk, as a further chunk.
    Slice(usize, u16, u16),
    /// Part of a chunk behind a frame.
    Attach(usize, usize, u16, u16),
    Thaw(usize),
    DropChunk(usize, bool),
    DropFrame(usize, bool),
    Split(usize),
    Join(usize, usize),
    Prepend(usize, u8),
    Overwrite(usize),
    TrimFront(usize, u16),
    Truncate(usize, u16),
    Extend(usize, u16),
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let any_of = 0..1000usize;
    prop_oneof![
        2 => (prop::bool::weighted(0.2), 0..2000u16).prop_map(|(heap, length)| Make(heap, length)),
        1 => (0..35_712u16).prop_map(MakeLong),
        2 => any_of.clone().prop_map(Freeze),
        1 => (any_of.clone(), 0..2000u16, 0..2000u16).prop_map(|(at, a, b)| Slice(at, a, b)),
        6 => (any_of.clone(), any_of.clone(), 0..1000u16, 0..2000u16)
            .prop_map(|(frame, chunk, a, b)| Attach(frame, chunk, a, b)),
        1 => any_of.clone().prop_map(Thaw),
        1 => (any_of.clone(), any::<bool>()).prop_map(|(at, here)| DropChunk(at, here)),
        1 => (any_of.clone(), any::<bool>()).prop_map(|(at, here)| DropFrame(at, here)),
        1 => any_of.clone().prop_map(Split),
        1 => (any_of.clone(), any_of.clone()).prop_map(|(to, from)| Join(to, from)),
        1 => (any_of.clone(), 0..40u8).prop_map(|(at, count)| Prepend(at, count)),
        2 => any_of.clone().prop_map(Overwrite),
        2 => (any_of.clone(), 0..2500u16).prop_map(|(at, count)| TrimFront(at, count)),
        1 => (any_of.clone(), 0..4000u16).prop_map(|(at, length)| Truncate(at, length)),
        1 => (any_of, 0..600u16).prop_map(|(at, length)| Extend(at, length)),
    ]
}

/// Frames and chunks, each with the bytes that it should have.
struct World {
    pool: Pool,
    frames: Vec<(Frame, Vec<u8>)>,
    chunks: Vec<(Chunk, Vec<u8>)>,
}

fn drop_on<T: Send + 'static>(here: bool, value: T) {
    match here {
        true => drop(value),
        false => std::thread::spawn(move || drop(value))
            .join()
            .expect("dropped"),
    }
}

fn part(bytes: &[u8], a: u16, b: u16) -> (usize, usize) {
    let end = bytes.len().min(a.max(b).into());
    (end.min(a.min(b).into()), end)
}

fn pick<T>(all: &[T], at: usize) -> Option<&T> {
    all.get(at.checked_rem(all.len())?)
}

impl World {
    fn apply(&mut self, operation: Operation, fill: u8) {
        match operation {
            Operation::Make(heap, length) => {
                let bytes = vec![fill; length.into()];
                let frame = match (heap, self.pool.frame()) {
                    (false, Some(mut frame)) => {
                        assert!(frame.extend_from_slice(&bytes));
                        frame
                    }
                    _ => Frame::on_heap(&bytes),
                };
                self.frames.push((frame, bytes));
            }
            Operation::MakeLong(length) => {
                if let Some(mut frame) = self.pool.long_frame() {
                    let bytes = vec![fill; length.into()];
                    assert!(frame.extend_from_slice(&bytes));
                    self.frames.push((frame, bytes));
                }
            }
            Operation::Freeze(at) if !self.frames.is_empty() => {
                let at = at % self.frames.len();
                let (frame, mut bytes) = self.frames.swap_remove(at);
                if frame.is_chain() {
                    bytes.truncate(65_535);
                }
                self.chunks.push((frame.freeze(), bytes));
            }
            Operation::Thaw(at) if !self.chunks.is_empty() => {
                let at = at % self.chunks.len();
                let (chunk, bytes) = self.chunks.swap_remove(at);
                match chunk.try_into_frame() {
                    Ok(frame) => self.frames.push((frame, bytes)),
                    Err(chunk) => self.chunks.push((chunk, bytes)),
                }
            }
            Operation::DropChunk(at, here) if !self.chunks.is_empty() => {
                let at = at % self.chunks.len();
                drop_on(here, self.chunks.swap_remove(at));
            }
            Operation::DropFrame(at, here) if !self.frames.is_empty() => {
                let at = at % self.frames.len();
                drop_on(here, self.frames.swap_remove(at));
            }
            Operation::Split(at) if !self.frames.is_empty() => {
                let at = at % self.frames.len();
                let (frame, mut bytes) = self.frames.swap_remove(at);
                let (head, rest) = frame.split_head();
                let behind = bytes.split_off(head.head().len());
                self.frames.push((head, bytes));
                match rest {
                    Some(rest) => self.frames.push((rest, behind)),
                    None => assert!(behind.is_empty()),
                }
            }
            Operation::Join(to, from) if self.frames.len() > 1 => {
                let from = from % self.frames.len();
                let (tail, bytes) = self.frames.remove(from);
                let to = to % self.frames.len();
                self.frames[to].0.append(tail);
                self.frames[to].1.extend(bytes);
            }
            operation => self.apply_to_one(operation, fill),
        }
    }

    /// Operations that leave the number of frames as it is.
    fn apply_to_one(&mut self, operation: Operation, fill: u8) {
        let (Operation::Slice(at, ..)
        | Operation::Attach(at, ..)
        | Operation::Prepend(at, _)
        | Operation::Overwrite(at)
        | Operation::TrimFront(at, _)
        | Operation::Truncate(at, _)
        | Operation::Extend(at, _)) = operation
        else {
            return;
        };
        if let Operation::Slice(_, a, b) = operation {
            if let Some((chunk, bytes)) = pick(&self.chunks, at) {
                let (a, b) = part(bytes, a, b);
                let slice = (chunk.slice(a..b), bytes[a..b].to_vec());
                self.chunks.push(slice);
            }
            return;
        }
        let count = self.frames.len().max(1);
        let Some((frame, model)) = self.frames.get_mut(at % count) else {
            return;
        };
        match operation {
            Operation::Attach(_, chunk, a, b) => {
                if let Some((chunk, bytes)) = pick(&self.chunks, chunk) {
                    let (a, b) = part(bytes, a, b);
                    assert!(frame.attach(SharedPayload::slice(chunk, a, b)));
                    model.extend(&bytes[a..b]);
                }
            }
            Operation::Prepend(_, count) => {
                if let Some(bytes) = frame.prepend(count.into()) {
                    bytes.fill(fill);
                    model.splice(0..0, vec![fill; count.into()]);
                    frame.write_net_header([fill; 12]);
                }
            }
            Operation::Overwrite(_) => {
                let head = frame.head_mut();
                head.fill(fill);
                let length = head.len();
                model[..length].fill(fill);
                frame.clear_net_header();
            }
            Operation::TrimFront(_, count) => {
                frame.trim_front(count.into());
                model.drain(..usize::from(count).min(model.len()));
            }
            Operation::Truncate(_, length) => {
                frame.truncate(length.into());
                model.truncate(length.into());
            }
            Operation::Extend(_, length) => {
                let bytes = vec![fill; length.into()];
                if frame.extend_from_slice(&bytes) {
                    model.extend(bytes);
                }
            }
            _ => {}
        }
    }

    fn check(&self) {
        for (frame, bytes) in &self.frames {
            assert!(frame.to_vec() == *bytes, "a frame is not as its model");
            assert_eq!(frame.len(), bytes.len());
            assert!(frame.memory() >= bytes.len());
        }
        for (chunk, bytes) in &self.chunks {
            assert!(chunk[..] == bytes[..], "a chunk is not as its model");
        }
    }
}

proptest! {
    /// Whatever is done to the frames that a chunk is attached to, each frame and each chunk keeps
    /// its own bytes; and all memory comes home.
    #[test]
    fn sharing_is_never_seen(operations in prop::collection::vec(operation(), 0..120)) {
        let [pool] = pools();
        let mut world = World { pool, frames: Vec::new(), chunks: Vec::new() };
        for (step, operation) in operations.into_iter().enumerate() {
            world.apply(operation, step as u8 + 1);
            world.check();
        }
        let World { mut pool, frames, chunks } = world;
        drop((frames, chunks));
        pool.collect();
        prop_assert_eq!((pool.available(), pool.available_long(), pool.free_links()), (64, 2, 64));
    }
}
