//! Operations on two TCP engines and the network between them: what is read is what was written,
//! and when all have let go, nothing is left.

#![no_main]

use std::collections::VecDeque;
use std::time::Duration;

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use virtroupe_fuzz::tcp::{Engine, check, config, settle};
use virtroupe_wire::tcp::{ConnectionId, ListenOptions, Outgoing, Segment, TcpOptions, WriteError};
use virtroupe_wire::{Buffer, Heap, HeapBuffer, Instant};

#[derive(Arbitrary, Debug)]
enum Step {
    Connect(u8),
    Write(bool, u8, u16),
    Read(bool, u8),
    Finish(bool, u8),
    Close(bool, u8),
    Abort(bool, u8),
    /// Delivers some packets, or one of those behind the first.
    Deliver(bool, u8),
    Reorder(bool, u8),
    Lose(bool, u8),
    Duplicate(bool, u8),
    Pass(u16),
    Tso(bool, u16),
}

/// One end of a connection, and how far its streams are.
struct End {
    id: ConnectionId,
    written: u64,
    read: u64,
}

struct Side {
    engine: Engine,
    ends: Vec<End>,
    /// Packets for this side.
    arriving: VecDeque<Vec<u8>>,
}

fuzz_target!(|steps: Vec<Step>| {
    let mut now = Instant::from_nanos(1_000_000_000);
    let mut sides = [1, 2].map(|seed| Side {
        engine: Engine::new(config(), seed),
        ends: Vec::new(),
        arriving: VecDeque::new(),
    });
    let options = ListenOptions {
        backlog: 3,
        ..ListenOptions::default()
    };
    let listener = sides[1]
        .engine
        .listen(address(1), options)
        .expect("the port is free");
    for step in steps {
        match step {
            Step::Pass(milliseconds) => now = now + Duration::from_millis(milliseconds.into()),
            step => act(&mut sides, now, step),
        }
        for side in &mut sides {
            side.engine.handle_timeout(now);
        }
        while let Some(id) = sides[1].engine.accept(now, listener) {
            sides[1].ends.push(End {
                id,
                written: 0,
                read: 0,
            });
        }
        transmit(&mut sides, now);
        for side in &mut sides {
            while side.engine.poll_event().is_some() {}
            check(&side.engine);
        }
    }
    sides[1].engine.close_listener(now, listener);
    for mut side in sides {
        side.ends
            .iter()
            .for_each(|end| side.engine.abort(now, end.id));
        settle(&mut side.engine, now);
    }
});

fn address(side: u8) -> std::net::SocketAddr {
    ([10, 0, 0, side], if side == 1 { 80 } else { 0 }).into()
}

fn act(sides: &mut [Side; 2], now: Instant, step: Step) {
    match step {
        Step::Connect(kind) => {
            let options = TcpOptions {
                sack: kind & 1 == 0,
                timestamps: kind & 2 == 0,
                nodelay: kind & 4 == 0,
                announce_user_timeout: kind & 8 == 0,
                receive_buffer: 4096 << (kind >> 4 & 7),
                ..TcpOptions::default()
            };
            let engine = &mut sides[0].engine;
            if let Ok(id) = engine.connect(now, address(0), address(1), options, |_| true) {
                sides[0].ends.push(End {
                    id,
                    written: 0,
                    read: 0,
                });
            }
        }
        Step::Write(side, which, length) => sides[usize::from(side)].write(now, which, length),
        Step::Read(side, which) => read(sides, now, usize::from(side), which),
        Step::Finish(side, which) => {
            let side = &mut sides[usize::from(side)];
            if let Some(index) = side.index(which) {
                side.engine.finish(now, side.ends[index].id);
            }
        }
        Step::Close(side, which) => {
            let side = &mut sides[usize::from(side)];
            if let Some(index) = side.index(which) {
                side.engine.close(now, side.ends.remove(index).id);
            }
        }
        Step::Abort(side, which) => {
            let side = &mut sides[usize::from(side)];
            if let Some(index) = side.index(which) {
                side.engine.abort(now, side.ends.remove(index).id);
            }
        }
        Step::Deliver(side, count) => {
            for _ in 0..=count {
                sides[usize::from(side)].deliver(now, 0);
            }
        }
        Step::Reorder(side, which) => sides[usize::from(side)].deliver(now, which.into()),
        Step::Lose(side, which) => {
            sides[usize::from(side)].arriving.remove(which.into());
        }
        Step::Duplicate(side, which) => {
            let arriving = &mut sides[usize::from(side)].arriving;
            if let Some(packet) = arriving.get(usize::from(which)).cloned() {
                arriving.push_front(packet);
            }
        }
        Step::Tso(side, most) => sides[usize::from(side)]
            .engine
            .set_most_payload(most.into()),
        Step::Pass(_) => {}
    }
}

/// The byte at `offset` of every stream.
fn byte(offset: u64) -> u8 {
    (offset % 251) as u8
}

fn read(sides: &mut [Side; 2], now: Instant, side: usize, which: u8) {
    let side = &mut sides[side];
    let Some(index) = side.index(which) else {
        return;
    };
    let end = &mut side.ends[index];
    while let Some(payload) = side.engine.read(now, end.id) {
        for read in payload.to_vec() {
            assert_eq!(read, byte(end.read));
            end.read += 1;
        }
    }
}

impl Side {
    fn index(&self, which: u8) -> Option<usize> {
        let count = self.ends.len();
        (count > 0).then(|| usize::from(which) % count)
    }

    fn write(&mut self, now: Instant, which: u8, length: u16) {
        let Some(index) = self.index(which) else {
            return;
        };
        let end = &mut self.ends[index];
        let range = end.written..end.written + u64::from(length);
        let chunk: Bytes = range.map(byte).collect::<Vec<u8>>().into();
        match self.engine.write(now, end.id, chunk) {
            Ok(()) => end.written += u64::from(length),
            Err((WriteError::Gone, _)) => panic!("the end is still there"),
            Err(_) => {}
        }
    }

    fn deliver(&mut self, now: Instant, which: usize) {
        let Some(packet) = self.arriving.remove(which) else {
            return;
        };
        let (source, packet) = packet.split_at(1);
        let (source, destination) = (address(source[0]).ip(), address(1 - source[0]).ip());
        let packet = HeapBuffer::new(packet);
        let segment = Segment::parse(source, destination, 0, packet, true);
        self.engine
            .receive_one(now, segment.expect("it is well formed"));
    }
}

fn transmit(sides: &mut [Side; 2], now: Instant) {
    let mut outgoing = Outgoing::new();
    for from in 0..2_usize {
        while sides[from].engine.poll_transmit(now, &mut outgoing) {
            // What a device would split arrives as one, as if it had been merged again.
            outgoing.segment_size = 0;
            let packet: Option<HeapBuffer> = outgoing.take_packet(&mut Heap);
            let mut bytes = vec![from as u8];
            bytes.extend(packet.expect("there is memory").to_vec());
            let arriving = &mut sides[1 - from].arriving;
            if arriving.len() < 256 {
                arriving.push_back(bytes);
            }
        }
    }
}
