//! Trains of datagrams: one packet that the device, or software, cuts.

use proptest::prelude::*;
use virtroupe_wire::offload::{
    ChecksumState, DeviceSegmentation, SegmentKind, complete_checksum, segment,
};
use virtroupe_wire::{Buffer, DropReason, HeapBuffer, Offload, Payload, UdpSend};

use crate::support::*;

fn train(payload: &[u8], size: u16) -> UdpSend<HeapBuffer> {
    UdpSend {
        segment_size: Some(size),
        ..UdpSend::new((PEER, 9).into(), Payload::Bytes(payload.to_vec().into()))
    }
}

/// What the host sends, cut as a device would, without the fields that differ between datagrams
/// sent one by one: identification and checksum of the IP header.
fn frames(bed: &mut Bed) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for mut frame in bed.host.transmit().drain(..) {
        let offload = frame.offload();
        frame.set_offload(Offload::NONE);
        if offload.is_none() {
            frames.push(frame);
        } else {
            segment(&mut frame, &offload, &mut bed.pool, &mut frames).expect("well-formed");
        }
    }
    let without_id = |frame: &HeapBuffer| {
        let mut bytes = frame.to_vec();
        bytes[18..20].fill(0);
        bytes[24..26].fill(0);
        bytes
    };
    frames.iter().map(without_id).collect()
}

proptest! {
    #[test]
    fn a_train_is_on_the_wire_what_its_datagrams_are_one_by_one(
        payload in proptest::collection::vec(any::<u8>(), 1..4000),
        size in 32u16..1472,
    ) {
        let mut bed = Bed::new(config());
        let socket = bed.bind("0.0.0.0:7");
        let singles = payload.chunks(size.into()).map(|part| {
            UdpSend::new((PEER, 9).into(), Payload::Bytes(part.to_vec().into()))
        });
        let outcome = bed.send_burst(socket, &mut singles.collect());
        prop_assert_eq!(outcome.refused, 0);
        let expected = frames(&mut bed);
        let outcome = bed.send_burst(socket, &mut vec![train(&payload, size)]);
        prop_assert_eq!(outcome.accepted, 1);
        let is_train = payload.len() > size.into();
        prop_assert_eq!(bed.host.take_has_offloads(), is_train);
        if is_train {
            prop_assert_eq!(bed.host.transmit().len(), 1);
            let mut whole = bed.host.transmit()[0].clone();
            let offload = whole.offload();
            let kind = offload.segmentation.expect("set").kind;
            prop_assert_eq!(kind, SegmentKind::Udp);
            // Devices go on from the sum that they find.
            let ChecksumState::Partial(partial) = offload.checksum else {
                panic!("it is not complete");
            };
            prop_assert!(complete_checksum(&mut whole, partial));
            prop_assert_eq!(read_udp(&whole.to_vec()), (7, 9, payload.clone()));
        }
        prop_assert_eq!(frames(&mut bed), expected);
    }
}

#[test]
fn a_train_whose_datagrams_do_not_fit_is_refused_whole() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    for (payload, size) in [(3000, 1473), (3000, 0), (129 * 4, 4)] {
        let mut burst = vec![train(&vec![0; payload], size)];
        assert_eq!(bed.send_burst(socket, &mut burst).refused, 1);
        assert_eq!(burst[0].refused, Some(DropReason::TooBig));
        assert_eq!(burst[0].payload.len(), payload);
    }
    assert!(bed.host.transmit().is_empty());
}

#[test]
fn a_train_needs_room_for_all_its_datagrams() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    bed.host.set_transmit_room(3);
    let mut burst = vec![train(&[0; 400], 100)];
    assert_eq!(bed.send_burst(socket, &mut burst).refused, 1);
    assert_eq!(burst[0].refused, Some(DropReason::RingFull));
    bed.host.set_transmit_room(4);
    assert_eq!(bed.send_burst(socket, &mut burst).accepted, 1);
    assert_eq!(bed.host.transmit_room(), 0);
}

#[test]
fn a_train_that_the_device_cuts_needs_room_for_itself_only() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    bed.host.set_transmit_capacity(2);
    bed.host.set_device_segmentation(DeviceSegmentation {
        udp: true,
        longest: 442,
        ..DeviceSegmentation::default()
    });
    bed.host.set_transmit_room(2);
    let mut burst = vec![train(&[0; 400], 100), train(&[0; 401], 100)];
    assert_eq!(bed.send_burst(socket, &mut burst).accepted, 1);
    assert_eq!(burst[0].refused, Some(DropReason::TooBig), "5 in software");
    assert_eq!(bed.host.transmit_room(), 1);
}

#[test]
fn a_train_to_ourselves_arrives_as_datagrams() {
    let mut bed = Bed::new(config());
    let from = bed.bind("0.0.0.0:7");
    let to = bed.bind("10.0.0.1:8");
    let mut burst = vec![UdpSend {
        destination: (OUR, 8).into(),
        ..train(b"one two tri", 4)
    }];
    assert_eq!(bed.send_burst(from, &mut burst).accepted, 1);
    let payloads: Vec<_> = bed
        .received(to)
        .iter()
        .map(|datagram| datagram.payload.to_vec())
        .collect();
    assert_eq!(payloads, [&b"one "[..], b"two ", b"tri"]);
}

/// Two trains of 4 datagrams wait for a neighbour, and are released when there is no room.
#[test]
fn a_train_that_waited_for_its_neighbour_and_for_room_is_announced_when_it_goes() {
    let mut bed = Bed::new(dynamic());
    let socket = bed.bind("0.0.0.0:7");
    let mut burst = vec![train(&[0; 400], 100), train(&[1; 400], 100)];
    assert_eq!(bed.send_burst(socket, &mut burst).accepted, 2);
    assert_eq!(bed.host.transmit_room(), 999, "only the question has left");
    assert_eq!(bed.sent().len(), 1);
    assert!(!bed.host.take_has_offloads());
    bed.host.set_transmit_room(0);
    assert_eq!(bed.receive(&reply_from(PEER_MAC, PEER)).len(), 0);
    bed.host.take_has_offloads();
    bed.host.set_transmit_room(6);
    assert!(bed.host.take_has_offloads());
    assert_eq!(bed.host.transmit_room(), 0, "of both, 8 frames may become");
    assert_eq!(frames(&mut bed).len(), 8);
}

#[test]
fn a_train_takes_the_places_of_its_datagrams_in_the_queue_of_a_neighbour() {
    let mut bed = Bed::new(dynamic());
    let socket = bed.bind("0.0.0.0:7");
    // The queue holds 64.
    let mut burst = vec![train(&[0; 6000], 100), train(&[0; 400], 100)];
    burst.push(train(&[0; 200], 100));
    assert_eq!(bed.send_burst(socket, &mut burst).refused, 1);
    assert_eq!(burst[0].refused, Some(DropReason::NeighborQueueFull));
    assert_eq!(burst[0].payload.len(), 200);
}

#[test]
fn of_a_train_to_ourselves_all_arrives_or_nothing() {
    let mut bed = Bed::new(config());
    let from = bed.bind("0.0.0.0:7");
    let to = bed.bind("10.0.0.1:8");
    let mut burst = vec![UdpSend {
        destination: (OUR, 8).into(),
        ..train(b"one two tri", 4)
    }];
    bed.pool.left = 2;
    assert_eq!(bed.send_burst(from, &mut burst).refused, 1);
    assert_eq!(burst[0].refused, Some(DropReason::PoolEmpty));
    assert!(bed.received(to).is_empty());
}
