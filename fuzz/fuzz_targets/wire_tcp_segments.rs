//! Segments from the network into one TCP engine, near to what it expects: nothing panics, every
//! segment is counted once, tables stay within their limits, and nothing is held for ever.

#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use virtroupe_fuzz::segment::{Crafted, near};
use virtroupe_fuzz::tcp::{Engine, check, config, settle};
use virtroupe_wire::tcp::{
    ConnectionId, Flow, ListenOptions, Outgoing, Segment, TcpEvent, TcpHeader, TcpIcmp,
    TcpIcmpKind, TcpOptions,
};
use virtroupe_wire::{Buffer, Heap, HeapBuffer, Instant};

#[derive(Arbitrary, Debug)]
enum Step {
    /// Bytes as they are, with the right checksum or not.
    Bytes(Vec<u8>, bool),
    Segment(Crafted),
    Icmp {
        port: u8,
        sequence: i16,
        mtu: u16,
    },
    Pass(u16),
    Write(u8, u16),
    Read(u8),
    Finish(u8),
    Close(u8),
    Connect,
}

struct Bed {
    engine: Engine,
    now: Instant,
    /// What the engine last sent to each port.
    last: [TcpHeader; 4],
    ids: Vec<ConnectionId>,
}

fuzz_target!(|steps: Vec<Step>| {
    let mut engine = Engine::new(config(), 1);
    let options = ListenOptions {
        backlog: 2,
        connection: TcpOptions {
            receive_buffer: 16 << 10,
            ..TcpOptions::default()
        },
    };
    let listener = engine.listen(local(), options).expect("the port is free");
    let mut bed = Bed {
        engine,
        now: Instant::from_nanos(1_000_000_000),
        last: [TcpHeader::default(); 4],
        ids: Vec::new(),
    };
    for step in steps {
        bed.step(step);
        while let Some(event) = bed.engine.poll_event() {
            if event == TcpEvent::Acceptable(listener) {
                while let Some(id) = bed.engine.accept(bed.now, listener) {
                    bed.ids.push(id);
                }
            }
        }
        bed.transmit();
        check(&bed.engine);
    }
    let Bed {
        mut engine,
        now,
        ids,
        ..
    } = bed;
    ids.into_iter().for_each(|id| engine.abort(now, id));
    engine.close_listener(now, listener);
    settle(&mut engine, now);
});

fn local() -> std::net::SocketAddr {
    ([10, 0, 0, 1], 80).into()
}

fn flow(port: u8) -> Flow {
    Flow::new(local(), ([10, 0, 0, 2], 9000 + u16::from(port % 4)).into())
}

impl Bed {
    fn step(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Bytes(bytes, verify) => {
                let (source, destination) = (flow(0).remote().ip(), local().ip());
                let packet = HeapBuffer::new(&bytes);
                if let Ok(segment) = Segment::parse(source, destination, 3, packet, verify) {
                    self.engine.receive_one(now, segment);
                }
            }
            Step::Segment(crafted) => self.receive(&crafted),
            Step::Icmp {
                port,
                sequence,
                mtu,
            } => {
                let last = &self.last[usize::from(port % 4)];
                let icmp = TcpIcmp {
                    flow: flow(port),
                    sequence: near(last.sequence, sequence),
                    kind: match mtu {
                        0 => TcpIcmpKind::Refused,
                        1 => TcpIcmpKind::Unreachable,
                        2 => TcpIcmpKind::NoNeighbor,
                        mtu => TcpIcmpKind::TooBig { mtu },
                    },
                };
                self.engine.handle_icmp(now, &icmp);
            }
            Step::Pass(milliseconds) => {
                self.now = now + Duration::from_millis(milliseconds.into());
                self.engine.handle_timeout(self.now);
                assert!(
                    self.engine
                        .next_deadline()
                        .is_none_or(|next| next > self.now)
                );
            }
            Step::Write(which, length) => {
                if let Some(id) = self.id(which) {
                    let chunk = Bytes::from(vec![0; length.into()]);
                    let _ = self.engine.write(now, id, chunk);
                }
            }
            Step::Read(which) => {
                if let Some(id) = self.id(which) {
                    while let Some(payload) = self.engine.read(now, id) {
                        assert!(!payload.is_empty());
                    }
                }
            }
            Step::Finish(which) => {
                if let Some(id) = self.id(which) {
                    self.engine.finish(now, id);
                }
            }
            Step::Close(which) => {
                if let Some(id) = self.id(which) {
                    self.engine.close(now, id);
                }
            }
            Step::Connect => {
                let remote = flow(0).remote();
                let options = TcpOptions::default();
                let from = ([10, 0, 0, 1], 80).into();
                if let Ok(id) = self.engine.connect(now, from, remote, options, |_| true) {
                    self.ids.push(id);
                }
            }
        }
    }

    fn id(&self, which: u8) -> Option<ConnectionId> {
        let count = self.ids.len().max(1);
        self.ids.get(usize::from(which) % count).copied()
    }

    fn receive(&mut self, crafted: &Crafted) {
        let last = self.last[usize::from(crafted.port % 4)];
        let flow = flow(crafted.port);
        let header = crafted.header(&flow, &last);
        let payload = crafted.payload();
        self.engine.receive_one(
            self.now,
            Segment {
                flow,
                header,
                payload: HeapBuffer::new(&payload),
                ecn: crafted.ecn & 3,
                merged: crafted.merged.into(),
            },
        );
    }

    fn transmit(&mut self) {
        let mut outgoing = Outgoing::new();
        for _ in 0..10_000 {
            if !self.engine.poll_transmit(self.now, &mut outgoing) {
                return;
            }
            let port = outgoing.flow.remote_port();
            if let Some(last) = self.last.get_mut(usize::from(port.wrapping_sub(9000))) {
                *last = outgoing.header;
                last.sequence = last.sequence + outgoing.payload_length() as u32;
            }
            let packet: Option<HeapBuffer> = outgoing.take_packet(&mut Heap);
            let packet = packet.expect("there is memory");
            let (source, destination) = outgoing.flow.addresses();
            let read = Segment::parse(source, destination, 0, packet, true);
            assert_eq!(read.expect("it is well formed").header, outgoing.header);
        }
        panic!("the engine sends without end");
    }
}
