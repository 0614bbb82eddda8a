//! Frames that are sent with offloads, and received with or without: the receiver gets the same
//! packets, as one frame where it takes them so.

use proptest::prelude::*;
use virtroupe_driver::embedded::{
    EmbeddedConfig, EmbeddedHandle, EmbeddedStepper, EmbeddedTransport, LinkConfig, LinkEnd,
};
use virtroupe_driver::memory::HugePages;
use virtroupe_driver::{
    Device, DeviceOptions, FeatureBits, Frame, QueuePair, ReceiveOffloadMode, RingFormat,
};
use virtroupe_wire::offload::{
    ChecksumState, PartialChecksum, SegmentKind, Segmentation, complete_checksum, segment,
};
use virtroupe_wire::{Buffer, Heap, HeapBuffer, Instant, Offload, checksum};

/// Where the transport header is: behind Ethernet and IPv4.
const TRANSPORT: usize = 34;

struct End {
    _device: Device,
    pair: QueuePair,
    stepper: EmbeddedStepper,
    handle: EmbeddedHandle,
    offloads: bool,
}

fn end(end: LinkEnd, format: RingFormat, features: FeatureBits, mode: ReceiveOffloadMode) -> End {
    let config = EmbeddedConfig {
        features,
        ..EmbeddedConfig::default()
    };
    let (transport, handle, stepper) = EmbeddedTransport::inline(config, end).expect("a device");
    let options = DeviceOptions {
        ring_format: format,
        huge_pages: HugePages::Never,
        receive_offloads: mode,
        ..DeviceOptions::default()
    };
    let (device, mut pairs) = Device::initialize(Box::new(transport), &options).expect("it starts");
    let offloads = !device.features().receive_offloads().is_none();
    let mut pair = pairs.pop().expect("a pair").bind();
    assert_eq!(pair.receive(&mut Vec::new(), 1), Ok(0));
    End {
        _device: device,
        pair,
        stepper,
        handle,
        offloads,
    }
}

/// A packet as an engine makes it, with what is left to do for it.
fn packet(kind: Option<SegmentKind>, payload: &[u8], size: u16) -> HeapBuffer {
    let is_tcp = matches!(kind, Some(SegmentKind::Tcp { .. }));
    let (protocol, header, field) = if is_tcp { (6, 20, 16) } else { (17, 8, 6) };
    let length = header + payload.len();
    let mut ip = [
        0x45, 0, 0, 0, 1, 2, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ];
    if kind == Some(SegmentKind::UdpFragments) {
        ip[6] = 0;
    }
    ip[2..4].copy_from_slice(&((20 + length) as u16).to_be_bytes());
    let sum = checksum::checksum(&ip).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);
    let mut transport = vec![0; header];
    transport[..4].copy_from_slice(&[0, 7, 0, 9]);
    if is_tcp {
        transport[12..14].copy_from_slice(&[5 << 4, 0x18]);
    } else {
        transport[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    }
    let (source, destination) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let pseudo =
        checksum::Checksum::pseudo_header(source, destination, protocol, length as u16).finish();
    transport[field..field + 2].copy_from_slice(&(!pseudo).to_be_bytes());
    let link = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    let bytes = [&link[..], &ip, &transport, payload].concat();
    let mut packet = HeapBuffer::new(&bytes);
    assert!(packet.set_offload(Offload {
        checksum: ChecksumState::Partial(PartialChecksum {
            start: TRANSPORT as u16,
            offset: field as u16,
        }),
        segmentation: kind.map(|kind| Segmentation {
            kind,
            size,
            header_length: (TRANSPORT + header) as u16,
        }),
    }));
    packet
}

/// What of a packet reaches a wire.
fn carried_out(mut packet: HeapBuffer) -> Vec<Vec<u8>> {
    let offload = packet.offload();
    packet.set_offload(Offload::NONE);
    let mut pieces = Vec::new();
    if offload.segmentation.is_some() {
        segment(&mut packet, &offload, &mut Heap, &mut pieces).expect("well-formed");
    } else {
        if let ChecksumState::Partial(partial) = offload.checksum {
            assert!(complete_checksum(&mut packet, partial));
        }
        pieces.push(packet);
    }
    pieces.iter().map(Buffer::to_vec).collect()
}

/// The packet in a slot of the pool, if it fits and there is one; else on the heap.
fn in_slot(pair: &mut QueuePair, packet: &HeapBuffer) -> Frame {
    let bytes = packet.to_vec();
    let slot = pair.pool().frame();
    let filled = slot.and_then(|mut slot| slot.extend_from_slice(&bytes).then_some(slot));
    filled.unwrap_or_else(|| Frame::on_heap(&bytes))
}

/// Sends `packets`, most of them from the memory that the device sees, and gives what arrives.
fn cross(near: &mut End, far: &mut End, packets: &[HeapBuffer]) -> Vec<Frame> {
    let frames = packets.iter().enumerate().map(|(index, packet)| {
        let mut frame = match index % 4 {
            3 => Frame::on_heap(&packet.to_vec()),
            _ => in_slot(&mut near.pair, packet),
        };
        frame.set_offload(packet.offload());
        frame
    });
    let mut burst: Vec<_> = frames.collect();
    let mut received = Vec::new();
    loop {
        near.pair.transmit(&mut burst).expect("no violation");
        let moved = near.stepper.step(Instant::ZERO) + far.stepper.step(Instant::ZERO);
        let taken = far.pair.receive(&mut received, 64).expect("no violation");
        if moved + taken == 0 && burst.is_empty() {
            break;
        }
    }
    let stats = far.handle.stats();
    assert_eq!(stats.undoable.frames + stats.no_room.frames, 0);
    let dropped = stats.dropped_to_driver();
    assert_eq!(
        stats.from_backend.bytes,
        stats.to_driver.bytes + dropped.bytes
    );
    received
}

fn kinds() -> impl Strategy<Value = Option<SegmentKind>> {
    prop::sample::select(vec![
        None,
        Some(SegmentKind::Tcp { ecn: false }),
        Some(SegmentKind::Tcp { ecn: true }),
        Some(SegmentKind::Udp),
        Some(SegmentKind::UdpFragments),
    ])
}

/// Payload length, and the size of pieces of which there are not too many.
fn packets() -> impl Strategy<Value = Vec<HeapBuffer>> {
    let length = prop_oneof![1usize..2000, 1usize..60_000];
    let one = (kinds(), length, 64u16..1440, any::<u8>(), any::<bool>());
    let packet = one.prop_map(|(kind, length, size, seed, is_complete)| {
        // A packet that is not to be cut fits the link.
        let length = if kind.is_some() {
            length
        } else {
            length % 1400
        };
        let payload: Vec<_> = (0..length).map(|at| (at * 7) as u8 ^ seed).collect();
        let packet = packet(kind, &payload, size / 8 * 8);
        match is_complete && kind.is_none() {
            true => HeapBuffer::new(&carried_out(packet).concat()),
            false => packet,
        }
    });
    proptest::collection::vec(packet, 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_same_packets_arrive_with_any_receive_offloads(
        packets in packets(),
        packed in any::<bool>(),
        mode in prop::sample::select(vec![
            ReceiveOffloadMode::All,
            ReceiveOffloadMode::Checksum,
            ReceiveOffloadMode::Never,
        ]),
        withheld in any::<u64>(),
        faulty in any::<bool>(),
    ) {
        let format = if packed { RingFormat::Packed } else { RingFormat::Split };
        // The receiving device lacks any of the receive offloads.
        let withheld = FeatureBits(withheld & virtroupe_driver::ReceiveOffloads::ALL.0);
        let supported = EmbeddedConfig::SUPPORTED;
        let link = LinkConfig {
            // Then packets cross it as they would cross a wire.
            mtu: if faulty { 1500 } else { 0 },
            ..LinkConfig::default()
        };
        let (left, right) = virtroupe_driver::embedded::Link::pair(link);
        let mut near = end(left, format, supported, ReceiveOffloadMode::Never);
        let mut far = end(right, format, supported - withheld, mode);
        let received = cross(&mut near, &mut far, &packets);
        let mut expected = packets.iter();
        let mut wire = Vec::new();
        for frame in received {
            let offload = frame.offload();
            prop_assert!(far.offloads || offload.is_none());
            let mut described = HeapBuffer::new(&frame.to_vec());
            described.set_offload(offload);
            if !offload.is_none() {
                // It is as it was sent, description and all; but a single piece is not cut.
                let sent = expected.find(|sent| sent.to_vec() == described.to_vec());
                let asked = sent.map(|sent| sent.offload().for_length(sent.len()));
                prop_assert_eq!(asked, Some(offload));
            }
            wire.extend(carried_out(described));
        }
        let sent: Vec<_> = packets.iter().cloned().flat_map(carried_out).collect();
        prop_assert!(wire == sent, "{} frames of {}", wire.len(), sent.len());
    }
}

/// In bursts that are longer than what the driver puts together at once, and than the ring has left
/// at its end.
#[test]
fn a_checksum_is_asked_for_of_the_one_frame_that_wants_it() {
    for format in [RingFormat::Split, RingFormat::Packed] {
        let (left, right) = virtroupe_driver::embedded::Link::pair(LinkConfig::default());
        let all = EmbeddedConfig::SUPPORTED;
        let mut near = end(left, format, all, ReceiveOffloadMode::Never);
        let mut far = end(right, format, all, ReceiveOffloadMode::Checksum);
        // Slots come round: their headers asked for something else before.
        for round in 0..20 {
            let packets: Vec<_> = (0..150_usize)
                .map(|number| {
                    let packet = packet(None, &[number as u8; 300], 0);
                    match (number * 7 + round) % 3 {
                        0 => packet,
                        _ => HeapBuffer::new(&carried_out(packet).concat()),
                    }
                })
                .collect();
            let before = *near.pair.transmit_counters();
            let received = cross(&mut near, &mut far, &packets);
            let described = |packet: &HeapBuffer| (packet.to_vec(), packet.offload());
            let sent: Vec<_> = packets.iter().map(described).collect();
            let came = received.iter().map(|got| (got.to_vec(), got.offload()));
            assert!(came.eq(sent), "{format:?}, round {round}");
            let after = near.pair.transmit_counters();
            assert_eq!(after.frames - before.frames, 150);
            assert_eq!(after.bytes - before.bytes, 150 * (42 + 300));
        }
    }
}

#[test]
fn a_large_packet_arrives_whole_where_it_was_asked_for_and_else_in_pieces() {
    let tcp = packet(Some(SegmentKind::Tcp { ecn: false }), &[7; 20_000], 1448);
    for format in [RingFormat::Split, RingFormat::Packed] {
        for (mode, frames) in [
            (ReceiveOffloadMode::All, 1),
            (ReceiveOffloadMode::Checksum, 14),
            (ReceiveOffloadMode::Auto, 14),
            (ReceiveOffloadMode::Never, 14),
        ] {
            let (left, right) = virtroupe_driver::embedded::Link::pair(LinkConfig::default());
            let all = EmbeddedConfig::SUPPORTED;
            let mut near = end(left, format, all, ReceiveOffloadMode::Never);
            let mut far = end(right, format, all, mode);
            let received = cross(&mut near, &mut far, std::slice::from_ref(&tcp));
            assert_eq!(received.len(), frames, "{mode:?}");
            let longest = received.iter().map(Buffer::len).max();
            let expected = if frames == 1 { tcp.len() } else { 54 + 1448 };
            assert_eq!(longest, Some(expected));
            assert_eq!(received[0].has_offload(), frames == 1);
        }
    }
}

/// A driver must take a header that does not fit to its packet for a fault of the device, and
/// give it up. So a device lets none through, whoever described the packet.
#[test]
fn a_packet_that_was_described_wrongly_breaks_no_receiver() {
    let tcp = |change: fn(&mut [u8], &mut Offload)| {
        let packet = packet(Some(SegmentKind::Tcp { ecn: false }), &[7; 5000], 1448);
        let (mut bytes, mut offload) = (packet.to_vec(), packet.offload());
        change(&mut bytes, &mut offload);
        let mut changed = HeapBuffer::new(&bytes);
        changed.set_offload(offload);
        changed
    };
    fn start_at(offload: &mut Offload, start: u16) {
        offload.checksum = ChecksumState::Partial(PartialChecksum { start, offset: 0 });
    }
    let wrong = [
        // A TCP header of four words.
        tcp(|bytes, _| bytes[TRANSPORT + 12] = 4 << 4),
        // The headers would end behind the packet's first buffer, or the packet.
        tcp(|_, offload| start_at(offload, 2095)),
        tcp(|_, offload| start_at(offload, 5050)),
    ];
    for format in [RingFormat::Split, RingFormat::Packed] {
        let (left, right) = virtroupe_driver::embedded::Link::pair(LinkConfig::default());
        let all = EmbeddedConfig::SUPPORTED;
        let mut near = end(left, format, all, ReceiveOffloadMode::Never);
        let mut far = end(right, format, all, ReceiveOffloadMode::All);
        let right = tcp(|_, _| ());
        let packets = [&wrong[..], std::slice::from_ref(&right)].concat();
        let received = cross(&mut near, &mut far, &packets);
        // What can be cut by its own headers is, whatever was said.
        assert_eq!(received.last().map(Buffer::to_vec), Some(right.to_vec()));
        assert!(near.handle.stats().violations.frames > 0);
    }
}
