//! Random work of the driver and random misdeeds of the device, out of plain numbers, so that
//! property tests and fuzzers share them.

use virtroupe_driver::pool::{LONG_SLOT, SLOT_STRIDE};
use virtroupe_driver::{Frame, Violation, drop_burst};
use virtroupe_wire::Buffer;

use super::device::{HEADER, RX, TX};
use super::harness::Harness;
use super::net_header;
use super::rings::{BUFFER, USED};
use super::setup::Setup;

/// One step: which, and three numbers whose meaning depends on it.
pub type Words = (u8, u16, u16, u16);

/// Runs the steps until the first violation, then resets the device. Panics when the driver does
/// something that the model did not foretell.
pub fn run(choice: u8, steps: &[Words]) {
    let mut harness = Harness::new(Setup::from_bits(choice));
    for step in steps {
        if drive(&mut harness, *step).is_some() {
            break;
        }
    }
    harness.finish();
}

fn drive(harness: &mut Harness, (kind, a, b, c): Words) -> Option<Violation> {
    let (x, y) = (usize::from(a), usize::from(b));
    match kind % 25 {
        0..=2 => return harness.receive(x % 64),
        3 => return harness.send(x % 24),
        4 => return harness.reclaim(),
        5 => {
            harness.pair.arm(a & 1 != 0);
            harness.observe();
        }
        6 => harness.pair.disarm(),
        7 => let_go(&mut harness.live, x, b & 1 != 0),
        8 => elsewhere(harness, x),
        9 => {
            let count = (x % 16).min(harness.live.len());
            let burst = harness.live.drain(..count).collect();
            return harness.transmit(burst);
        }
        10 => {
            let chain = chain(harness, x % 80, y % 300);
            return harness.transmit(chain.into_iter().collect());
        }
        11 => freeze(harness, x),
        12 => change(harness, x, y),
        13..=15 => deliver(harness, x % 8, 1 + y % 6, c),
        16 | 17 => harness.complete(x % 16, b & 1 != 0),
        18 => describe(harness, a, b, c),
        _ => misbehave(harness, kind % 25, a, b, c),
    }
    None
}

/// Drops the first `count` frames, one by one or as a burst.
fn let_go(frames: &mut Vec<Frame>, count: usize, is_burst: bool) {
    let count = count.min(frames.len());
    let mut gone: Vec<_> = frames.drain(..count).collect();
    if is_burst {
        drop_burst(&mut gone);
        assert!(gone.is_empty());
    }
}

fn elsewhere(harness: &mut Harness, count: usize) {
    let mut frames: Vec<_> = harness
        .live
        .drain(..(count % 32).min(harness.live.len()))
        .collect();
    std::thread::spawn(move || drop_burst(&mut frames))
        .join()
        .expect("dropped");
}

/// A frame of several segments, some of them on the heap, some empty, some shared, some in long slots.
fn chain(harness: &mut Harness, segments: usize, length: usize) -> Option<Frame> {
    let mut head = harness.pair.pool().frame()?;
    head.extend_from_slice(&[1; 14]);
    for number in 0..segments {
        let segment = match number % 4 {
            3 => {
                harness.attach_chunk(&mut head);
                continue;
            }
            0 => Frame::on_heap(&vec![number as u8; length]),
            1 => Frame::on_heap(&[]),
            _ => {
                let pool = harness.pair.pool();
                let long = (number % 8 == 6).then(|| pool.long_frame()).flatten();
                let mut segment = long.or_else(|| pool.frame())?;
                segment.extend_from_slice(&vec![number as u8; length]);
                segment
            }
        };
        head.append(segment);
    }
    Some(head)
}

fn freeze(harness: &mut Harness, choice: usize) {
    if choice.is_multiple_of(3) {
        harness.chunks.clear();
    } else if let Some(frame) = harness.live.pop() {
        let chunk = frame.freeze();
        let part = chunk.slice(1..choice);
        assert!(part.len() <= chunk.len());
        harness.chunks.push(chunk);
    }
}

/// The application reads and writes what it holds.
fn change(harness: &mut Harness, choice: usize, count: usize) {
    let Some(frame) = harness.live.last_mut() else {
        return;
    };
    let length = frame.len();
    match choice % 4 {
        0 => frame.trim_front(count),
        1 => frame.truncate(count),
        2 => drop(frame.prepend(count % 80).map(|front| front.fill(7))),
        _ => drop(frame.extend_from_slice(&vec![9; count % 2200])),
    }
    frame.head_mut().fill(5);
    assert_eq!(frame.to_vec().len(), frame.len());
    assert!(frame.len() <= length + 2200);
}

/// Frames by the rules, each in `buffers` buffers where they are merged.
fn deliver(harness: &mut Harness, count: usize, buffers: usize, length: u16) {
    let buffers = if harness.setup.mergeable { buffers } else { 1 };
    let mut header = [0; HEADER];
    header[10] = buffers as u8;
    let last = HEADER as u32 + u32::from(length) % (BUFFER - HEADER as u32 + 1);
    for _ in 0..count {
        harness.deliver_merged(&header, &[], buffers, last);
    }
}

/// A frame in one buffer or two, with a header that is about something like it.
fn describe(harness: &mut Harness, a: u16, b: u16, c: u16) {
    let (mut header, head) = net_header::crafted(a, b, c);
    let buffers = match harness.setup.mergeable {
        true => 1 + a % 2,
        false => 1,
    };
    header[10] = buffers as u8;
    let last = (HEADER + head.len()) as u32;
    harness.deliver_merged(&header, &head, buffers.into(), last);
}

fn misbehave(harness: &mut Harness, kind: u8, a: u16, b: u16, c: u16) {
    let queue = if a & 1 == 0 { RX } else { TX };
    match kind {
        19 | 20 => lie_of_used(harness, queue, a, b, c),
        21 => harness.disturb_events(queue, b, c),
        22 => harness.spoil_descriptor(queue, b, c as u8),
        23 => spoil_what_is_available(harness, queue, a, b, c),
        _ => {
            // Payload and headers, whoever holds them: the slots of both kinds fill the memory's
            // end. Not tables, which the model reads after the driver.
            let (count, _) = harness.pair.pool_level();
            let slots = count * SLOT_STRIDE + count / 32 * LONG_SLOT;
            let offset =
                harness.hostile.memory_length() - slots + usize::from(b) * 24 % (slots - 4);
            if !harness.setup.indirect {
                harness.hostile.write(offset, &[a as u8, c as u8, 0xff, 0]);
            }
            harness.hostile.interrupt(queue);
        }
    }
}

/// A used entry near where the driver looks; small ids are the likelier lies.
fn lie_of_used(harness: &mut Harness, queue: usize, a: u16, b: u16, c: u16) {
    let place = harness.rings[queue].used.0 + usize::from(a >> 8 & 7);
    let id = match a & 2 == 0 {
        true => u32::from(b % harness.setup.queue_size),
        false => u32::from(b) | u32::from(a & 0x8000) << 8,
    };
    let length = match a & 4 == 0 {
        true => c.into(),
        false => BUFFER + 1 - u32::from(c % 3),
    };
    let hostile = &harness.hostile;
    // The index of a split ring lies too: mostly a little, as large steps are all the same violation.
    let index = (!harness.setup.packed).then(|| hostile.used_index(queue));
    harness.write_used(queue, place, id, length);
    if let Some(index) = index {
        let ahead = match a & 0x78 {
            0 => b,
            0x08 => b % 32,
            _ => 0,
        };
        hostile.set_used_index(queue, index.wrapping_add(ahead));
    }
}

/// What nobody may write while it is available: all the driver knows is then its shadow.
fn spoil_what_is_available(harness: &mut Harness, queue: usize, a: u16, b: u16, c: u16) {
    if a & 0xfe != 0 {
        return;
    }
    harness.readable = false;
    if !harness.setup.packed {
        harness.hostile.set_available_word(queue, b, c);
        return;
    }
    for index in 0..harness.setup.queue_size {
        let flags = c.rotate_left(index.into()) | USED;
        let hostile = &harness.hostile;
        hostile.set_packed(queue, index, b ^ index, c.into(), flags);
    }
}
