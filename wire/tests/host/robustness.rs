//! Hostile input: whatever arrives, nothing panics and every frame is accounted for.

use std::time::Duration;

use etherparse::ArpOperation;
use proptest::prelude::*;
use virtroupe_wire::{DropReason, HostConfig, MacAddr, UdpSend};

use crate::support::*;

/// A good frame of each kind that the host knows.
fn good(kind: usize, payload: &[u8]) -> Vec<u8> {
    let cited = &udp((OUR, 7), (PEER, 9), payload)[14..];
    let mut icmp = vec![3, 4, 0, 0, 0, 0, 3, 0];
    icmp.extend_from_slice(cited);
    let sum = virtroupe_wire::checksum::checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut echo = vec![8, 0, 0xf7, 0xff, 0, 0, 0, 0];
    echo.extend_from_slice(&[0; 16]);
    match kind {
        0 => udp((PEER, 9), (OUR, 7), payload),
        1 => udp((PEER, 9), (OUR, 8), payload),
        2 => udp((PEER, 9), (BROADCAST, 7), payload),
        3 => ipv4(1, OUR, &echo, |_| ()),
        4 => ipv4(1, OUR, &icmp, |_| ()),
        5 => request_from(PEER_MAC, PEER, OUR),
        6 => reply_from(PEER_MAC, [10, 0, 0, 3].into()),
        7 => fragment(1, 0, true, &segment(9, 7, &[0; 56])),
        8 => fragment(1, 64, false, payload),
        9 => ipv4(6, OUR, payload, |_| ()),
        _ => arp(
            ArpOperation(3),
            OUR_MAC,
            (PEER_MAC, PEER),
            (MacAddr::default(), OUR),
        ),
    }
}

/// Makes the IPv4 header checksum right, so that a change further in is looked at.
fn repair(frame: &mut [u8]) {
    let length = usize::from(frame.get(14).copied().unwrap_or(0) & 15) * 4;
    if let Some(header) = frame
        .get_mut(14..14 + length)
        .filter(|header| header.len() >= 20)
    {
        header[10..12].fill(0);
        let sum = virtroupe_wire::checksum::checksum(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

fn frame() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>());
    let mutated = (
        0_usize..11,
        prop::collection::vec(any::<u8>(), 0..64),
        prop::collection::vec(change, 0..3),
        prop::option::weighted(0.2, any::<prop::sample::Index>()),
        any::<bool>(),
    );
    let mutated = mutated.prop_map(|(kind, payload, changes, cut, is_repaired)| {
        let mut frame = good(kind, &payload);
        for (index, value) in changes {
            let at = index.index(frame.len());
            frame[at] = value;
        }
        if let Some(cut) = cut {
            frame.truncate(cut.index(frame.len()));
        }
        if is_repaired {
            repair(&mut frame);
        }
        frame
    });
    prop_oneof![
        9 => mutated,
        1 => prop::collection::vec(any::<u8>(), 0..100),
    ]
}

#[derive(Debug, Clone)]
enum Step {
    Receive(Vec<u8>),
    Send(u8, usize),
    Reply,
    Pass(u64),
    Room(usize),
    Memory(usize),
    Rebind,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => frame().prop_map(Step::Receive),
        2 => (any::<u8>(), 0_usize..5000).prop_map(|(host, length)| Step::Send(host, length)),
        2 => Just(Step::Reply),
        2 => (0_u64..70_000).prop_map(Step::Pass),
        1 => (0_usize..20).prop_map(Step::Room),
        1 => (0_usize..20).prop_map(Step::Memory),
        1 => Just(Step::Rebind),
    ]
}

proptest! {
    #[test]
    fn any_sequence_of_frames_and_calls_is_survived_and_accounted_for(
        steps in prop::collection::vec(step(), 1..60),
        offloads in any::<bool>(),
    ) {
        let mut bed = Bed::new(HostConfig {
            addresses: vec!["10.0.0.1/24".parse().unwrap()],
            owned: vec!["10.0.0.8/30".parse().unwrap()],
            ..dynamic()
        });
        bed.host.set_fragmentation_offload(offloads);
        let mut socket = bed.bind("0.0.0.0:7");
        for step in steps {
            match step {
                Step::Receive(frame) => {
                    for sent in bed.receive(&frame) {
                        prop_assert!(sent.len() >= 42);
                    }
                }
                Step::Send(host, length) => {
                    let destination = ([10, 0, 0, host].into(), 9);
                    let _ = bed.send(socket, destination, &[&pattern(length)]);
                }
                Step::Reply => {
                    let received = bed.received(socket);
                    let mut burst: Vec<_> = received.into_iter().map(UdpSend::reply).collect();
                    let _ = bed.send_burst(socket, &mut burst);
                }
                Step::Pass(milliseconds) => bed.pass(Duration::from_millis(milliseconds)),
                Step::Room(room) => bed.host.set_transmit_room(room),
                Step::Memory(left) => bed.pool.left = left,
                Step::Rebind => {
                    bed.host.close_udp(socket);
                    socket = bed.bind("0.0.0.0:7");
                }
            }
            bed.check();
        }
        // Nothing is held for ever.
        bed.pass(Duration::from_secs(200));
        prop_assert_eq!(bed.host.counters().held, 0);
        prop_assert_eq!(bed.host.reassembly_memory(), 0);
        prop_assert_eq!(bed.host.next_deadline(), None);
        bed.check();
    }
}

#[test]
fn each_good_frame_does_what_it_should() {
    let mut bed = Bed::new(config());
    bed.bind("0.0.0.0:7");
    for kind in 0..11 {
        bed.receive(&good(kind, &[0; 900]));
    }
    let counters = bed.host.counters();
    // UDP, broadcast and the reassembled one.
    assert_eq!((counters.delivered, counters.reassembled), (3, 1));
    assert_eq!(
        (counters.echo_replies, counters.icmp_errors_received),
        (1, 1)
    );
    for reason in [
        DropReason::NoSocket,
        DropReason::UnknownProtocol,
        DropReason::ArpIgnored,
        DropReason::Malformed,
    ] {
        assert_eq!(bed.dropped(reason), 1, "{reason:?}");
    }
    assert_eq!(bed.host.drops().total(), 4);
}
