//! More packets than somebody can take.

use std::time::Duration;

use actix::prelude::*;
use etherparse::PacketBuilder;
use virtroupe::driver::embedded::{
    EmbeddedConfig, EmbeddedTransport, Link, LinkConfig, PacketSource, SourceConfig, monotonic_now,
};
use virtroupe::{DropReason, MacAddr, SocketEvent, Supervisor, UdpReceived, UdpSocket};

use super::support::{Probe, Seen, Send, address, config, datagram, pair, start, within};

/// Keeps a socket open on its cpu.
struct Holder {
    _socket: UdpSocket,
}

impl Actor for Holder {
    type Context = Context<Self>;
}

/// Takes its time for each burst, on an arbiter of its own.
struct Reader {
    received: u64,
    pause: Duration,
}

impl Actor for Reader {
    type Context = Context<Self>;
}

impl Handler<UdpReceived> for Reader {
    type Result = ();

    fn handle(&mut self, received: UdpReceived, _: &mut Self::Context) {
        self.received += received.datagrams.len() as u64;
        std::thread::sleep(self.pause);
    }
}

#[derive(Message)]
#[rtype(result = "u64")]
struct Received;

impl Handler<Received> for Reader {
    type Result = u64;

    fn handle(&mut self, _: Received, _: &mut Self::Context) -> u64 {
        self.received
    }
}

fn udp_frame(port: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1])
        .ipv4([10, 0, 0, 9], [10, 0, 0, 1], 64)
        .udp(1000, port);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"some payload").expect("it fits");
    frame
}

/// `sent = received + dropped`, exactly, when the application is far slower than the source;
/// and the pool is whole again afterwards. The source begins when somebody listens.
#[actix::test]
async fn every_packet_to_a_slow_reader_is_received_or_counted_as_dropped() {
    const COUNT: u64 = 50_000;
    let source = PacketSource::new(SourceConfig {
        frames: vec![udp_frame(7)],
        count: Some(COUNT),
        ..SourceConfig::default()
    });
    let monitor = source.monitor();
    let device = EmbeddedConfig {
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        ..EmbeddedConfig::default()
    };
    let (transport, _, stepper) = EmbeddedTransport::inline(device, source).expect("a device");
    let stack = within(Supervisor::start_on(Box::new(transport), config(1))).await;
    let stack = stack.expect("the stack starts");
    let elsewhere = Arbiter::new();
    let (report, reader) = tokio::sync::oneshot::channel();
    elsewhere.spawn(async move {
        let _ = report.send(
            Reader {
                received: 0,
                pause: Duration::from_micros(200),
            }
            .start(),
        );
    });
    let reader = reader.await.expect("started");
    let recipient = reader.clone();
    let socket = stack.run_on(0, move |local| async move {
        let socket = local.bind_udp(address("0.0.0.0:7")).await.expect("free");
        socket.deliver_to(recipient);
        Holder { _socket: socket }.start()
    });
    let _socket = within(socket).await.expect("the stack runs");
    let sent = monitor.clone();
    let device = std::thread::spawn(move || {
        while sent.stats().sent.frames < COUNT {
            if stepper.step(monotonic_now()) == 0 {
                std::thread::yield_now();
            }
        }
    });
    // Every frame that came is consumed, lost under a reason, or in the reader's mailbox.
    let lost = within(async {
        loop {
            let stats = stack.stats().await.expect("running");
            let shard = &stats.cpus[0].shard;
            let host = &shard.host;
            assert_eq!(
                host.rx_frames,
                host.delivered + host.consumed + host.rx_dropped
            );
            let lost = host.rx_dropped + shard.undelivered;
            if shard.delivered + lost == COUNT {
                let counted = stats.drops()[DropReason::MailboxFull];
                assert_eq!(counted, lost, "lost for other reasons: {:?}", stats.drops());
                break lost;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    within(async {
        while reader.send(Received).await.expect("alive") + lost < COUNT {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(reader.send(Received).await.expect("alive") + lost, COUNT);
    assert!(lost < COUNT, "nothing was received");
    device.join().expect("it has sent all");
    assert_eq!(monitor.stats().sent.frames, COUNT);
    // The rings hold slots; what the reader had comes home.
    let held = 2 * usize::from(stack.features().queue_size);
    let is_home = async || {
        let stats = stack.stats().await.expect("running");
        let mut cpus = stats.cpus.iter();
        cpus.all(|cpu| cpu.pool_free + held >= cpu.pool_size)
    };
    within(async {
        while !is_home().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    elsewhere.stop();
    stack.shutdown().await;
}

/// A sender that offers more than the ring takes gets the rest back, with the reason, and is
/// told once when there is room.
#[actix::test]
async fn what_finds_no_room_comes_back_and_the_sender_is_told_when_there_is_some() {
    let (client, server, _) = pair(Default::default()).await;
    let (_sink, mut at_server) = Probe::start(&server, "0.0.0.0:7", false)
        .await
        .expect("bound");
    let (probe, mut seen) = Probe::start(&client, "10.0.0.1:5000", false)
        .await
        .expect("bound");
    // The first goes alone, so that the neighbour is known.
    within(probe.send(Send(vec![datagram(address("10.0.0.2:7"), b"0")])))
        .await
        .expect("alive");
    assert!(within(at_server.recv()).await.is_some());

    let burst: Vec<_> = (0..500)
        .map(|_| datagram(address("10.0.0.2:7"), b"x"))
        .collect();
    let (outcome, refused) = within(probe.send(Send(burst))).await.expect("alive");
    assert_eq!(outcome.accepted + outcome.refused, 500);
    assert_eq!(refused.len(), outcome.refused);
    assert!(outcome.refused > 0, "a ring of 64 took 500 datagrams");
    assert!(outcome.would_block());
    assert!(
        refused
            .iter()
            .all(|send| send.refused == Some(DropReason::RingFull))
    );
    assert_eq!(
        within(seen.recv()).await,
        Some(Seen::Event(SocketEvent::TxReady))
    );
    for _ in 0..outcome.accepted {
        assert!(matches!(
            within(at_server.recv()).await,
            Some(Seen::Datagram { .. })
        ));
    }
    let drops = client.stats().await.expect("running").drops();
    assert_eq!(drops.get(DropReason::RingFull), outcome.refused as u64);
    client.shutdown().await;
    server.shutdown().await;
}

/// A datagram in more fragments than the ring has descriptors would wait for room for ever.
#[actix::test]
async fn a_datagram_that_no_ring_holds_is_too_big_and_not_worth_waiting() {
    let (end, _other) = Link::pair(LinkConfig::default());
    let mut small = config(1);
    small.options.queue_size = 32;
    let (stack, _) = start(small, end).await;
    let (probe, _) = Probe::start(&stack, "10.0.0.1:5000", false)
        .await
        .expect("bound");
    let burst = vec![datagram(address("10.0.0.2:7"), &[0; 65_507])];
    let (outcome, _) = within(probe.send(Send(burst))).await.expect("alive");
    assert_eq!(outcome.reason, Some(DropReason::TooBig));
    assert!(!outcome.would_block());
    stack.shutdown().await;
}
