//! Frames and bindings into placement: every frame goes to a cpu that exists, a socket that is bound
//! on some cpus only is found on one of them, and a whole packet goes where its frame goes.

#![no_main]

use std::net::SocketAddr;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use virtroupe_fuzz::frame::Frame;
use virtroupe_wire::placement::{
    Binding, Buckets, Class, Flow, Place, Placement, Ties, Toeplitz, Transport,
};

#[derive(Arbitrary, Debug)]
enum Operation {
    Frame(Frame),
    Bytes(Vec<u8>),
    Bind(Local, u16),
    Unbind(Local, u16),
    Flow(SocketAddr, SocketAddr),
}

#[derive(Arbitrary, Debug)]
struct Local {
    is_tcp: bool,
    address: SocketAddr,
}

#[derive(Arbitrary, Debug)]
struct Input {
    weights: Vec<u32>,
    queues: u16,
    seed: u64,
    operations: Vec<Operation>,
}

fuzz_target!(|input: Input| {
    let Ok(buckets) = Buckets::new(&input.weights) else {
        return;
    };
    let Ok(ties) = Ties::new(input.queues, buckets.cpus()) else {
        return;
    };
    let cpus = buckets.cpus();
    let key = Toeplitz::from_seed(input.seed);
    let mut placement = Placement::new(key, buckets, ties).expect("both are for the same cpus");
    for operation in input.operations {
        match operation {
            Operation::Frame(frame) => check(&placement, &frame.build().0),
            Operation::Bytes(bytes) => check(&placement, &bytes),
            Operation::Bind(local, cpu) => {
                let result = placement.exceptions_mut().bind(binding(&local), cpu);
                assert_eq!(result.is_ok(), cpu < cpus);
            }
            Operation::Unbind(local, cpu) => {
                placement.exceptions_mut().unbind(binding(&local), cpu)
            }
            Operation::Flow(peer, local) => check_flow(&placement, peer, local),
        }
    }
});

fn binding(local: &Local) -> Binding {
    Binding {
        transport: if local.is_tcp {
            Transport::Tcp
        } else {
            Transport::Udp
        },
        port: local.address.port(),
        address: local.address.ip(),
    }
}

fn check(placement: &Placement, frame: &[u8]) {
    let place = placement.place(frame);
    match (place, Class::of_frame(frame)) {
        (Place::Owner(cpu), Class::Flow(flow) | Class::Error(flow))
        | (Place::Group(cpu), Class::Group(flow)) => {
            assert!(cpu < placement.buckets().cpus());
            assert_eq!(cpu, placement.owner(&flow));
        }
        (Place::NeighborSolicitation, Class::NeighborSolicitation)
        | (Place::NeighborAdvertisement, Class::NeighborAdvertisement)
        | (Place::Unclassified, Class::Unclassified) => {}
        (place, class) => panic!("{class:?} is placed as {place:?}"),
    }
    if let (Place::Owner(_), Some(packet)) = (place, frame.get(14..)) {
        assert_eq!(placement.place_packet(packet), place);
    }
}

fn check_flow(placement: &Placement, peer: SocketAddr, local: SocketAddr) {
    let Some(flow) = Flow::received_from(Transport::Udp, peer, local) else {
        assert_ne!(peer.is_ipv4(), local.is_ipv4());
        return;
    };
    let own = Binding {
        transport: Transport::Udp,
        port: local.port(),
        address: local.ip(),
    };
    let bound = placement.exceptions().bound_on(own);
    assert!(bound.is_empty() || bound.contains(&placement.owner(&flow)));
}
