//! Datagrams that a device cuts into fragments.

use proptest::prelude::*;
use virtroupe_wire::offload::{SegmentKind, segment};
use virtroupe_wire::{Buffer, DropReason, HeapBuffer, HostConfig, Offload, Payload, UdpSend};

use crate::icmp::error;
use crate::support::*;

/// Shapes of a payload: each leads another way to the one frame.
#[derive(Debug, Clone, Copy)]
enum Shape {
    Bytes,
    Buffer,
    Chain,
    WithoutHeadroom,
}

fn datagram(payload: &[u8], shape: Shape) -> UdpSend<HeapBuffer> {
    let payload = match shape {
        Shape::Bytes => Payload::Bytes(payload.to_vec().into()),
        Shape::Buffer => Payload::Buffer(HeapBuffer::new(payload)),
        Shape::Chain => {
            let (head, tail) = payload.split_at(payload.len() / 3);
            let mut chain = HeapBuffer::new(head);
            chain.append(HeapBuffer::new(tail));
            Payload::Buffer(chain)
        }
        Shape::WithoutHeadroom => {
            let mut buffer = HeapBuffer::new(&[]);
            let (head, tail) = payload.split_at(payload.len().min(buffer.headroom()));
            let room = buffer.prepend(head.len()).expect("there is so much");
            room.copy_from_slice(head);
            let left = buffer.headroom();
            buffer.extend_from_slice(tail);
            assert!(left == 0 || tail.is_empty());
            Payload::Buffer(buffer)
        }
    };
    UdpSend::new((PEER, 9).into(), payload)
}

fn bed(mtu: u16, offloads: bool) -> Bed {
    let mut bed = Bed::new(HostConfig { mtu, ..config() });
    bed.host.set_fragmentation_offload(offloads);
    bed
}

/// What the host sends, cut as a device would.
fn cut(bed: &mut Bed) -> Vec<Vec<u8>> {
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
    frames.iter().map(HeapBuffer::to_vec).collect()
}

proptest! {
    #[test]
    fn a_device_makes_the_fragments_that_the_host_would_make(
        payload in proptest::collection::vec(any::<u8>(), 0..9000),
        mtu in 600u16..4000,
        path in proptest::option::of(552u16..1000),
        shape in prop::sample::select(
            vec![Shape::Bytes, Shape::Buffer, Shape::Chain, Shape::WithoutHeadroom]),
    ) {
        let [with, without] = [true, false].map(|offloads| {
            let mut bed = bed(mtu, offloads);
            let socket = bed.bind("0.0.0.0:7");
            if let Some(path) = path {
                // A packet as long as the link allows, and the report that it was too long.
                let longest = vec![0; usize::from(mtu) - 28];
                let (outcome, _) = bed.send(socket, (PEER, 9), &[&longest]);
                assert_eq!(outcome.accepted, 1);
                let sent = bed.sent().pop().expect("sent");
                bed.receive(&error(3, 4, path.into(), &sent[14..42]));
            }
            let room = bed.host.transmit_room();
            let outcome = bed.send_burst(socket, &mut vec![datagram(&payload, shape)]);
            assert_eq!(outcome.accepted, 1);
            let room = room - bed.host.transmit_room();
            let described = bed.host.take_has_offloads().then_some(bed.host.transmit().len());
            (room, described, bed.host.counters().fragmented, cut(&mut bed))
        });
        let (_, _, fragmented, frames) = &without;
        let is_long = *fragmented > 0;
        prop_assert_eq!(with.1, is_long.then_some(1), "one frame, and announced");
        prop_assert_eq!(without.1, None);
        prop_assert_eq!(with.0, without.0, "room");
        prop_assert_eq!(with.2, *fragmented);
        prop_assert_eq!(&with.3, frames);
        let least = path.filter(|path| *path < mtu).unwrap_or(mtu);
        for frame in frames {
            prop_assert!(frame.len() <= usize::from(least) + 14);
        }
    }
}

#[test]
fn the_longest_datagram_is_one_frame_for_a_device_and_45_for_the_link() {
    let mut bed = bed(1500, true);
    let socket = bed.bind("0.0.0.0:7");
    let payload = pattern(65_507);
    let mut burst = vec![datagram(&payload, Shape::Bytes)];
    assert_eq!(bed.send_burst(socket, &mut burst).accepted, 1);
    assert_eq!(bed.host.transmit_room(), 1000 - 45);
    let offload = bed.host.transmit()[0].offload();
    let segmentation = offload.segmentation.expect("it is described");
    assert_eq!(segmentation.kind, SegmentKind::UdpFragments);
    assert_eq!(segmentation.size, 1480);
    let (header, _) = read_ipv4(&bed.host.transmit()[0].to_vec());
    assert!(!header.dont_fragment && !header.more_fragments);
    assert_eq!(cut(&mut bed).len(), 45);
}

#[test]
fn it_needs_room_for_all_its_fragments() {
    let mut bed = bed(1500, true);
    let socket = bed.bind("0.0.0.0:7");
    bed.host.set_transmit_room(2);
    let mut burst = vec![datagram(&pattern(4000), Shape::Buffer)];
    assert_eq!(bed.send_burst(socket, &mut burst).refused, 1);
    assert_eq!(burst[0].refused, Some(DropReason::RingFull));
    assert_eq!(burst[0].payload.len(), 4000);
    bed.host.set_transmit_room(3);
    assert_eq!(bed.send_burst(socket, &mut burst).accepted, 1);
    assert_eq!(bed.host.transmit_room(), 0);
    bed.host.set_transmit_capacity(2);
    bed.host.set_transmit_room(3);
    burst.push(datagram(&pattern(4000), Shape::Buffer));
    assert_eq!(bed.send_burst(socket, &mut burst).refused, 1);
    assert_eq!(burst[0].refused, Some(DropReason::TooBig));
}

#[test]
fn without_memory_it_is_refused_and_kept() {
    let mut bed = bed(1500, true);
    let socket = bed.bind("0.0.0.0:7");
    bed.pool.left = 0;
    let mut burst = vec![datagram(&pattern(4000), Shape::Bytes)];
    assert_eq!(bed.send_burst(socket, &mut burst).refused, 1);
    assert_eq!(burst[0].refused, Some(DropReason::PoolEmpty));
    assert_eq!(burst[0].payload.len(), 4000);
    assert!(bed.host.transmit().is_empty());
    assert_eq!(bed.host.counters().fragmented, 0);
}

#[test]
fn what_waits_for_a_neighbour_or_stays_here_is_no_work_for_the_device() {
    let mut bed = Bed::new(dynamic());
    bed.host.set_fragmentation_offload(true);
    let socket = bed.bind("0.0.0.0:7");
    let payload = pattern(4000);
    let to_peer = datagram(&payload, Shape::Bytes);
    let to_us = UdpSend {
        destination: (OUR, 7).into(),
        ..datagram(&payload, Shape::Bytes)
    };
    assert_eq!(
        bed.send_burst(socket, &mut vec![to_peer, to_us]).accepted,
        2
    );
    assert_eq!(bed.received(socket)[0].payload.to_vec(), payload);
    assert_eq!(bed.sent().len(), 1, "the question");
    let frames = bed.receive(&reply_from(PEER_MAC, PEER));
    assert_eq!(frames.len(), 3);
    assert!(!bed.host.take_has_offloads());
}
