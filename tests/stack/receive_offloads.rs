//! Receive offloads: whatever a device merges or leaves undone, sockets get the same datagrams.

use virtroupe::driver::embedded::{EmbeddedConfig, Link, LinkConfig};
use virtroupe::{Payload, ReceiveOffloadMode, UdpSend};

use super::support::{Probe, Seen, Send, address, config, dropped, start, start_device, within};

/// Bytes in each datagram of the train but the last.
const SIZE: u16 = 1200;

/// Sends a train of 5 datagrams, and a datagram in fragments, to a receiver that echoes. Returns
/// how many frames the link made of the train besides one.
async fn echo(mode: ReceiveOffloadMode, cpus: u16) -> u64 {
    let (left, right) = Link::pair(LinkConfig::default());
    let (sender, handle) = start_device(config(1), EmbeddedConfig::default(), left).await;
    let mut receiver_config = config(2);
    receiver_config.options.receive_offloads = mode;
    receiver_config.cpus.count = cpus;
    // The socket is on cpu 0: with several cpus, all that it gets was handed over.
    receiver_config.cpus.device = cpus - 1;
    let (receiver, receiver_handle) = start(receiver_config, right).await;
    let (_echo, _) = Probe::start(&receiver, "10.0.0.2:7", true)
        .await
        .expect("bound");
    let (probe, mut seen) = Probe::start(&sender, "10.0.0.1:5000", false)
        .await
        .expect("bound");
    let payload: Vec<u8> = (0..5000u32).map(|byte| (byte * 7) as u8).collect();
    let send = |segment_size| UdpSend {
        segment_size,
        ..UdpSend::new(
            address("10.0.0.2:7"),
            Payload::Bytes(payload.clone().into()),
        )
    };
    let burst = vec![send(None), send(Some(SIZE))];
    let (outcome, _) = within(probe.send(Send(burst))).await.expect("alive");
    assert_eq!(outcome.accepted, 2);
    let mut expected: Vec<_> = payload.chunks(SIZE.into()).map(<[u8]>::to_vec).collect();
    expected.push(payload.clone());
    let mut received = Vec::new();
    while received.len() < expected.len() {
        match within(seen.recv()).await {
            Some(Seen::Datagram { payload, .. }) => received.push(payload),
            other => panic!("{other:?}"),
        }
    }
    // What was put together from fragments takes a longer way to another cpu.
    expected.sort_unstable();
    received.sort_unstable();
    assert!(received == expected, "{mode:?}, {cpus} cpus");
    // Wrong checksums of the answers, or of what was merged, would have been dropped.
    for stack in [&sender, &receiver] {
        assert_eq!(dropped(&stack.stats().await.expect("it runs")), 0);
    }
    let (stats, received) = (handle.stats(), receiver_handle.stats());
    assert_eq!(stats.violations.frames + received.undoable.frames, 0);
    assert_eq!(received.from_backend, received.to_driver);
    sender.shutdown().await;
    receiver.shutdown().await;
    stats.segments_added.frames
}

#[actix::test]
async fn a_train_reaches_its_socket_in_datagrams_whether_the_device_cut_it_or_not() {
    for cpus in [1, 2] {
        assert_eq!(echo(ReceiveOffloadMode::All, cpus).await, 0);
        assert_eq!(echo(ReceiveOffloadMode::Checksum, cpus).await, 4);
        assert_eq!(echo(ReceiveOffloadMode::Never, cpus).await, 4);
    }
}
