//! Transmit offloads: done by the device or in software, the receiver gets the same.

use virtroupe::driver::embedded::{EmbeddedConfig, Link, LinkConfig};
use virtroupe::driver::{ReceiveOffloadMode, RingFormat, TransmitOffloads};
use virtroupe::{Config, FeatureBits, Frame, Payload, UdpSend};

use crate::crafted::Crafter;
use crate::station::UnboundStation;

use super::support::{Probe, Seen, Send, address, config, dropped, start_device, within};

/// What is sent: so many bytes, in datagrams of a length, or in one.
type Sending = (usize, Option<u16>);

const TRAIN: Sending = (5000, Some(1200));
/// Four fragments of at most 1480 bytes.
const LONG: Sending = (5000, None);

/// Frames that the device took for what was sent, and those that it made more of them.
#[derive(Debug, PartialEq, Eq)]
struct Frames {
    taken: u64,
    added: u64,
}

/// Sends from the last cpu of a stack with `config`, on a device that offers `features`, and
/// compares what arrives.
async fn send(sendings: &[Sending], features: FeatureBits, config: Config) -> Frames {
    let (left, right) = Link::pair(LinkConfig::default());
    let device = EmbeddedConfig {
        features,
        mtu: config.options.mtu.unwrap_or(1500),
        ..EmbeddedConfig::default()
    };
    let cpu = config.cpus.count - 1;
    let mut receiver = super::support::config(2);
    receiver.options.mtu = config.options.mtu;
    // Else the link hands on whole what the sender's device shall cut.
    receiver.options.receive_offloads = ReceiveOffloadMode::Never;
    let receiving = EmbeddedConfig {
        mac: virtroupe::MacAddr([2, 0, 0, 0, 0, 2]),
        mtu: device.mtu,
        ..EmbeddedConfig::default()
    };
    let (sender, handle) = start_device(config, device, left).await;
    let (receiver, _) = start_device(receiver, receiving, right).await;
    let (_at, mut seen) = Probe::start(&receiver, "0.0.0.0:7", false)
        .await
        .expect("bound");
    let (probe, _) = Probe::start_on(&sender, cpu, "10.0.0.1:5000", false)
        .await
        .expect("bound");
    // The first waits for its neighbour, and so must no other.
    let known = (1, None);
    let mut before = Frames { taken: 0, added: 0 };
    for (number, sending) in [known].iter().chain(sendings).enumerate() {
        let (length, segment_size) = *sending;
        let payload: Vec<u8> = (0..length).map(|at| (at * 7 + number) as u8).collect();
        let (outcome, _) = within(probe.send(Send(vec![datagram(&payload, segment_size)])))
            .await
            .expect("alive");
        assert_eq!(outcome.accepted, 1, "{outcome:?}");
        for expected in payload.chunks(segment_size.map_or(length, usize::from)) {
            match within(seen.recv()).await {
                Some(Seen::Datagram { payload, .. }) => assert!(payload == expected),
                other => panic!("{other:?}"),
            }
        }
        if number == 0 {
            before = frames(&handle.stats());
        }
    }
    // Wrong checksums would have been dropped.
    for stack in [&sender, &receiver] {
        assert_eq!(dropped(&stack.stats().await.expect("it runs")), 0);
    }
    let stats = handle.stats();
    // Frames that are longer than the MTU, and ask for nothing that was negotiated.
    assert_eq!(stats.violations.frames, 0);
    let ours = sender.stats().await.expect("it runs");
    let made = ours.cpus.iter().map(|cpu| &cpu.shard);
    let made: u64 = made
        .map(|shard| shard.host.tx_frames + shard.segments_added - shard.unsent)
        .sum();
    assert_eq!(
        made,
        ours.sent_frames(),
        "a train is one frame, its pieces are added"
    );
    sender.shutdown().await;
    receiver.shutdown().await;
    let after = frames(&stats);
    Frames {
        taken: after.taken - before.taken,
        added: after.added - before.added,
    }
}

fn datagram(payload: &[u8], segment_size: Option<u16>) -> UdpSend<Frame> {
    UdpSend {
        segment_size,
        ..UdpSend::new(
            address("10.0.0.2:7"),
            Payload::Bytes(payload.to_vec().into()),
        )
    }
}

fn frames(stats: &virtroupe::driver::embedded::EmbeddedStats) -> Frames {
    Frames {
        taken: stats.from_driver.frames,
        added: stats.segments_added.frames,
    }
}

#[actix::test]
async fn what_is_long_is_one_frame_for_a_device_that_cuts_it_and_many_for_others() {
    let all = EmbeddedConfig::SUPPORTED;
    let (one, many) = (Frames { taken: 1, added: 3 }, Frames { taken: 4, added: 0 });
    assert_eq!(send(&[LONG], all, config(1)).await, one);
    assert_eq!(
        send(&[LONG], all - FeatureBits::HOST_UFO, config(1)).await,
        many
    );
    let (one, many) = (Frames { taken: 1, added: 4 }, Frames { taken: 5, added: 0 });
    assert_eq!(send(&[TRAIN], all, config(1)).await, one);
    assert_eq!(
        send(&[TRAIN], all - FeatureBits::HOST_USO, config(1)).await,
        many
    );
    assert_eq!(
        send(&[TRAIN], all - FeatureBits::CSUM, config(1)).await,
        many
    );
    let mut without = config(1);
    without.options.transmit_offloads = false;
    assert_eq!(send(&[TRAIN], all, without).await, many);
}

/// Each feature alone and each left out, on both formats of rings.
#[actix::test]
async fn every_set_of_offloads_delivers_the_same() {
    let sendings = [
        LONG,
        (1472, None),
        (1473, None),
        (65_507, None),
        TRAIN,
        (2, Some(1)),
        (40_000, Some(1472)),
    ];
    let offloads = [
        FeatureBits::CSUM,
        FeatureBits::HOST_UFO,
        FeatureBits::HOST_USO,
    ];
    let all = EmbeddedConfig::SUPPORTED;
    let none = all - TransmitOffloads::ALL;
    let mut sets = vec![all, none];
    for offload in offloads {
        sets.extend([all - offload, none | FeatureBits::CSUM | offload]);
    }
    for ring_format in [RingFormat::Split, RingFormat::Packed] {
        for features in &sets {
            let mut config = config(1);
            config.options.ring_format = ring_format;
            let frames = send(&sendings, *features, config).await;
            let on_the_wire = 4 + 1 + 2 + 45 + 5 + 2 + 28;
            assert_eq!(frames.taken + frames.added, on_the_wire, "{features}");
        }
    }
}

/// Frames of an application, of every kind: all subsets of the offloads, on both formats of rings.
#[test]
fn every_set_of_offloads_cuts_frames_alike() {
    const PACKETS: usize = 10;
    let offloads = [
        FeatureBits::CSUM,
        FeatureBits::HOST_TSO4,
        FeatureBits::HOST_TSO6,
        FeatureBits::HOST_ECN,
        FeatureBits::HOST_UFO,
        FeatureBits::HOST_USO,
    ];
    let none = EmbeddedConfig::SUPPORTED - TransmitOffloads::ALL;
    for seed in 0..128u64 {
        let has = |(bit, feature): (usize, &FeatureBits)| {
            if seed >> bit & 1 == 1 {
                *feature
            } else {
                FeatureBits::NONE
            }
        };
        let offered = offloads.iter().enumerate().map(has);
        let features = offered.fold(none, |set, feature| set | feature);
        let format = [RingFormat::Split, RingFormat::Packed][usize::from(seed >= 64)];
        let (left, right) = Link::pair(LinkConfig::default());
        let station = |end, features| UnboundStation::new(end, features, format).expect("ready");
        let mut sender = station(left, features).bind();
        let mut receiver = station(right, EmbeddedConfig::SUPPORTED).bind();
        let mut crafter = Crafter::new(seed);
        for number in 0..PACKETS {
            let packet = crafter.packet();
            let expected = packet.in_software();
            let taken = sender.send(&packet, &mut crafter);
            let is_taken = sender.features().contains(packet.needs());
            let context = format!("seed {seed}, packet {number}, {:?}", packet.offload);
            let frames = if is_taken { 1 } else { expected.len() as u64 };
            assert_eq!(taken, frames, "frames to the device; {context}");
            assert!(
                receiver.receive(expected.len(), |_| true) == expected,
                "{context}"
            );
        }
    }
}

#[actix::test]
async fn a_proxy_describes_what_the_device_of_another_cpu_cuts() {
    let mut config = config(1);
    config.cpus.count = 2;
    let all = EmbeddedConfig::SUPPORTED;
    let expected = Frames { taken: 2, added: 7 };
    assert_eq!(send(&[LONG, TRAIN], all, config.clone()).await, expected);
    let expected = Frames { taken: 9, added: 0 };
    let none = all - TransmitOffloads::ALL;
    assert_eq!(send(&[LONG, TRAIN], none, config).await, expected);
}

/// 16 descriptors hold 33 792 bytes in one chain.
#[actix::test]
async fn a_ring_that_is_too_short_for_a_long_frame_gets_its_pieces() {
    let mut config = config(1);
    config.options.queue_size = 16;
    config.options.mtu = Some(4000);
    config.options.pool_frames = 512;
    let all = EmbeddedConfig::SUPPORTED;
    let frames = send(&[(60_000, None), (30_000, None)], all, config).await;
    assert_eq!(
        frames,
        Frames {
            taken: 17,
            added: 7
        }
    );
}

/// Each holds ten slots and one descriptor: of 256 slots, a ring of 64 descriptors that is emptied
/// when half of it is used leaves none.
#[actix::test]
async fn many_long_frames_do_not_empty_the_pool() {
    let all = EmbeddedConfig::SUPPORTED;
    let frames = send(&[(20_000, None); 60], all, config(1)).await;
    assert_eq!(
        frames,
        Frames {
            taken: 60,
            added: 60 * 13
        }
    );
}
