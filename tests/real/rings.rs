//! Every kind of ring against DPDK's vhost backend, which sends each frame back as it came.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use virtroupe::driver::features::FeatureBits;
use virtroupe::driver::memory::HugePages;
use virtroupe::driver::vhost_user::{VhostUser, VhostUserConfig};
use virtroupe::driver::{
    Device, DeviceOptions, Frame, Mergeable, QueuePair, ReceiveOffloadMode, RingFormat,
};
use virtroupe::wire::checksum::{self, Checksum};
use virtroupe::wire::offload::{ChecksumState, PartialChecksum, SegmentKind, Segmentation};
use virtroupe::wire::{Buffer, Offload};

use crate::support::process::TemporaryPath;
use crate::support::requirement::Requirement;
use crate::support::testpmd::{Options, Testpmd};
use crate::support::{Outcome, Suite, take_turn};

/// Frames of each case: some rounds of each ring.
const FRAMES: u32 = 1000;
/// Where the checksum is in a TCP packet.
const CHECKSUM: Range<usize> = 50..52;
/// Bytes of a receive buffer.
const BUFFER: usize = 2048;
/// No case takes as long.
const LIMIT: Duration = Duration::from_secs(30);

/// The tests of this module.
pub fn tests(suite: &Suite) -> Vec<Trial> {
    let dpdk = Requirement::Dpdk { huge_pages: 512 };
    vec![
        suite.test("rings::split", &[dpdk], || every_case(RingFormat::Split)),
        suite.test("rings::packed", &[dpdk], || every_case(RingFormat::Packed)),
    ]
}

/// What a driver may ask for, one after the other from one backend.
fn cases(ring_format: RingFormat) -> Vec<DeviceOptions> {
    let mut cases = Vec::new();
    let sizes = match ring_format {
        RingFormat::Packed => [256, 100],
        _ => [256, 64],
    };
    let receive = [
        (1500, Mergeable::Auto),
        (1500, Mergeable::Always),
        (9000, Mergeable::Auto),
    ];
    for in_order in [false, true] {
        for (mtu, mergeable) in receive {
            for queue_size in sizes {
                cases.push(DeviceOptions {
                    queue_size,
                    huge_pages: HugePages::Never,
                    mac: Some("02:00:00:00:00:01".parse().expect("an address")),
                    mtu: Some(mtu),
                    ring_format,
                    mergeable,
                    in_order,
                    // Each with every other value of what came before.
                    indirect: queue_size == 256,
                    event_idx: queue_size == 256,
                    receive_offloads: ReceiveOffloadMode::Never,
                    ..DeviceOptions::default()
                });
            }
        }
        for receive_offloads in [ReceiveOffloadMode::All, ReceiveOffloadMode::Checksum] {
            cases.push(DeviceOptions {
                receive_offloads,
                in_order,
                ring_format,
                mtu: Some(1500),
                huge_pages: HugePages::Never,
                mac: Some("02:00:00:00:00:01".parse().expect("an address")),
                ..DeviceOptions::default()
            });
        }
    }
    cases
}

fn every_case(ring_format: RingFormat) -> Outcome<()> {
    let _turn = take_turn();
    let socket = TemporaryPath::new("rings");
    let mut backend = Testpmd::start(&Options {
        role: "rings",
        core: 0,
        // The flags of the driver's frames go back with them: the backend then sends what it got.
        vdev: format!(
            "net_vhost0,iface={},queues=1,tso=1,legacy-ol-flags=1",
            socket.display()
        ),
        forward: vec!["--forward-mode=io".into()],
        namespace: None,
    })?;
    backend.forward()?;
    for options in cases(ring_format) {
        let mut transport = VhostUserConfig::new(socket.to_path_buf());
        transport.mtu = options.mtu;
        let transport = Box::new(VhostUser::new(transport));
        let (mut device, mut pairs) = Device::initialize(transport, &options)?;
        let bits = device.features().bits;
        let negotiated = [
            (FeatureBits::RING_PACKED, ring_format == RingFormat::Packed),
            (FeatureBits::IN_ORDER, options.in_order),
            (
                FeatureBits::MRG_RXBUF,
                options.mtu == Some(9000)
                    || options.mergeable == Mergeable::Always
                    || options.receive_offloads == ReceiveOffloadMode::All,
            ),
            (
                FeatureBits::GUEST_CSUM,
                options.receive_offloads != ReceiveOffloadMode::Never,
            ),
            (
                FeatureBits::GUEST_TSO4,
                options.receive_offloads == ReceiveOffloadMode::All,
            ),
            (FeatureBits::INDIRECT_DESC, options.indirect),
            // It is believed where the backend cuts TCP too.
            (FeatureBits::HOST_TSO4, true),
            (FeatureBits::HOST_UFO, true),
        ];
        for (feature, expected) in negotiated {
            assert_eq!(bits.contains(feature), expected, "{feature}: {options:?}");
        }
        let mut pair = pairs.pop().ok_or("no queue pair")?.bind();
        echo(&mut pair, &options);
        echo_described(&mut pair, &options);
        device.reset()?;
        pair.reclaim_after_reset();
        let pool = pair.pool();
        pool.collect();
        assert_eq!(pool.available(), pool.capacity(), "{options:?}");
    }
    backend.quit()
}

/// Sends frames of all lengths and shapes, and gets each back, in order and unchanged.
fn echo(pair: &mut QueuePair, options: &DeviceOptions) {
    let longest = usize::from(options.mtu.unwrap_or(1500)) + 14;
    // The backend drops what finds no buffer, and half of the ring is always posted.
    let window = usize::from(options.queue_size / 2) / (longest + 12).div_ceil(BUFFER);
    let deadline = Instant::now() + LIMIT;
    let (mut made, mut under_way) = (0, VecDeque::new());
    let (mut outgoing, mut received) = (Vec::new(), Vec::new());
    // The first call posts buffers: without, what comes back finds none.
    assert_eq!(pair.receive(&mut received, 64), Ok(0));
    while made < FRAMES || !under_way.is_empty() {
        while made < FRAMES && under_way.len() < window {
            let bytes = content(made, longest);
            let Some(frame) = shaped(pair, made, &bytes) else {
                break;
            };
            outgoing.push(frame);
            under_way.push_back(bytes);
            made += 1;
        }
        pair.transmit(&mut outgoing).expect("no violation");
        pair.receive(&mut received, 64).expect("no violation");
        for frame in received.drain(..) {
            let expected = under_way.pop_front().expect("sent before");
            assert!(frame.to_vec() == expected, "not what was sent: {options:?}");
        }
        assert!(
            Instant::now() < deadline,
            "{} of {made} frames did not come back: {options:?}",
            under_way.len()
        );
    }
    let drops = pair.transmit_counters().drops.total();
    assert_eq!(drops, 0, "{options:?}");
}

/// Sends packets with what is left to do for them, and gets each back as one frame that says the
/// same: checksums, and TCP that is to be cut where large frames were asked for.
fn echo_described(pair: &mut QueuePair, options: &DeviceOptions) {
    let longest = match options.receive_offloads {
        ReceiveOffloadMode::All => 60_000,
        ReceiveOffloadMode::Checksum => 1400,
        _ => return,
    };
    let deadline = Instant::now() + LIMIT;
    for number in 0..50 {
        let payload = content(number, longest);
        let (bytes, offload) = tcp(&payload[..payload.len() - 14]);
        let mut frame = Frame::on_heap(&bytes);
        assert!(frame.set_offload(offload));
        let (mut outgoing, mut received) = (vec![frame], Vec::new());
        while received.is_empty() {
            pair.transmit(&mut outgoing).expect("no violation");
            pair.receive(&mut received, 64).expect("no violation");
            assert!(Instant::now() < deadline, "{number} is lost: {options:?}");
        }
        assert_eq!(received.len(), 1);
        let (mut got, mut bytes) = (received[0].to_vec(), bytes);
        if offload.segmentation.is_some() {
            // The backend writes a sum without the length into it, as some hardware wants it.
            got[CHECKSUM].fill(0);
            bytes[CHECKSUM].fill(0);
        }
        assert!(got == bytes, "{number} is not what was sent: {options:?}");
        assert_eq!(received[0].offload(), offload, "{number}: {options:?}");
    }
}

/// A TCP packet, to be cut if it is longer than the link allows, as an engine makes it.
fn tcp(payload: &[u8]) -> (Vec<u8>, Offload) {
    let length = (20 + payload.len()) as u16;
    let mut ip = [
        0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ];
    ip[2..4].copy_from_slice(&(20 + length).to_be_bytes());
    let sum = checksum::checksum(&ip).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);
    let mut header = [
        0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 255, 255, 0, 0, 0, 0,
    ];
    let (source, destination) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let pseudo = !Checksum::pseudo_header(source, destination, 6, length).finish();
    header[16..18].copy_from_slice(&pseudo.to_be_bytes());
    let link = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    let offload = Offload {
        checksum: ChecksumState::Partial(PartialChecksum {
            start: 34,
            offset: 16,
        }),
        segmentation: (payload.len() > 1460).then_some(Segmentation {
            kind: SegmentKind::Tcp { ecn: false },
            size: 1460,
            header_length: 54,
        }),
    };
    ([&link[..], &ip, &header, payload].concat(), offload)
}

fn content(number: u32, longest: usize) -> Vec<u8> {
    let seed = number.wrapping_mul(0x9e37_79b9);
    let length = match number % 4 {
        // The longest, where each case is most likely to fail.
        0 => longest,
        _ => 60 + (seed >> 8) as usize % (longest - 59),
    };
    (0..length)
        .map(|at| (seed >> (at % 24)) as u8 ^ (at >> 8) as u8)
        .collect()
}

/// The bytes as a frame of one segment, of full slots, or of many.
fn shaped(pair: &mut QueuePair, number: u32, bytes: &[u8]) -> Option<Frame> {
    let piece = match number % 3 {
        0 => bytes.len().div_ceil(9).max(14),
        1 => 2000,
        _ => return Some(Frame::on_heap(bytes)),
    };
    let mut pieces = bytes.chunks(piece).map(|piece| {
        let mut frame = pair.pool().frame()?;
        frame.extend_from_slice(piece).then_some(frame)
    });
    let mut whole = pieces.next()??;
    for segment in pieces {
        whole.append(segment?);
    }
    Some(whole)
}
