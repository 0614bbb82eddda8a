use virtroupe_wire::MacAddr;
use virtroupe_wire::ethernet::EthernetHeader;
use virtroupe_wire::placement::{Buckets, Ties, Toeplitz};

use super::*;
use crate::lane::lane;

const PATIENCE: Duration = Duration::from_millis(1);

/// Cpu 0 of three, whose lanes have room for `room` frames, and the other ends of its lanes.
fn crossings(room: usize) -> (Crossings, Vec<LaneReceiver>) {
    let ties = Ties::new(1, 3).expect("a queue and cpus");
    let buckets = Buckets::new(&[1, 1, 1]).expect("weights");
    let placement = Placement::new(Toeplitz::from_seed(1), buckets, ties).expect("tables");
    let (senders, receivers): (Vec<_>, _) = (0..2).map(|_| lane(room, Arc::default())).unzip();
    let outbound = std::iter::once(None).chain(senders.into_iter().map(Some));
    let ends = LaneEnds {
        outbound: outbound.collect(),
        ..LaneEnds::default()
    };
    (Crossings::new(0, ends, placement, PATIENCE), receivers)
}

/// An IPv4 frame whose flow `cpu` owns; `mark` tells it from others of the flow.
fn frame(crossings: &Crossings, cpu: u16, mark: u8) -> Frame {
    let header = EthernetHeader {
        destination: MacAddr([2, 0, 0, 0, 0, 1]),
        source: MacAddr([2, 0, 0, 0, 0, 2]),
        ethertype: ethernet::IPV4,
    };
    for port in 1u16.. {
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend([0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0]);
        bytes.extend([10, 0, 0, 2, 10, 0, 0, 1]);
        bytes.extend(port.to_be_bytes());
        bytes.extend([0, 7, 0, 9, 0, 0, mark]);
        if crossings.placement.place(&bytes) == Place::Owner(cpu) {
            return Frame::on_heap(&bytes);
        }
    }
    unreachable!("some port is placed there")
}

fn marks(frames: &[Frame]) -> Vec<u8> {
    frames
        .iter()
        .filter_map(|frame| frame.head().last().copied())
        .collect()
}

fn at(micros: u64) -> Instant {
    Instant::ZERO + Duration::from_micros(micros)
}

#[test]
fn each_frame_goes_to_its_owner_in_order() {
    let (mut crossings, mut lanes) = crossings(8);
    let owners = [0, 1, 2, 1, 0, 2, 2];
    let mut burst: Vec<Frame> = (0..)
        .zip(owners)
        .map(|(mark, cpu)| frame(&crossings, cpu, mark))
        .collect();
    crossings.dispatch(at(0), &mut burst, &mut Heard::default());
    assert_eq!(marks(&burst), [0, 4]);
    for (lane, expected) in lanes.iter_mut().zip([vec![1, 3], vec![2, 5, 6]]) {
        let mut taken = Vec::new();
        lane.take(&mut taken, 8);
        assert_eq!(marks(&taken), expected);
    }
    assert_eq!(crossings.counters().sent, 5);
}

#[test]
fn a_full_lane_is_waited_for_and_then_not_again_until_it_has_room() {
    let (mut crossings, mut lanes) = crossings(2);
    let mut burst: Vec<Frame> = (0..4).map(|mark| frame(&crossings, 1, mark)).collect();
    crossings.dispatch(at(0), &mut burst, &mut Heard::default());
    assert!(crossings.is_blocked());
    crossings.flush(at(999));
    assert!(crossings.is_blocked(), "patience is not over");
    crossings.flush(at(1000));
    assert!(!crossings.is_blocked());
    assert_eq!(crossings.counters().drops[DropReason::LaneFull], 2);

    burst.push(frame(&crossings, 1, 9));
    crossings.dispatch(at(1001), &mut burst, &mut Heard::default());
    assert!(!crossings.is_blocked(), "a slow cpu is not waited for");
    assert_eq!(crossings.counters().drops[DropReason::LaneFull], 3);

    lanes[0].take(&mut Vec::new(), 8);
    burst.extend((0..3).map(|mark| frame(&crossings, 1, mark)));
    crossings.dispatch(at(1002), &mut burst, &mut Heard::default());
    assert!(
        !crossings.is_blocked(),
        "it is slow until it keeps up with a burst"
    );
    lanes[0].take(&mut Vec::new(), 8);
    burst.push(frame(&crossings, 1, 0));
    crossings.dispatch(at(1003), &mut burst, &mut Heard::default());
    burst.extend((0..3).map(|mark| frame(&crossings, 1, mark)));
    crossings.dispatch(at(1004), &mut burst, &mut Heard::default());
    assert!(
        crossings.is_blocked(),
        "it kept up, so it is waited for again"
    );
}

#[test]
fn what_was_in_the_lane_of_a_cpu_that_ended_is_counted_once() {
    let (mut crossings, mut lanes) = crossings(8);
    let mut burst: Vec<Frame> = (0..3).map(|mark| frame(&crossings, 2, mark)).collect();
    crossings.dispatch(at(0), &mut burst, &mut Heard::default());
    lanes[1].take(&mut burst, 1);
    lanes.truncate(1);
    assert_eq!(crossings.counters().drops[DropReason::CpuGone], 2);
    burst = vec![frame(&crossings, 2, 0), frame(&crossings, 0, 1)];
    crossings.dispatch(at(1), &mut burst, &mut Heard::default());
    assert_eq!(marks(&burst), [1]);
    assert!(!crossings.is_blocked());
    assert_eq!(crossings.counters().drops[DropReason::CpuGone], 3);
}

/// It was on its way when the owner of its flow changed.
#[test]
fn what_comes_from_another_cpu_goes_on_to_a_third_for_a_while_after_bindings_changed() {
    let (mut crossings, mut lanes) = crossings(8);
    let (mut sender, inbound) = lane(8, Arc::default());
    crossings.inbound.push(inbound);
    let mut burst = Vec::new();
    for (now, is_settling, expected) in [
        (at(0), false, vec![0, 1]),
        (at(1), true, vec![0]),
        (at(1) + SETTLING, false, vec![0, 1]),
    ] {
        if is_settling {
            crossings.settle(now);
        }
        let mut sent = vec![frame(&crossings, 0, 0), frame(&crossings, 2, 1)];
        sender.push(&mut sent);
        assert_eq!(crossings.take(now, &mut burst, 8), 2);
        assert_eq!(marks(&burst), expected);
        burst.clear();
    }
    lanes[1].take(&mut burst, 8);
    assert_eq!(marks(&burst), [1]);
}

#[test]
fn so_does_what_another_engine_handed_over() {
    let (mut crossings, mut lanes) = crossings(8);
    let (mut sender, inbound) = lane(8, Arc::default());
    crossings.inbound.push(inbound);
    crossings.settle(at(0));
    let handed_over = |cpu, mark, ethertype: u16| {
        let mut frame = frame(&crossings, cpu, mark);
        frame.head_mut()[12..14].copy_from_slice(&ethertype.to_be_bytes());
        frame
    };
    let mut sent = vec![
        handed_over(2, 0, LOOPED),
        handed_over(0, 1, LOOPED),
        handed_over(2, 2, REASSEMBLED),
    ];
    sender.push(&mut sent);
    let mut burst = Vec::new();
    assert_eq!(crossings.take(at(1), &mut burst, 8), 3);
    assert_eq!(marks(&burst), [1]);
    burst.clear();
    lanes[1].take(&mut burst, 8);
    assert_eq!(marks(&burst), [0, 2]);
}
