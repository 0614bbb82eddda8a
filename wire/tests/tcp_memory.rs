//! Memory of the TCP engine: what connections take, and that a stream does not allocate.
//!
//! One test, since all of the process is measured.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use virtroupe_wire::tcp::{
    Flow, ListenOptions, Outgoing, Segment, TcpConfig, TcpEngine, TcpOptions,
};
use virtroupe_wire::{Buffer, Instant};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Packet memory without memory: only its length counts.
#[derive(Debug)]
struct Hollow {
    length: usize,
}

static ZEROS: [u8; 65_536] = [0; 65_536];

impl Buffer for Hollow {
    fn head(&self) -> &[u8] {
        &ZEROS[..self.length]
    }

    fn head_mut(&mut self) -> &mut [u8] {
        &mut []
    }

    fn len(&self) -> usize {
        self.length
    }

    fn headroom(&self) -> usize {
        0
    }

    fn prepend(&mut self, _count: usize) -> Option<&mut [u8]> {
        None
    }

    fn trim_front(&mut self, count: usize) {
        self.length = self.length.saturating_sub(count);
    }

    fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    fn extend_from_slice(&mut self, _bytes: &[u8]) -> bool {
        false
    }

    fn append(&mut self, tail: Self) {
        self.length += tail.length;
    }

    fn is_chain(&self) -> bool {
        false
    }

    fn for_each_segment(&self, mut visit: impl FnMut(&[u8])) {
        visit(self.head());
    }
}

type Engine = TcpEngine<Hollow, Bytes>;

/// Moves everything that an engine sends into the other.
fn carry(now: Instant, from: &mut Engine, to: &mut Engine, outgoing: &mut Outgoing<Bytes>) {
    while from.poll_transmit(now, outgoing) {
        let flow = Flow::new(outgoing.flow.remote(), outgoing.flow.local());
        let length = outgoing.payload_length();
        let merged = match outgoing.segment_size {
            0 => 1,
            size => length.div_ceil(size.into()) as u16,
        };
        to.receive_one(
            now,
            Segment {
                flow,
                header: outgoing.header,
                payload: Hollow { length },
                ecn: 0,
                merged,
            },
        );
    }
}

fn at(host: u8, port: u16) -> SocketAddr {
    ([10, 0, 0, host], port).into()
}

fn pair() -> [Engine; 2] {
    [1, 2].map(|seed| Engine::new(TcpConfig::default(), seed))
}

#[test]
fn memory() {
    let profiler = dhat::Profiler::builder().testing().build();
    a_stream_does_not_allocate();
    idle_connections_are_small();
    drop(profiler);
}

fn a_stream_does_not_allocate() {
    let [mut client, mut server] = pair();
    client.set_most_payload(60_000);
    let mut outgoing = Outgoing::new();
    let mut now = Instant::from_nanos(1_000_000_000);
    let listener = server
        .listen(at(2, 80), ListenOptions::default())
        .expect("it is free");
    let options = TcpOptions::default();
    let id = client
        .connect(now, at(1, 0), at(2, 80), options, |_| true)
        .expect("a port");
    let chunk = Bytes::from_static(&ZEROS);
    let (mut accepted, mut read) = (None, 0);
    let mut blocks = 0;
    for round in 0..20_000 {
        if round == 10_000 {
            blocks = dhat::HeapStats::get().total_blocks;
            read = 0;
        }
        while client.room(id) > 0 {
            client.write(now, id, chunk.clone()).expect("there is room");
        }
        carry(now, &mut client, &mut server, &mut outgoing);
        accepted = accepted.or_else(|| server.accept(now, listener));
        if let Some(id) = accepted {
            while let Some(payload) = server.read(now, id) {
                read += payload.len();
            }
        }
        now = now + Duration::from_micros(50);
        carry(now, &mut server, &mut client, &mut outgoing);
        now = now + Duration::from_micros(50);
        client.handle_timeout(now);
        server.handle_timeout(now);
        while client.poll_event().is_some() || server.poll_event().is_some() {}
    }
    let allocated = dhat::HeapStats::get().total_blocks - blocks;
    println!("{} bytes in 10 000 rounds, {allocated} allocations", read);
    assert!(read > 10_000 * 60_000, "{read}");
    assert_eq!(allocated, 0);
}

fn idle_connections_are_small() {
    const CONNECTIONS: usize = 20_000;
    let before = dhat::HeapStats::get().curr_bytes;
    let [mut client, mut server] = pair();
    let mut outgoing = Outgoing::new();
    let mut now = Instant::from_nanos(1_000_000_000);
    let options = ListenOptions {
        backlog: 2 * CONNECTIONS,
        ..ListenOptions::default()
    };
    let listener = server.listen(at(2, 80), options).expect("it is free");
    let mut clients = Vec::with_capacity(CONNECTIONS);
    let mut servers = Vec::with_capacity(CONNECTIONS);
    let ids = dhat::HeapStats::get().curr_bytes - before;
    let connect = |client: &mut Engine, now| {
        let options = TcpOptions::default();
        client
            .connect(now, at(1, 0), at(2, 80), options, |_| true)
            .expect("a port")
    };
    for _ in 0..CONNECTIONS {
        let id = connect(&mut client, now);
        client
            .write(now, id, Bytes::from_static(b"request"))
            .expect("there is room");
        clients.push(id);
        for _ in 0..2 {
            carry(now, &mut client, &mut server, &mut outgoing);
            now = now + Duration::from_micros(20);
            carry(now, &mut server, &mut client, &mut outgoing);
        }
        let id = server.accept(now, listener).expect("it is open");
        assert!(server.read(now, id).is_some());
        server
            .write(now, id, Bytes::from_static(b"reply"))
            .expect("there is room");
        carry(now, &mut server, &mut client, &mut outgoing);
        while client.poll_event().is_some() || server.poll_event().is_some() {}
        let id = clients.last().expect("there is one");
        assert!(client.read(now, *id).is_some());
        servers.push(now);
    }
    for _ in 0..30 {
        now = now + Duration::from_millis(100);
        client.handle_timeout(now);
        server.handle_timeout(now);
        carry(now, &mut client, &mut server, &mut outgoing);
        carry(now, &mut server, &mut client, &mut outgoing);
    }
    assert_eq!(
        (client.usage().connections, server.usage().connections),
        (CONNECTIONS, CONNECTIONS)
    );
    let held = dhat::HeapStats::get().curr_bytes - before - ids;
    // Settings are shared: by all of a listener, and by all that were asked for with the same.
    let each = held / (2 * CONNECTIONS);
    println!("{each} bytes for an idle connection, mean of both sides");
    assert!(each <= 1024, "{each}");

    for id in clients {
        client.abort(now, id);
    }
    carry(now, &mut client, &mut server, &mut outgoing);
    assert_eq!(client.usage().connections, 0);
    drop((client, server));
}
