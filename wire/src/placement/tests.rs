use std::net::SocketAddr;
use std::net::{IpAddr, Ipv4Addr};

use etherparse::PacketBuilder;
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::*;

/// A frame from `peer` to `local` with `payload`.
fn frame(transport: Transport, peer: SocketAddr, local: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
    let network = match (peer, local) {
        (SocketAddr::V4(peer), SocketAddr::V4(local)) => {
            link.ipv4(peer.ip().octets(), local.ip().octets(), 64)
        }
        (SocketAddr::V6(peer), SocketAddr::V6(local)) => {
            link.ipv6(peer.ip().octets(), local.ip().octets(), 64)
        }
        _ => panic!("of different versions"),
    };
    let (from, to) = (peer.port(), local.port());
    match transport {
        Transport::Udp => network.udp(from, to).write(&mut frame, payload).unwrap(),
        Transport::Tcp => network
            .tcp(from, to, 1, 9)
            .write(&mut frame, payload)
            .unwrap(),
    }
    frame
}

/// The fragments of an IPv4 `frame`, 8 bytes of payload in each.
fn fragments(frame: &[u8]) -> Vec<Vec<u8>> {
    let (headers, payload) = frame.split_at(34);
    let count = payload.len().div_ceil(8);
    let part = |(index, payload): (usize, &[u8])| {
        let mut fragment = [headers, payload].concat();
        let field = index as u16 | u16::from(index + 1 < count) << 13;
        fragment[20..22].copy_from_slice(&field.to_be_bytes());
        fragment
    };
    payload.chunks(8).enumerate().map(part).collect()
}

/// What a router answers to the IPv4 frame `sent`.
fn error_about(sent: &[u8]) -> Vec<u8> {
    let packet = &sent[14..];
    let local = *packet[12..].first_chunk().unwrap();
    let body = [&[3, 1, 0, 0, 0, 0, 0, 0], packet].concat();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1])
        .ipv4([192, 0, 2, 1], local, 64)
        .write(&mut frame, etherparse::IpNumber::ICMP, &body)
        .unwrap();
    frame
}

fn transport() -> impl Strategy<Value = Transport> {
    prop_oneof![Just(Transport::Udp), Just(Transport::Tcp)]
}

/// A byte; often one that means something in a header: a flag, a protocol, a version, a group.
fn value() -> impl Strategy<Value = u8> {
    let telling = vec![
        0, 1, 6, 8, 17, 0x20, 0x40, 0x45, 0x46, 0x60, 0xdd, 0xe0, 0xff,
    ];
    prop_oneof![any::<u8>(), prop::sample::select(telling)]
}

/// A peer and an address of ours, of one version, neither of them a group.
fn ends() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    let v4 = any::<([u8; 4], [u8; 4])>().prop_map(|(peer, [local, rest @ ..])| {
        let [b, c, d] = rest;
        (IpAddr::from(peer), IpAddr::from([local % 224, b, c, d]))
    });
    let v6 = any::<([u8; 16], [u8; 15])>().prop_map(|(peer, rest)| {
        let mut local = [0xfd; 16];
        local[1..].copy_from_slice(&rest);
        (IpAddr::from(peer), IpAddr::from(local))
    });
    (prop_oneof![v4, v6], any::<(u16, u16)>()).prop_map(|((peer, local), (from, to))| {
        (SocketAddr::new(peer, from), SocketAddr::new(local, to))
    })
}

/// Any table of buckets, for up to 40 cpus, with any number of queues.
fn placement() -> impl Strategy<Value = Placement> {
    let owners = (7_u32..10).prop_flat_map(|bits| {
        let owners = prop::collection::vec(any::<u16>(), 1 << bits);
        (owners, 1_u16..40)
    });
    (owners, 1_u16..40, any::<u64>()).prop_map(|((mut owners, cpus), queues, seed)| {
        owners.iter_mut().for_each(|owner| *owner %= cpus);
        let buckets = Buckets::from_owners(&owners, cpus).unwrap();
        let ties = Ties::new(queues, cpus).unwrap();
        Placement::new(Toeplitz::from_seed(seed), buckets, ties).unwrap()
    })
}

proptest! {
    /// Dispatch, reassembly, source port choice and who sends agree on the owner of a flow.
    #[test]
    fn everybody_agrees_on_the_owner(
        mut placement in placement(),
        transport in transport(),
        (peer, local) in ends(),
        bound in prop::collection::vec((any::<bool>(), any::<u16>()), 0..6),
        start: u16,
    ) {
        let cpus = placement.buckets().cpus();
        let unspecified = [Ipv4Addr::UNSPECIFIED.into(), std::net::Ipv6Addr::UNSPECIFIED.into()];
        for (is_every, cpu) in bound {
            let every = unspecified[usize::from(local.is_ipv6())];
            let address = if is_every { every } else { local.ip() };
            let binding = Binding { transport, port: local.port(), address };
            placement.exceptions_mut().bind(binding, cpu % cpus).unwrap();
        }
        let flow = Flow::received_from(transport, peer, local).unwrap();
        let owner = placement.owner(&flow);
        let received = frame(transport, peer, local, &[7; 30]);
        prop_assert_eq!(placement.place(&received), Place::Owner(owner));
        let hash = flow.hash(placement.toeplitz());
        prop_assert_eq!(placement.place_reported(&received, hash), Place::Owner(owner));

        // In fragments it arrives on one cpu, and is handed to its owner when it is whole.
        prop_assert_eq!(placement.place_packet(&received[14..]), Place::Owner(owner));
        if local.is_ipv4() {
            let by_address = Flow::received_from_address(peer.ip(), local.ip()).unwrap();
            let first_stop = Place::Owner(placement.owner(&by_address));
            for fragment in fragments(&received) {
                prop_assert_eq!(placement.place(&fragment), first_stop);
                prop_assert_eq!(placement.place_reported(&fragment, hash ^ 1), first_stop);
            }
        }

        // Whoever connects gets the replies, and the errors about what was sent.
        let home = placement.buckets().owners()[usize::from(start) % 128];
        let search = SourcePortSearch {
            transport,
            local: local.ip(),
            peer,
            range: 1024..=u16::MAX,
            start,
        };
        let port = placement.choose_source_port(home, &search, |port| port == local.port());
        if let Ok(port) = port {
            let local = SocketAddr::new(local.ip(), port);
            let reply = frame(transport, peer, local, b"reply");
            prop_assert_eq!(placement.place(&reply), Place::Owner(home));
            let replies = Flow::received_from(transport, peer, local).unwrap();
            prop_assert_eq!(placement.owner(&replies), home);
            if local.is_ipv4() {
                let error = error_about(&frame(transport, local, peer, b"sent"));
                prop_assert_eq!(placement.place(&error), Place::Owner(home));
            }
        }
    }

    /// A device that is given our key and indirection table delivers each flow to a queue of its
    /// owner, or to that to which its owner is tied.
    #[test]
    fn an_indirection_table_leads_to_the_owners_queue(placement in placement(), hash: u32) {
        let table = placement.indirection_table(u16::MAX);
        prop_assert_eq!(table.len(), placement.buckets().owners().len());
        let queue = table[hash as usize % table.len()];
        let (cpu, ties) = (placement.buckets().owner(hash), placement.ties());
        if ties.is_proxy(cpu) {
            prop_assert_eq!(Some(queue), ties.transmit_queue(cpu));
        } else {
            prop_assert_eq!(Some(cpu), ties.owner_of_queue(queue));
        }
        let short = placement.indirection_table(200);
        prop_assert_eq!(short.as_slice(), &table[..128]);
        prop_assert_eq!(placement.indirection_table(0), Vec::<u16>::new());
    }

    /// The fast path takes nothing that is not plain, and places what it takes as the slow path.
    #[test]
    fn the_fast_path_agrees_with_the_slow_path(
        placement in placement(),
        transport in transport(),
        (peer, local) in ends(),
        changes in prop::collection::vec((prop_oneof![0_usize..38, 12_usize..24], value()), 0..3),
        length in prop_oneof![Just(60_usize), 0_usize..60],
    ) {
        let mut frame = frame(transport, peer, local, b"payload");
        for (at, value) in changes {
            frame[at] = value;
        }
        frame.truncate(length.max(14));
        let slow = placement.place_other(&frame);
        prop_assert_eq!(placement.place(&frame), slow);
    }
}

/// Pearson's statistic of `counts` against what `shares` let expect.
fn chi_square(counts: &[u64], shares: &[usize]) -> f64 {
    let total: u64 = counts.iter().sum();
    let buckets: usize = shares.iter().sum();
    let term = |(count, share): (&u64, &usize)| {
        let expected = total as f64 * *share as f64 / buckets as f64;
        (*count as f64 - expected).powi(2) / expected
    };
    counts.iter().zip(shares).map(term).sum()
}

/// The value that the statistic exceeds by chance once in 1000 (Wilson and Hilferty).
fn critical(degrees: usize) -> f64 {
    let ninth = 2.0 / (9.0 * degrees as f64);
    degrees as f64 * (1.0 - ninth + 3.09 * ninth.sqrt()).powi(3)
}

/// Flows between random addresses and ports.
fn random_ends(random: &mut ChaCha8Rng, is_v6: bool) -> (SocketAddr, SocketAddr) {
    let mut bytes = [0; 36];
    random.fill_bytes(&mut bytes);
    let (peer, rest) = bytes.split_first_chunk::<16>().unwrap();
    let (local, ports) = rest.split_first_chunk::<16>().unwrap();
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    let end = |bytes: &[u8; 16], first: u8, port| {
        let mut bytes = *bytes;
        bytes[0] = first;
        let address = match is_v6 {
            true => IpAddr::from(bytes),
            false => IpAddr::from(*bytes.first_chunk::<4>().unwrap()),
        };
        SocketAddr::new(address, port)
    };
    let (first_of_peer, first_of_ours) = if is_v6 { (0x20, 0xfd) } else { (11, 10) };
    (
        end(peer, first_of_peer, port(0)),
        end(local, first_of_ours, port(2)),
    )
}

#[test]
fn load_follows_the_shares_that_the_table_holds() {
    let weights: [&[u32]; 5] = [&[1, 1], &[1, 3], &[1, 2, 2], &[5, 10, 10, 10], &[1; 16]];
    for (seed, weights) in (1..).zip(weights) {
        let buckets = Buckets::new(weights).unwrap();
        let shares = buckets.shares();
        let ties = Ties::new(1, buckets.cpus()).unwrap();
        let placement = Placement::new(Toeplitz::from_seed(seed), buckets, ties).unwrap();
        for transport in [Transport::Udp, Transport::Tcp] {
            for is_v6 in [false, true] {
                let mut random = ChaCha8Rng::seed_from_u64(seed);
                let mut counts = vec![0; weights.len()];
                for _ in 0..20_000 {
                    let (peer, local) = random_ends(&mut random, is_v6);
                    let Place::Owner(cpu) = placement.place(&frame(transport, peer, local, b""))
                    else {
                        panic!("{peer} {local} is a flow");
                    };
                    counts[usize::from(cpu)] += 1;
                }
                let statistic = chi_square(&counts, &shares);
                let most = critical(weights.len() - 1);
                let what = format!("{transport:?}, IPv6 {is_v6}, {weights:?}: {counts:?}");
                assert!(statistic < most, "{statistic} >= {most}; {what}");
            }
        }
    }
}

/// What a load generator does: one peer, ports in a row.
#[test]
fn a_thousand_ports_of_one_peer_spread_exactly() {
    for seed in 0..20 {
        let buckets = Buckets::new(&[1; 4]).unwrap();
        let ties = Ties::new(2, 4).unwrap();
        let placement = Placement::new(Toeplitz::from_seed(seed), buckets, ties).unwrap();
        let local = "10.0.0.1:7".parse().unwrap();
        let mut counts = [0; 4];
        for port in 10_240..11_264 {
            let peer = SocketAddr::new([10, 0, 0, 2].into(), port);
            let flow = Flow::received_from(Transport::Udp, peer, local).unwrap();
            counts[usize::from(placement.owner(&flow))] += 1;
        }
        assert_eq!(counts, [256; 4], "seed {seed}");
    }
}

#[test]
fn the_two_directions_of_a_flow_are_different_questions() {
    let placement = Placement::new(
        Toeplitz::new(toeplitz::DEFAULT_KEY),
        Buckets::new(&[1; 16]).unwrap(),
        Ties::new(1, 16).unwrap(),
    );
    let placement = placement.unwrap();
    let (peer, local) = (
        "10.0.0.2:4000".parse().unwrap(),
        "10.0.0.1:7".parse().unwrap(),
    );
    let towards_us = Flow::received_from(Transport::Udp, peer, local).unwrap();
    let towards_peer = Flow::received_from(Transport::Udp, local, peer).unwrap();
    assert_ne!(placement.owner(&towards_us), placement.owner(&towards_peer));
}

#[test]
fn frames_of_no_flow_are_told_apart_and_tables_must_fit() {
    let buckets = Buckets::new(&[0, 1]).unwrap();
    let refused = Placement::new(
        Toeplitz::from_seed(1),
        buckets.clone(),
        Ties::new(1, 3).unwrap(),
    );
    let differ = PlacementError::CpusDiffer {
        buckets: 2,
        ties: 3,
    };
    assert_eq!(refused.err(), Some(differ));
    let ties = Ties::new(1, 2).unwrap();
    let placement = Placement::new(Toeplitz::from_seed(1), buckets, ties).unwrap();
    assert_eq!(placement.unclassified(), 1);
    assert_eq!(placement.place(b""), Place::Unclassified);
    let (peer, group) = (
        "10.0.0.2:1".parse().unwrap(),
        "224.0.0.251:5353".parse().unwrap(),
    );
    let multicast = frame(Transport::Udp, peer, group, b"");
    assert_eq!(placement.place(&multicast), Place::Group(1));
}

/// Each byte of the headers with each value: what the property test above meets by chance.
#[test]
fn the_fast_path_agrees_on_every_change_of_one_byte() {
    let (buckets, ties) = (Buckets::new(&[1; 100]).unwrap(), Ties::new(1, 100).unwrap());
    let placement = Placement::new(Toeplitz::from_seed(1), buckets, ties).unwrap();
    let (peer, local) = (
        "10.0.0.2:4000".parse().unwrap(),
        "10.0.0.1:7".parse().unwrap(),
    );
    let good = frame(Transport::Udp, peer, local, b"payload");
    for at in 0..PLAIN {
        for value in 0..=u8::MAX {
            let mut frame = good.clone();
            frame[at] = value;
            let slow = placement.place_other(&frame);
            assert_eq!(placement.place(&frame), slow, "{value} at {at}");
        }
    }
}
