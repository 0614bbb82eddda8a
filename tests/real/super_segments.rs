//! Packets that ask to be cut, against DPDK's vhost backend: it takes them whole, completes their
//! checksums, and here sends each back as it is. What it does not take comes back in pieces.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use virtroupe::driver::memory::HugePages;
use virtroupe::driver::vhost_user::{VhostUser, VhostUserConfig};
use virtroupe::driver::{Device, DeviceOptions, Frame, Mergeable, QueuePair, RingFormat};
use virtroupe::wire::offload::{ChecksumState, complete_checksum};
use virtroupe::{Buffer, FeatureBits, Features};

use crate::support::crafted::{Crafted, Crafter};
use crate::support::process::TemporaryPath;
use crate::support::requirement::Requirement;
use crate::support::testpmd::{Options, Testpmd};
use crate::support::{Outcome, Suite, take_turn};

/// Packets of each case.
const PACKETS: usize = 60;
/// Of the packets.
const SEED: u64 = 7;
/// No packet takes as long.
const LIMIT: Duration = Duration::from_secs(60);

/// The tests of this module.
pub fn tests(suite: &Suite) -> Vec<Trial> {
    let dpdk = Requirement::Dpdk { huge_pages: 512 };
    vec![suite.test(
        "super_segments::dpdk_takes_them_whole",
        &[dpdk],
        dpdk_takes_them_whole,
    )]
}

fn dpdk_takes_them_whole() -> Outcome<()> {
    let _turn = take_turn();
    let socket = TemporaryPath::new("segments");
    let mut backend = Testpmd::start(&Options {
        role: "segments",
        core: 0,
        vdev: format!("net_vhost0,iface={},queues=1,tso=1", socket.display()),
        forward: vec!["--forward-mode=io".into()],
        namespace: None,
    })?;
    backend.forward()?;
    for (ring_format, transmit_offloads) in [
        (RingFormat::Split, true),
        (RingFormat::Split, false),
        (RingFormat::Packed, true),
        (RingFormat::Packed, false),
    ] {
        let options = DeviceOptions {
            huge_pages: HugePages::Never,
            mac: Some("02:00:00:00:00:01".parse()?),
            ring_format,
            transmit_offloads,
            // What comes back is as long as what was sent.
            mergeable: Mergeable::Always,
            ..DeviceOptions::default()
        };
        let transport = VhostUser::new(VhostUserConfig::new(socket.to_path_buf()));
        let (mut device, mut pairs) = Device::initialize(Box::new(transport), &options)?;
        let features = device.features().clone();
        let tso = FeatureBits::HOST_TSO4 | FeatureBits::HOST_TSO6;
        assert_eq!(features.bits.contains(tso), transmit_offloads);
        let mut pair = pairs.pop().ok_or("no queue pair")?.bind();
        let before = backend.port_stats()?.received;
        let sent = compare(&mut pair, &features, SEED);
        assert_eq!(backend.port_stats()?.received - before, sent);
        device.reset()?;
        pair.reclaim_after_reset();
    }
    backend.quit()
}

/// Sends packets, one after the other, and compares what comes back. Returns how many frames the
/// backend must have got.
fn compare(pair: &mut QueuePair, features: &Features, seed: u64) -> u64 {
    let mut crafter = Crafter::new(seed);
    let (mut frames, mut received) = (0, Vec::new());
    assert_eq!(pair.receive(&mut received, 64), Ok(0));
    for number in 0..PACKETS {
        let packet = crafter.packet();
        let mut frame = Frame::on_heap(&packet.bytes);
        assert!(frame.set_offload(packet.offload));
        let mut burst = vec![frame];
        let dropped = features
            .transmit_offloads()
            .carry_out(&mut burst, pair.pool());
        assert!(dropped.is_empty(), "{dropped:?}");
        let expected = match features.bits.contains(packet.needs()) {
            true => vec![completed(&packet)],
            false => packet.in_software(),
        };
        let context = format!("seed {seed}, packet {number}, {:?}", packet.offload);
        assert_eq!(burst.len(), expected.len(), "{context}");
        frames += expected.len() as u64;
        let deadline = Instant::now() + LIMIT;
        while received.len() < expected.len() {
            pair.transmit(&mut burst).expect("no violation");
            pair.receive(&mut received, 64).expect("no violation");
            let missing = expected.len() - received.len();
            assert!(Instant::now() < deadline, "{missing} missing; {context}");
        }
        for (frame, expected) in received.drain(..).zip(expected) {
            let frame = without_zero_sum(frame.to_vec(), &packet);
            let expected = without_zero_sum(expected, &packet);
            assert!(frame == expected, "{context}");
        }
    }
    assert_eq!(pair.transmit_counters().drops.total(), 0);
    frames
}

/// The whole packet with a whole checksum.
fn completed(packet: &Crafted) -> Vec<u8> {
    let mut frame = Frame::on_heap(&packet.bytes);
    if let ChecksumState::Partial(partial) = packet.offload.checksum {
        assert!(complete_checksum(&mut frame, partial));
    }
    frame.to_vec()
}

/// The two ways to write a sum of zero made one: we take that of UDP for TCP too.
fn without_zero_sum(mut bytes: Vec<u8>, packet: &Crafted) -> Vec<u8> {
    if let ChecksumState::Partial(partial) = packet.offload.checksum {
        let field = usize::from(partial.start + partial.offset);
        // A fragment may be shorter.
        if let Some(sum) = bytes.get_mut(field..field + 2)
            && sum == [0xff; 2]
        {
            sum.fill(0);
        }
    }
    bytes
}
