//! ARP and the neighbour table.

use std::net::Ipv4Addr;
use std::time::Duration;

use etherparse::ArpOperation;
use virtroupe_wire::{DropReason, HostConfig, Limits, MacAddr, NeighborState, UdpErrorKind};

use crate::support::*;

const OTHER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

fn state(bed: &Bed, address: Ipv4Addr) -> Option<(NeighborState, Option<MacAddr>)> {
    let entries = bed.host.neighbors();
    let entry = entries.iter().find(|entry| entry.address == address)?;
    Some((entry.state, entry.mac))
}

/// A host that has asked for the peer and got its answer.
fn acquainted() -> (Bed, virtroupe_wire::UdpSocketId) {
    let mut bed = Bed::new(dynamic());
    let socket = bed.bind("0.0.0.0:7");
    let _ = bed.send(socket, (PEER, 7), &[b"hello"]);
    bed.sent();
    assert_eq!(bed.receive(&reply_from(PEER_MAC, PEER)).len(), 1);
    (bed, socket)
}

#[test]
fn a_request_for_an_address_of_ours_is_answered_to_the_asker() {
    let mut bed = Bed::new(HostConfig {
        owned: vec!["172.16.5.0/24".parse().unwrap()],
        ..dynamic()
    });
    // The first and last address of an owned prefix are hosts of ours too.
    for target in [OUR, [172, 16, 5, 0].into(), [172, 16, 5, 255].into()] {
        let sent = bed.receive(&request_from(PEER_MAC, PEER, target));
        let (to, reply) = read_arp(&sent[0]).unwrap();
        assert_eq!(
            (sent.len(), to, reply.operation),
            (1, PEER_MAC, ArpOperation::REPLY)
        );
        assert_eq!(
            (reply.sender_mac, reply.sender_ipv4),
            (OUR_MAC.0, target.octets())
        );
        assert_eq!(
            (reply.target_mac, reply.target_ipv4),
            (PEER_MAC.0, PEER.octets())
        );
    }
    for target in [PEER, [172, 16, 6, 0].into(), BROADCAST] {
        assert!(
            bed.receive(&request_from(PEER_MAC, [10, 0, 0, 3].into(), target))
                .is_empty()
        );
    }
}

#[test]
fn a_probe_is_answered_and_teaches_nothing() {
    let mut bed = Bed::new(dynamic());
    assert_eq!(
        bed.receive(&request_from(PEER_MAC, Ipv4Addr::UNSPECIFIED, OUR))
            .len(),
        1
    );
    assert!(bed.host.neighbors().is_empty());
}

#[test]
fn who_is_not_on_the_link_is_not_learned() {
    let mut bed = Bed::new(dynamic());
    bed.receive(&request_from(PEER_MAC, [192, 168, 1, 1].into(), OUR));
    bed.receive(&request_from(PEER_MAC, BROADCAST, OUR));
    assert!(bed.host.neighbors().is_empty());
}

#[test]
fn a_claim_to_our_address_is_refused() {
    let mut bed = Bed::new(dynamic());
    assert!(bed.receive(&request_from(OTHER_MAC, OUR, OUR)).is_empty());
    assert_eq!(bed.dropped(DropReason::BadSource), 1);
}

#[test]
fn a_datagram_waits_for_its_neighbour() {
    let mut bed = Bed::new(dynamic());
    let socket = bed.bind("0.0.0.0:7");
    let (outcome, _) = bed.send(socket, (PEER, 9), &[b"one", b"two"]);
    assert_eq!(outcome.accepted, 2);
    let sent = bed.sent();
    let (to, request) = read_arp(&sent[0]).unwrap();
    assert_eq!((sent.len(), to), (1, MacAddr::BROADCAST));
    assert_eq!(
        (request.sender_ipv4, request.target_ipv4),
        (OUR.octets(), PEER.octets())
    );
    let sent = bed.receive(&reply_from(PEER_MAC, PEER));
    assert_eq!(sent.len(), 2);
    for (frame, payload) in sent.iter().zip([b"one", b"two"]) {
        assert_eq!(frame[..6], PEER_MAC.0);
        assert_eq!(read_udp(frame), (7, 9, payload.to_vec()));
    }
    // Known now: no question, no waiting.
    let _ = bed.send(socket, (PEER, 9), &[b"three"]);
    assert_eq!(read_udp(&bed.sent()[0]).2, b"three");
}

#[test]
fn an_unsolicited_reply_is_not_believed() {
    let mut bed = Bed::new(dynamic());
    bed.receive(&reply_from(OTHER_MAC, PEER));
    assert!(bed.host.neighbors().is_empty());
    assert_eq!(bed.dropped(DropReason::ArpIgnored), 1);

    let (mut bed, socket) = acquainted();
    bed.receive(&reply_from(OTHER_MAC, PEER));
    let _ = bed.send(socket, (PEER, 7), &[b"still there"]);
    assert_eq!(bed.sent()[0][..6], PEER_MAC.0);
    assert_eq!(
        state(&bed, PEER),
        Some((NeighborState::Reachable, Some(PEER_MAC)))
    );
}

#[test]
fn nothing_is_learned_from_ip_traffic() {
    let mut bed = Bed::new(dynamic());
    let socket = bed.bind("0.0.0.0:7");
    bed.receive(&udp((PEER, 1), (OUR, 7), b"x"));
    assert_eq!(bed.received(socket).len(), 1);
    assert!(bed.host.neighbors().is_empty());
}

#[test]
fn a_gratuitous_update_changes_only_a_neighbour_that_we_have() {
    let gratuitous = request_from(OTHER_MAC, PEER, PEER);
    let mut bed = Bed::new(dynamic());
    bed.receive(&gratuitous);
    assert!(bed.host.neighbors().is_empty());

    let (mut bed, socket) = acquainted();
    bed.receive(&gratuitous);
    assert_eq!(
        state(&bed, PEER),
        Some((NeighborState::Stale, Some(OTHER_MAC)))
    );
    // It is used, and verified at once.
    let _ = bed.send(socket, (PEER, 7), &[b"hello"]);
    let sent = bed.sent();
    assert_eq!(read_arp(&sent[0]).unwrap().0, OTHER_MAC);
    assert_eq!(sent[1][..6], OTHER_MAC.0);
}

#[test]
fn a_static_neighbour_never_changes() {
    let mut bed = Bed::new(config());
    bed.receive(&request_from(OTHER_MAC, PEER, PEER));
    bed.receive(&request_from(OTHER_MAC, PEER, OUR));
    bed.receive(&reply_from(OTHER_MAC, PEER));
    assert_eq!(
        state(&bed, PEER),
        Some((NeighborState::Static, Some(PEER_MAC)))
    );
}

#[test]
fn an_answer_ages_and_is_asked_for_again_while_the_old_one_is_used() {
    let (mut bed, socket) = acquainted();
    bed.pass(Duration::from_secs(14)); // less than half the reachable time
    let _ = bed.send(socket, (PEER, 7), &[b"young"]);
    assert_eq!(bed.sent().len(), 1);
    bed.pass(Duration::from_secs(32)); // 46 s: more than one and a half of it
    let _ = bed.send(socket, (PEER, 7), &[b"old"]);
    let sent = bed.sent();
    assert_eq!(read_arp(&sent[0]).unwrap().0, PEER_MAC, "asked directly");
    assert_eq!(read_udp(&sent[1]).2, b"old");
    assert_eq!(state(&bed, PEER).unwrap().0, NeighborState::Probe);
    bed.receive(&reply_from(PEER_MAC, PEER));
    assert_eq!(state(&bed, PEER).unwrap().0, NeighborState::Reachable);
}

#[test]
fn a_neighbour_that_vanished_is_given_up_after_its_probes() {
    let (mut bed, socket) = acquainted();
    bed.pass(Duration::from_secs(60));
    let _ = bed.send(socket, (PEER, 7), &[b"anyone?"]);
    bed.pass(Duration::from_secs(4));
    assert_eq!(
        bed.sent()
            .iter()
            .filter(|frame| read_arp(frame).is_some())
            .count(),
        3
    );
    let (_, refused) = bed.send(socket, (PEER, 7), &[b"hello?"]);
    assert_eq!(refused[0].refused, Some(DropReason::NeighborUnreachable));
}

#[test]
fn retries_are_bounded_and_the_socket_is_told() {
    let mut bed = Bed::new(dynamic());
    let socket = bed.bind("0.0.0.0:7");
    let _ = bed.send(socket, (PEER, 9), &[b"one", b"two"]);
    bed.pass(Duration::from_secs(100));
    let requests = bed.sent();
    assert_eq!(requests.len(), 3);
    assert_eq!(bed.host.next_deadline(), None, "it does not retry for ever");
    assert_eq!(bed.dropped(DropReason::NeighborUnreachable), 2);
    assert_eq!(bed.host.take_ready_udp(), Some(socket));
    let error = bed.host.udp_errors(socket).unwrap()[0];
    assert_eq!(error.kind, UdpErrorKind::HostUnreachable);
    assert_eq!(
        (error.peer, error.local),
        ((PEER, 9).into(), (OUR, 7).into())
    );
    bed.check();
}

#[test]
fn an_unreachable_neighbour_is_not_asked_again_at_once() {
    let mut bed = Bed::new(dynamic());
    let socket = bed.bind("0.0.0.0:7");
    let _ = bed.send(socket, (PEER, 9), &[b"one"]);
    bed.pass(Duration::from_secs(3)); // three attempts, a second each
    bed.sent();
    let (outcome, refused) = bed.send(socket, (PEER, 9), &[b"two"]);
    assert_eq!(outcome.refused, 1);
    assert_eq!(refused[0].refused, Some(DropReason::NeighborUnreachable));
    assert!(bed.sent().is_empty());
    bed.pass(Duration::from_secs(3));
    let (outcome, _) = bed.send(socket, (PEER, 9), &[b"three"]);
    assert_eq!((outcome.accepted, bed.sent().len()), (1, 1));
}

#[test]
fn the_queue_of_a_neighbour_is_bounded() {
    let mut bed = Bed::new(dynamic());
    let socket = bed.bind("0.0.0.0:7");
    let payloads = vec![&b"x"[..]; 70];
    let (outcome, refused) = bed.send(socket, (PEER, 9), &payloads);
    assert_eq!((outcome.accepted, outcome.refused), (64, 6));
    let full = Some(DropReason::NeighborQueueFull);
    assert!(refused.iter().all(|send| send.refused == full));
    bed.sent();
    assert_eq!(bed.receive(&reply_from(PEER_MAC, PEER)).len(), 64);
}

#[test]
fn what_waited_for_a_neighbour_keeps_its_turn_when_the_ring_is_full() {
    let mut bed = Bed::new(dynamic());
    let socket = bed.bind("0.0.0.0:7");
    let _ = bed.send(socket, (PEER, 9), &[b"1", b"2", b"3"]);
    bed.sent();
    bed.host.set_transmit_room(1);
    let first = bed.host.transmit().len();
    let mut burst = vec![virtroupe_wire::HeapBuffer::new(&reply_from(PEER_MAC, PEER))];
    bed.host.receive(bed.now, &mut burst, &mut bed.pool);
    let (outcome, refused) = bed.send(socket, (PEER, 9), &[b"4"]);
    assert_eq!((first, outcome.refused), (0, 1));
    assert_eq!(refused[0].refused, Some(DropReason::RingFull));
    bed.host.set_transmit_room(10);
    let _ = bed.send(socket, (PEER, 9), &[b"5"]);
    let sent: Vec<_> = bed.sent().iter().map(|frame| read_udp(frame).2).collect();
    assert_eq!(sent, [b"1", b"2", b"3", b"5"]);
}

#[test]
fn a_flood_of_requests_does_not_push_out_whom_we_talk_to() {
    let mut bed = Bed::new(HostConfig {
        addresses: vec!["10.0.0.1/8".parse().unwrap()],
        limits: Limits {
            neighbors: 16,
            ..Limits::default()
        },
        ..dynamic()
    });
    let socket = bed.bind("0.0.0.0:7");
    let _ = bed.send(socket, (PEER, 7), &[b"hello"]);
    bed.receive(&reply_from(PEER_MAC, PEER));
    for flood in 0..5000_u32 {
        let address = Ipv4Addr::from_bits(0x0a01_0000 + flood);
        bed.receive(&request_from(OTHER_MAC, address, OUR));
        assert!(bed.host.neighbors().len() <= 16);
    }
    assert_eq!(
        state(&bed, PEER),
        Some((NeighborState::Reachable, Some(PEER_MAC)))
    );
    let _ = bed.send(socket, (PEER, 7), &[b"still there"]);
    assert_eq!(read_udp(&bed.sent()[0]).2, b"still there");
}

#[test]
fn in_a_table_of_neighbours_that_answer_a_stranger_is_not_learned_but_a_peer_is_asked() {
    let limits = Limits {
        neighbors: 4,
        ..Limits::default()
    };
    let mut bed = Bed::new(HostConfig {
        limits,
        ..dynamic()
    });
    let socket = bed.bind("0.0.0.0:7");
    let peers = [2, 3, 4, 5].map(|host| Ipv4Addr::new(10, 0, 0, host));
    for peer in peers {
        let _ = bed.send(socket, (peer, 7), &[b"hello"]);
        bed.receive(&reply_from(PEER_MAC, peer));
        bed.pass(Duration::from_millis(1));
    }
    let stranger = Ipv4Addr::new(10, 0, 0, 9);
    assert_eq!(
        bed.receive(&request_from(OTHER_MAC, stranger, OUR)).len(),
        1,
        "answered"
    );
    assert_eq!(state(&bed, stranger), None);
    assert!(peers.iter().all(|peer| state(&bed, *peer).is_some()));
    // We ourselves may talk to somebody new: the one unused for longest makes room.
    let (outcome, _) = bed.send(socket, (stranger, 7), &[b"hello"]);
    assert_eq!(outcome.accepted, 1);
    assert_eq!(state(&bed, peers[0]), None);
    assert_eq!(bed.host.neighbors().len(), 4);
}

#[test]
fn sending_to_many_silent_neighbours_is_bounded_to_half_the_table() {
    let mut bed = Bed::new(HostConfig {
        limits: Limits {
            neighbors: 16,
            ..Limits::default()
        },
        ..dynamic()
    });
    let socket = bed.bind("0.0.0.0:7");
    for host in 100..200 {
        let _ = bed.send(socket, ([10, 0, 0, host].into(), 7), &[b"anyone?"]);
    }
    assert_eq!(bed.host.neighbors().len(), 8);
    assert_eq!(bed.dropped(DropReason::NeighborTableFull), 92);
    // When they are given up, others can be asked for.
    bed.pass(Duration::from_secs(3));
    let (outcome, _) = bed.send(socket, (PEER, 7), &[b"hello"]);
    assert_eq!(outcome.accepted, 1);
}

#[test]
fn the_gateway_is_asked_for_what_is_not_on_the_link() {
    let far = Ipv4Addr::new(192, 0, 2, 9);
    let nearer = Ipv4Addr::new(192, 0, 2, 200);
    let mut bed = Bed::new(HostConfig {
        gateway: Some([10, 0, 0, 254].into()),
        routes: vec![virtroupe_wire::Route {
            destination: "192.0.2.128/25".parse().unwrap(),
            gateway: Some([10, 0, 0, 253].into()),
        }],
        ..dynamic()
    });
    let socket = bed.bind("0.0.0.0:7");
    let _ = bed.send(socket, (far, 7), &[b"far"]);
    let _ = bed.send(socket, (nearer, 7), &[b"nearer"]);
    let asked: Vec<_> = bed
        .sent()
        .iter()
        .map(|frame| read_arp(frame).unwrap().1.target_ipv4)
        .collect();
    assert_eq!(asked, [[10, 0, 0, 254], [10, 0, 0, 253]]);
    let mut bed = Bed::new(dynamic());
    let socket = bed.bind("0.0.0.0:7");
    let (_, refused) = bed.send(socket, (far, 7), &[b"far"]);
    assert_eq!(refused[0].refused, Some(DropReason::NoRoute));
    assert_eq!(refused[0].payload.len(), 3, "the payload is given back");
}

#[test]
fn short_or_foreign_arp_is_refused() {
    let mut bed = Bed::new(dynamic());
    let request = request_from(PEER_MAC, PEER, OUR);
    assert!(bed.receive(&request[..41]).is_empty());
    for (index, value) in [(15, 6), (17, 6), (18, 8), (19, 6), (21, 3)] {
        let mut request = request.clone();
        request[index] = value;
        assert!(bed.receive(&request).is_empty());
    }
    assert_eq!(bed.dropped(DropReason::Malformed), 6);
    assert!(bed.host.neighbors().is_empty());
}
