//! Random work of the driver and random misdeeds of the device on packed rings, out of plain
//! numbers, so that property tests and fuzzers share them.

use virtroupe_driver::pool::SLOT_STRIDE;
use virtroupe_driver::{Frame, Violation};
use virtroupe_wire::Buffer;

use super::device::{HEADER, RX, TX};
use super::net_header;
use super::operations::{Words, let_go};
use super::packed_harness::{BUFFER, PackedHarness, PackedSetup, Place, USED};

/// Runs the steps until the first violation, then resets the device. Panics when the driver does
/// something that the model did not foretell.
pub fn run(choice: u8, steps: &[Words]) {
    let mut harness = PackedHarness::new(PackedSetup::from_bits(choice));
    for step in steps {
        if drive(&mut harness, *step).is_some() {
            break;
        }
    }
    harness.finish();
}

fn drive(harness: &mut PackedHarness, (kind, a, b, c): Words) -> Option<Violation> {
    let (x, y) = (usize::from(a), usize::from(b));
    match kind % 21 {
        0..=2 => return harness.receive(x % 64),
        3 => return harness.send(x % 24),
        4 => return harness.reclaim(),
        5 => {
            harness.pair.arm(a & 1 != 0);
            harness.observe();
        }
        6 => harness.pair.disarm(),
        7 => let_go(&mut harness.live, x, b & 1 != 0),
        8 => {
            let count = (x % 16).min(harness.live.len());
            let burst = harness.live.drain(..count).collect();
            return harness.transmit(burst);
        }
        9 => {
            let chain = chain(harness, x % 80, y % 300);
            return harness.transmit(chain.into_iter().collect());
        }
        10..=12 => deliver(harness, x % 8, 1 + y % 6, c),
        13 | 14 => complete(harness, x % 16, b & 1 != 0),
        20 => describe(harness, a, b, c),
        _ => misbehave(harness, kind % 21, a, b, c),
    }
    None
}

/// A frame of several segments, some of them on the heap, some empty.
fn chain(harness: &mut PackedHarness, segments: usize, length: usize) -> Option<Frame> {
    let mut head = harness.pair.pool().frame()?;
    head.extend_from_slice(&[1; 14]);
    for number in 0..segments {
        let segment = match number % 3 {
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

/// Frames by the rules, each in `buffers` buffers where they are merged.
pub fn deliver(harness: &mut PackedHarness, count: usize, buffers: usize, length: u16) {
    let buffers = if harness.setup.mergeable { buffers } else { 1 };
    for _ in 0..count {
        let ring = &harness.rings[RX];
        if !harness.readable || ring.available.len() < buffers {
            return;
        }
        let last = HEADER as u32 + u32::from(length) % (BUFFER - HEADER as u32 + 1);
        for number in 0..buffers {
            let ring = &mut harness.rings[RX];
            let chain = ring.available.pop_front().expect("counted");
            let place = ring.honest;
            ring.honest.0 += 1;
            if number == 0 {
                let mut header = [0; HEADER];
                header[10] = buffers as u8;
                harness.hostile.write(chain.offset, &header);
            }
            let whole = number + 1 < buffers;
            harness.write_used(RX, place, chain.id, if whole { BUFFER } else { last });
        }
    }
}

/// A frame in one buffer or two, with a header that is about something like it.
fn describe(harness: &mut PackedHarness, a: u16, b: u16, c: u16) {
    let (mut header, head) = net_header::crafted(a, b, c);
    let buffers = if harness.setup.mergeable {
        1 + a % 2
    } else {
        1
    };
    header[10] = buffers as u8;
    let count = usize::from(buffers);
    if !harness.readable || harness.rings[RX].available.len() < count {
        return;
    }
    for number in 0..count {
        let ring = &mut harness.rings[RX];
        let chain = ring.available.pop_front().expect("counted");
        let place = ring.honest;
        ring.honest.0 += 1;
        let mut length = (HEADER + head.len()) as u32;
        if number == 0 {
            harness.hostile.write(chain.offset, &header);
            harness.hostile.write(chain.offset + HEADER, &head);
            if count > 1 {
                length = BUFFER;
            }
        }
        harness.write_used(RX, place, chain.id, length);
    }
}

/// Reports sent chains by the rules: one by one, or as a batch, which is only right in order.
pub fn complete(harness: &mut PackedHarness, count: usize, batch: bool) {
    if !harness.readable {
        return;
    }
    let ring = &mut harness.rings[TX];
    let count = count.min(ring.available.len());
    let first = ring.honest;
    let taken: Vec<_> = ring.available.drain(..count).collect();
    for chain in &taken {
        let place = harness.rings[TX].honest;
        harness.rings[TX].honest.0 += chain.descriptors;
        if !batch {
            harness.write_used(TX, place, chain.id, 0);
        }
    }
    if let Some(last) = taken.last().filter(|_| batch) {
        harness.write_used(TX, first, last.id, 0);
    }
}

fn misbehave(harness: &mut PackedHarness, kind: u8, a: u16, b: u16, c: u16) {
    let queue = if a & 1 == 0 { RX } else { TX };
    match kind {
        15 | 16 => {
            // A used descriptor near where the driver looks; small ids are the likelier lies.
            let place = Place(harness.rings[queue].used.0 + usize::from(a >> 8 & 7));
            let id = if a & 2 == 0 {
                b % harness.setup.queue_size
            } else {
                b
            };
            let length = if a & 4 == 0 {
                c.into()
            } else {
                BUFFER + 1 - u32::from(c % 3)
            };
            harness.write_used(queue, place, id, length);
        }
        17 => harness.hostile.set_packed_events(queue, b, c),
        18 if a & 0xff == 0 => {
            // What nobody may write: all the driver knows is then its shadow.
            harness.readable = false;
            for index in 0..harness.setup.queue_size {
                let flags = c.rotate_left(index.into());
                harness
                    .hostile
                    .set_packed(queue, index, b ^ index, c.into(), flags | USED);
            }
        }
        _ => {
            // Payload and headers, whoever holds them: the slots fill the memory's end.
            let slots = 128 * SLOT_STRIDE;
            let offset = harness.hostile.memory_length() - slots + usize::from(b) * 4 % (slots - 4);
            if !harness.setup.indirect {
                harness.hostile.write(offset, &[a as u8, c as u8, 0xff, 0]);
            }
            harness.hostile.interrupt(queue);
        }
    }
}
