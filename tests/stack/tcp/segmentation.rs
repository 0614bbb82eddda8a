//! Who sends what the device is to cut: every cpu, those without a queue too, and on no device that
//! does not take it.

use virtroupe::driver::ReceiveOffloadMode;
use virtroupe::driver::embedded::{EmbeddedStats, Link, LinkConfig};
use virtroupe::{CpuRole, FeatureBits, Stats};

use super::super::support::{address, config, start, within};
use super::support::{connect, echo_server, exchange, wide};

/// Bytes that each cpu sends, and gets back.
const LENGTH: usize = 1 << 20;

/// Has each cpu of a stack send a stream. Returns what the stack and its device counted, when both
/// are at rest.
async fn stream_from_each(cpus: u16, queues: u16, offloads: bool) -> (Stats, EmbeddedStats) {
    let (left, right) = Link::pair(LinkConfig::default());
    let mut sending = wide(1, cpus, queues);
    sending.options.transmit_offloads = offloads;
    let (client, device) = start(sending, left).await;
    let mut receiving = config(2);
    // Else the link hands on whole what the sender's device shall cut.
    receiving.options.receive_offloads = ReceiveOffloadMode::Never;
    let (server, _) = start(receiving, right).await;
    let tso = FeatureBits::HOST_TSO4 | FeatureBits::HOST_TSO6;
    assert_eq!(client.features().bits.contains(tso), offloads);
    echo_server(&server, "10.0.0.2:7").await;
    let streams = (0..cpus).map(|cpu| {
        let client = client.clone();
        actix::spawn(async move {
            let streaming = client.run_on(cpu, move |local| async move {
                let stream = connect(&local, address("10.0.0.2:7")).await;
                exchange(stream, cpu.into(), LENGTH).await
            });
            streaming.await.expect("it runs")
        })
    });
    for stream in streams.collect::<Vec<_>>() {
        assert!(within(stream).await.expect("no panic"), "the echo differs");
    }
    within(server.shutdown()).await;
    let stats = within(client.stats()).await.expect("it runs");
    within(client.shutdown()).await;
    assert_eq!(stats.cpus.len(), usize::from(cpus));
    let proxies = stats.cpus.iter().filter(|cpu| cpu.role == CpuRole::Proxy);
    assert_eq!(proxies.count(), usize::from(cpus - queues));
    (stats, device.stats())
}

/// The device got nothing that was not negotiated, and nothing longer than its MTU otherwise.
fn is_allowed(device: &EmbeddedStats) {
    assert_eq!(device.violations.frames, 0, "{device:?}");
    assert_eq!(device.oversized.frames, 0, "{device:?}");
    assert_eq!(device.runts.frames, 0, "{device:?}");
}

async fn each_sends_long_frames(cpus: u16, queues: u16) {
    let (stats, device) = stream_from_each(cpus, queues, true).await;
    for cpu in &stats.cpus {
        let shard = &cpu.shard;
        assert!(
            shard.host.tx_segmented > 0,
            "cpu {} ({:?}) sends no long frame: {stats}",
            cpu.cpu,
            cpu.role
        );
        assert_eq!(shard.segments_added, 0, "cpu {} cuts in software", cpu.cpu);
    }
    assert!(device.segments_added.frames > 0, "{device:?}");
    is_allowed(&device);
}

#[actix::test]
async fn each_of_three_cpus_with_two_queues_sends_what_the_device_cuts() {
    each_sends_long_frames(3, 2).await;
}

#[actix::test]
async fn each_of_two_cpus_with_one_queue_sends_what_the_device_cuts() {
    each_sends_long_frames(2, 1).await;
}

#[actix::test]
async fn without_offloads_no_cpu_sends_what_a_device_would_have_to_cut() {
    for (cpus, queues) in [(3, 2), (2, 1)] {
        let (stats, device) = stream_from_each(cpus, queues, false).await;
        is_allowed(&device);
        for cpu in &stats.cpus {
            let host = &cpu.shard.host;
            assert_eq!(host.tx_segmented, 0, "cpu {}: {stats}", cpu.cpu);
            let segments = LENGTH as u64 / 1448;
            assert!(host.tx_frames > segments, "cpu {}: {host:?}", cpu.cpu);
        }
        assert_eq!(device.segments_added.frames, 0, "{device:?}");
    }
}
