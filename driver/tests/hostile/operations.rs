//! Random work of the driver and random misdeeds of the device, out of plain numbers, so that
//! property tests and fuzzers share them.

use virtroupe_driver::{Frame, Violation, drop_burst};
use virtroupe_wire::Buffer;

use super::device::{RX, TX};
use super::harness::{BUFFER, Harness, Setup};
use super::net_header;

/// One step: which, and three numbers whose meaning depends on it.
pub type Words = (u8, u16, u16, u16);

/// Runs the steps until the first violation, then resets the device. Panics when the driver does
/// something that the model did not foretell.
pub fn run(choice: u8, steps: &[Words]) {
    let mut harness = Harness::new(Setup {
        event_idx: choice & 1 != 0,
        in_order: choice & 2 != 0,
        described: choice & 8 != 0,
        queue_size: 16 << ((choice >> 2) & 1),
    });
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
        13..=15 => deliver(harness, x % 8, y % 2037),
        16 | 17 => complete(harness, x % 16, b & 1 != 0),
        24 => describe(harness, a, b, c),
        _ => misbehave(harness, kind % 25, a, b, c),
    }
    None
}

/// Drops the first `count` frames, one by one or as a burst.
pub fn let_go(frames: &mut Vec<Frame>, count: usize, is_burst: bool) {
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

/// A frame of several segments, some of them on the heap, some empty, some shared.
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
                let mut segment = harness.pair.pool().frame()?;
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

fn deliver(harness: &mut Harness, count: usize, length: usize) {
    for _ in 0..count {
        if harness.readable {
            harness.hostile.deliver(&vec![0xab; length]);
        }
    }
}

/// A frame with a header that is about something like it.
fn describe(harness: &mut Harness, a: u16, b: u16, c: u16) {
    if harness.readable {
        let (header, frame) = net_header::crafted(a, b, c);
        harness.hostile.deliver_with(&header, &frame);
    }
}

/// Reports sent chains by the rules: one by one, or as a batch, which is only right in order.
fn complete(harness: &mut Harness, count: usize, batch: bool) {
    if !harness.readable {
        return;
    }
    let taken: Vec<_> = (0..count).map_while(|_| harness.hostile.take(TX)).collect();
    if batch {
        if let Some(last) = taken.last() {
            let index = harness.hostile.used_index(TX);
            let end = index.wrapping_add(taken.len() as u16);
            harness.hostile.set_used_entry(TX, index, (*last).into(), 0);
            harness.hostile.set_used_index(TX, end);
        }
    } else {
        for id in taken {
            harness.hostile.use_buffer(TX, id.into(), 0);
        }
    }
}

fn misbehave(harness: &mut Harness, kind: u8, a: u16, b: u16, c: u16) {
    let queue = if a & 1 == 0 { RX } else { TX };
    let hostile = &harness.hostile;
    let index = hostile.used_index(queue);
    match kind {
        // Mostly small steps: large ones are all the same violation.
        18 => hostile.set_used_index(
            queue,
            index.wrapping_add(if a & 2 == 0 { b % 32 } else { b }),
        ),
        19 => {
            let id = u32::from(b) | u32::from(a & 0x8000) << 8;
            let id = if a & 4 == 0 { id % 32 } else { id };
            let length = if a & 2 == 0 {
                c.into()
            } else {
                BUFFER + 1 - u32::from(c % 3)
            };
            hostile.set_used_entry(queue, index.wrapping_sub(a >> 8 & 15), id, length);
        }
        20 => {
            hostile.set_available_event(queue, b);
            hostile.set_used_flags(queue, c);
        }
        21 => hostile.spoil_descriptor(queue, b, c as u8),
        22 => {
            hostile.set_available_word(queue, b, c);
            harness.readable = false;
        }
        _ => {
            // Payload and headers, whoever holds them: the slots fill the memory's end.
            let slots = 128 * 2240;
            let offset = hostile.memory_length() - slots + usize::from(b) * 4 % (slots - 4);
            hostile.write(offset, &[a as u8, c as u8, 0xff, 0]);
            hostile.interrupt(queue);
        }
    }
}
