//! Transmit offloads: done by the device or by the driver, the receiver gets the same.

use virtroupe::driver::embedded::{EmbeddedConfig, Link, LinkConfig};
use virtroupe::{FeatureBits, Payload, UdpSend};

use super::support::{Probe, Seen, Send, address, config, start, start_device, within};

/// Sends a train of 5 datagrams; `features` are what the device offers. Returns the frames that
/// the device took, and how many it added by segmentation.
async fn train(features: FeatureBits, offloads: bool) -> (u64, u64) {
    let (left, right) = Link::pair(LinkConfig::default());
    let mut sender_config = config(1);
    sender_config.options.transmit_offloads = offloads;
    let device = EmbeddedConfig {
        features,
        ..EmbeddedConfig::default()
    };
    let (sender, handle) = start_device(sender_config, device, left).await;
    let (receiver, _) = start(config(2), right).await;
    let (_at, mut seen) = Probe::start(&receiver, "0.0.0.0:7", false)
        .await
        .expect("bound");
    let (probe, _) = Probe::start(&sender, "10.0.0.1:5000", false)
        .await
        .expect("bound");
    let payload: Vec<u8> = (0..5000u32).map(|byte| (byte * 7) as u8).collect();
    let train = UdpSend {
        segment_size: Some(1200),
        ..UdpSend::new(
            address("10.0.0.2:7"),
            Payload::Bytes(payload.clone().into()),
        )
    };
    let (outcome, _) = within(probe.send(Send(vec![train]))).await.expect("alive");
    assert_eq!(outcome.accepted, 1);
    let mut received = Vec::new();
    for expected in payload.chunks(1200) {
        match within(seen.recv()).await {
            Some(Seen::Datagram { payload, .. }) => received.push((payload, expected.to_vec())),
            other => panic!("{other:?}"),
        }
    }
    assert!(received.iter().all(|(got, expected)| got == expected));
    // Wrong checksums would have been dropped.
    assert_eq!(receiver.stats().await.expect("it runs").drops().total(), 0);
    let stats = handle.stats();
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
    (stats.from_driver.frames, stats.segments_added.frames)
}

#[actix::test]
async fn a_train_is_cut_by_the_device_if_it_can_and_else_by_the_driver() {
    // Besides the train: a question to the neighbour.
    let all = EmbeddedConfig::SUPPORTED;
    assert_eq!(train(all, true).await, (2, 4));
    assert_eq!(train(all, false).await, (6, 0));
    let without_uso = FeatureBits(all.0 & !FeatureBits::HOST_USO.0);
    assert_eq!(train(without_uso, true).await, (6, 0));
    let without_checksum = FeatureBits(all.0 & !FeatureBits::CSUM.0);
    assert_eq!(train(without_checksum, true).await, (6, 0));
}
