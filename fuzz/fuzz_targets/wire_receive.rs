//! Frames from the network into one host: nothing panics, every frame is counted once, memory
//! stays within its limits, and nothing is held for ever.

#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use virtroupe_fuzz::frame::{BOUND_PORT, Frame, OUR_MAC};
use virtroupe_fuzz::frame6::NEIGHBOR6;
use virtroupe_fuzz::invariants;
use virtroupe_wire::udp::MAX_PAYLOAD;
use virtroupe_wire::{
    Buffer, Heap, HeapBuffer, Host, HostConfig, Instant, Limits, MacAddr, Neighbor,
};

#[derive(Arbitrary, Debug)]
struct Burst {
    after_milliseconds: u16,
    room: u8,
    frames: Vec<Frame>,
}

fuzz_target!(|bursts: Vec<Burst>| {
    let limits = Limits {
        neighbors: 8,
        reassembly_memory: 64 << 10,
        reassembly_datagrams: 8,
        reassembly_per_source: 3,
        reassembly_fragments: 16,
        socket_queue: 8,
        ..Limits::default()
    };
    let mut host = host(limits.clone());
    let any = ([0, 0, 0, 0], BOUND_PORT).into();
    let socket = host.bind_udp(any).expect("the port is free");
    let any = ([0; 16], BOUND_PORT).into();
    let socket6 = host.bind_udp(any).expect("the port is free");
    let mut now = Instant::ZERO;
    for burst in bursts {
        now = now + Duration::from_millis(burst.after_milliseconds.into());
        let room = usize::from(burst.room);
        host.set_transmit_room(room);
        host.transmit().clear();
        let mut frames: Vec<_> = burst.frames.into_iter().map(memory).collect();
        host.receive(now, &mut frames, &mut Heap);
        assert!(frames.is_empty());
        host.handle_timeout(now, &mut Heap);
        assert!(host.transmit().len() <= room);
        assert!(host.next_deadline().is_none_or(|deadline| deadline > now));
        while host.take_ready_udp().is_some() {}
        for (socket, most) in [(socket, MAX_PAYLOAD), (socket6, MAX_PAYLOAD + 20)] {
            let received = host.udp_received(socket).expect("the socket is open");
            assert!(received.len() <= limits.socket_queue);
            for datagram in received.drain(..) {
                assert!(datagram.payload.len() <= most);
                assert_eq!(datagram.destination.port(), BOUND_PORT);
                assert_eq!(datagram.destination.is_ipv6(), socket == socket6);
            }
            host.udp_errors(socket).expect("the socket is open").clear();
        }
        invariants::check(&host, &limits);
    }
    invariants::settle(&mut host, &limits, now);
});

fn host(limits: Limits) -> Host<HeapBuffer> {
    let net = |text: &str| text.parse().expect("an address and prefix length");
    let config = HostConfig {
        mac: MacAddr(OUR_MAC),
        addresses: ["10.0.0.1/24", "fd00::1/64"].map(net).to_vec(),
        owned: ["10.1.0.0/30", "fd01::/120"].map(net).to_vec(),
        neighbors: vec![Neighbor {
            address: NEIGHBOR6.into(),
            mac: MacAddr([2, 0, 0, 0, 1, 1]),
        }],
        gateway: Some("10.0.0.254".parse().expect("an address")),
        limits,
        ..HostConfig::default()
    };
    Host::new(config, 1).expect("the settings are valid")
}

fn memory(frame: Frame) -> HeapBuffer {
    let (bytes, split) = frame.build();
    match split.and_then(|at| bytes.split_at_checked(at)) {
        None => HeapBuffer::new(&bytes),
        Some((head, tail)) => {
            let mut buffer = HeapBuffer::new(head);
            buffer.append(HeapBuffer::new(tail));
            buffer
        }
    }
}
