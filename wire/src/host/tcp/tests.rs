//! What is read straight from a frame, against what goes through every layer: a frame in two
//! segments, or one that the device has merged, is not ordinary.

use proptest::prelude::*;

use super::*;
use crate::buffer::{Heap, HeapBuffer};
use crate::checksum::{Checksum, checksum};
use crate::drops::Drops;
use crate::host::{HostConfig, HostCounters, Neighbor};
use crate::mac::MacAddr;
use crate::offload::PartialChecksum;
use crate::tcp::TcpHeader;

const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const PEER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// The longest headers: Ethernet, IPv4 and TCP with all options that there can be.
const MOST_HEADERS: usize = 14 + 60 + 60;

/// A TCP segment in an IPv4 packet in a frame.
#[derive(Debug, Clone)]
struct Frame {
    station: MacAddr,
    source: [u8; 4],
    destination: [u8; 4],
    dscp_ecn: u8,
    ttl: u8,
    /// Flags and offset.
    fragment: u16,
    ip_options: Vec<u8>,
    /// What is wrong with the length and the checksum of the IPv4 header.
    length_error: i16,
    ip_error: u16,
    tcp: Tcp,
    /// Bytes behind the packet.
    padding: usize,
    /// Bytes of the frame that arrive.
    cut: usize,
}

#[derive(Debug, Clone)]
struct Tcp {
    /// Ports and numbers.
    fixed: [u8; 12],
    /// In words.
    data_offset: u8,
    flags: u8,
    window: u16,
    urgent: u16,
    /// Options, and payload.
    behind: Vec<u8>,
    /// What is wrong with the checksum.
    error: u16,
}

impl Frame {
    fn bytes(&self) -> Vec<u8> {
        let tcp = self.tcp.bytes(self.source.into(), self.destination.into());
        let header = ipv4::HEADER + self.ip_options.len();
        let total = ((header + tcp.len()) as u16).wrapping_add_signed(self.length_error);
        let mut packet = vec![0x40 | (header / 4) as u8, self.dscp_ecn];
        packet.extend(total.to_be_bytes());
        packet.extend([0x12, 0x34]);
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([self.ttl, ipv4::TCP, 0, 0]);
        packet.extend(self.source);
        packet.extend(self.destination);
        packet.extend(&self.ip_options);
        let sum = checksum(&packet) ^ self.ip_error;
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        let link = [&self.station.0[..], &PEER.0, &[8, 0]].concat();
        let mut frame = [link, packet, tcp, vec![0xee; self.padding]].concat();
        frame.truncate(self.cut);
        frame
    }
}

impl Tcp {
    fn bytes(&self, source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
        let mut bytes = self.fixed.to_vec();
        bytes.extend([self.data_offset << 4, self.flags]);
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(self.urgent.to_be_bytes());
        bytes.extend(&self.behind);
        let length = bytes.len() as u16;
        let mut sum = Checksum::pseudo_header(source, destination, ipv4::TCP, length);
        sum.add(&bytes);
        let sum = sum.finish() ^ self.error;
        bytes[16..18].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

/// Mostly the first, and now and then one of the others.
fn mostly<T: Clone + std::fmt::Debug + 'static>(
    usual: impl Strategy<Value = T> + 'static,
    others: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = T> {
    prop_oneof![12 => usual, 1 => others]
}

fn tcp() -> impl Strategy<Value = Tcp> {
    let stamped = (any::<[u8; 8]>(), prop::collection::vec(any::<u8>(), 0..200));
    let stamped = stamped.prop_map(|(stamps, payload)| {
        let behind = [&[1, 1, 8, 10], &stamps[..], &payload].concat();
        (8, behind)
    });
    let any_options = (0_u8..16, prop::collection::vec(any::<u8>(), 0..200));
    let without = prop::collection::vec(any::<u8>(), 0..200).prop_map(|payload| (5, payload));
    (
        any::<[u8; 12]>(),
        prop_oneof![stamped, without, any_options],
        any::<(u8, u16, u16)>(),
        mostly(Just(0), any::<u16>()),
    )
        .prop_map(|(fixed, (data_offset, behind), fields, error)| Tcp {
            fixed,
            data_offset,
            flags: fields.0,
            window: fields.1,
            urgent: fields.2,
            behind,
            error,
        })
}

fn frame() -> impl Strategy<Value = Frame> {
    let group = MacAddr([1, 0, 0x5e, 0, 0, 1]);
    let stations = prop::sample::select(vec![MacAddr::BROADCAST, PEER, group]);
    let sources = vec![
        [10, 0, 0, 1],
        [10, 0, 0, 255],
        [224, 0, 0, 1],
        [0; 4],
        [127, 0, 0, 1],
    ];
    let destinations = vec![[10, 0, 0, 3], [10, 0, 0, 255], [255; 4], [224, 0, 0, 1]];
    let ours = prop::sample::select(vec![[10, 0, 0, 1], [10, 0, 0, 9]]);
    let fragments = prop_oneof![Just(0x8000), Just(0x2000), 0_u16..8, any::<u16>()];
    let options = prop::collection::vec(any::<[u8; 4]>(), 0..10);
    (
        (
            mostly(Just(OURS), stations),
            mostly(Just([10, 0, 0, 2]), prop::sample::select(sources)),
            mostly(ours, prop::sample::select(destinations)),
            any::<(u8, u8)>(),
        ),
        (
            mostly(prop::sample::select(vec![0, 0x4000]), fragments),
            mostly(Just(Vec::new()), options),
            mostly(Just(0), -300_i16..300),
            mostly(Just(0), any::<u16>()),
        ),
        (tcp(), 0_usize..20, mostly(Just(usize::MAX), 0_usize..300)),
    )
        .prop_map(|(ends, network, (tcp, padding, cut))| Frame {
            station: ends.0,
            source: ends.1,
            destination: ends.2,
            dscp_ecn: ends.3.0,
            ttl: ends.3.1,
            fragment: network.0,
            ip_options: network.1.concat(),
            length_error: network.2,
            ip_error: network.3,
            tcp,
            padding,
            cut,
        })
}

/// 10.0.0.1, and 10.0.0.8 to 10.0.0.11.
fn host() -> Host<HeapBuffer> {
    let config = HostConfig {
        mac: OURS,
        addresses: vec!["10.0.0.1/24".parse().expect("an address")],
        owned: vec!["10.0.0.8/30".parse().expect("a prefix")],
        neighbors: vec![Neighbor {
            address: IpAddr::from([10, 0, 0, 2]),
            mac: PEER,
        }],
        ..HostConfig::default()
    };
    let mut host = Host::new(config, 1).expect("valid settings");
    host.set_transmit_room(100);
    host.enable_tcp();
    host
}

/// What a host makes of a frame.
#[derive(Debug, PartialEq)]
struct Outcome {
    segments: Vec<(Flow, TcpHeader, Vec<u8>, u8, u16)>,
    counters: HostCounters,
    drops: Drops,
    sent: Vec<Vec<u8>>,
}

fn receive(frame: HeapBuffer) -> Outcome {
    let mut host = host();
    host.receive(Instant::from_nanos(1), &mut vec![frame], &mut Heap);
    let segments = host.tcp_segments.drain(..).map(|it| {
        let payload = it.payload.to_vec();
        assert!(it.payload.offload().is_none(), "it may be sent again");
        (it.flow, it.header, payload, it.ecn, it.merged)
    });
    Outcome {
        segments: segments.collect(),
        counters: *host.counters(),
        drops: *host.drops(),
        sent: host.transmit().drain(..).map(|it| it.to_vec()).collect(),
    }
}

fn chain(bytes: &[u8]) -> HeapBuffer {
    let (head, tail) = bytes.split_at(bytes.len().min(MOST_HEADERS));
    let mut frame = HeapBuffer::new(head);
    frame.append(HeapBuffer::new(tail));
    frame
}

fn described(bytes: &[u8], checksum: ChecksumState, size: Option<u16>) -> HeapBuffer {
    let mut frame = HeapBuffer::new(bytes);
    let segmentation = size.map(|size| Segmentation {
        kind: SegmentKind::Tcp { ecn: false },
        size,
        header_length: 54,
    });
    assert!(frame.set_offload(Offload {
        checksum,
        segmentation,
    }));
    frame
}

const PARTIAL: ChecksumState = ChecksumState::Partial(PartialChecksum {
    start: 34,
    offset: 16,
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Addresses, fragments, options, lengths, padding, flags and checksums of every kind.
    #[test]
    fn an_ordinary_frame_is_received_like_a_chain(frame in frame()) {
        let bytes = frame.bytes();
        prop_assert_eq!(receive(HeapBuffer::new(&bytes)), receive(chain(&bytes)));
    }

    #[test]
    fn what_the_device_says_changes_only_whether_the_checksum_counts(
        frame in frame(),
        size in 1_u16..100,
        is_valid in any::<bool>(),
    ) {
        let state = if is_valid { ChecksumState::Valid } else { PARTIAL };
        let bytes = frame.bytes();
        let right = Tcp { error: 0, ..frame.tcp.clone() };
        let expected = receive(HeapBuffer::new(&Frame { tcp: right, ..frame }.bytes()));
        let told = receive(described(&bytes, state, None));
        if !expected.segments.is_empty() {
            prop_assert_eq!(&told, &expected);
        }
        let mut merged = receive(described(&bytes, state, Some(size)));
        for (_, _, payload, _, count) in &mut merged.segments {
            prop_assert_eq!(usize::from(*count), payload.len().div_ceil(size.into()).max(1));
            *count = 1;
        }
        prop_assert_eq!(merged, told);
    }
}

fn good() -> Frame {
    Frame {
        station: OURS,
        source: [10, 0, 0, 2],
        destination: [10, 0, 0, 9],
        dscp_ecn: 3,
        ttl: 0,
        fragment: 0x4000,
        ip_options: Vec::new(),
        length_error: 0,
        ip_error: 0,
        tcp: Tcp {
            fixed: [9; 12],
            data_offset: 5,
            flags: 0xff,
            window: 1,
            urgent: 2,
            behind: Vec::new(),
            error: 0,
        },
        padding: 6,
        cut: usize::MAX,
    }
}

#[test]
fn only_an_ordinary_frame_is_read_at_once() {
    let bytes = good().bytes();
    assert_eq!(host().receive_segment(HeapBuffer::new(&bytes)), Ok(()));
    for frame in [
        chain(&bytes),
        described(&bytes, ChecksumState::Valid, None),
        described(&bytes, PARTIAL, None),
        described(&bytes, ChecksumState::Plain, Some(9)),
    ] {
        assert_eq!(host().receive_segment(frame.clone()), Err(frame));
    }
    for state in [ChecksumState::Valid, PARTIAL] {
        let mut host = host();
        assert_eq!(
            host.receive_verified(described(&bytes, state, None)),
            Ok(())
        );
        assert_eq!(host.tcp_segments.len(), 1);
        let merged = described(&bytes, state, Some(9));
        assert_eq!(host.receive_verified(merged.clone()), Err(merged));
    }
    let frame = HeapBuffer::new(&bytes);
    let mut without = host();
    without.has_tcp = false;
    assert_eq!(without.receive_segment(frame.clone()), Err(frame));
}

#[test]
fn a_segment_for_which_there_is_no_room_is_dropped_for_that_reason() {
    let bytes = good().bytes();
    let mut host = host();
    let mut burst = vec![HeapBuffer::new(&bytes); MOST_WAITING + 2];
    host.receive(Instant::from_nanos(1), &mut burst, &mut Heap);
    assert_eq!(host.tcp_segments.len(), MOST_WAITING);
    assert_eq!(host.drops().get(DropReason::MailboxFull), 2);
    let counters = host.counters();
    assert_eq!(counters.delivered + counters.rx_dropped, counters.rx_frames);
    assert_eq!(counters.rx_bytes, counters.rx_frames * bytes.len() as u64);
}
