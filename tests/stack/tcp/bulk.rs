//! Many bytes, each verified.

use actix::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use virtroupe::driver::embedded::{EmbeddedConfig, Link, LinkConfig};
use virtroupe::{
    Buffer, DropReason, FeatureBits, LocalStack, Stack, TcpEvent, TcpEventKind, TcpReceived,
    TcpStream,
};

use super::super::support::{address, config, config_ipv6, pair, start, start_device, within};
use super::support::{bytes, connect, echo_server, exchange, listen};

/// Bytes that each side sends.
const LENGTH: usize = 4 << 20;

async fn echo_is_right(client: &Stack, server: &Stack) {
    echo_server(server, "10.0.0.2:7").await;
    let checked = client.run_on(0, |local| async move {
        exchange(connect(&local, address("10.0.0.2:7")).await, 1, LENGTH).await
    });
    assert!(within(checked).await.expect("it runs"));
}

#[actix::test]
async fn what_is_sent_comes_back_from_an_echo() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    echo_is_right(&client, &server).await;
    let stats = client.stats().await.expect("it runs");
    let tcp = &stats.cpus[0].shard.tcp;
    let engine = &tcp.engine;
    assert_eq!(engine.rx_segments, engine.accepted + tcp.drops.total());
    assert_eq!(stats.cpus[0].shard.host.delivered, engine.rx_segments);
    assert!(
        stats.cpus[0].shard.host.tx_segmented > 0,
        "segments are longer than the link takes: {engine:?}"
    );
    server.shutdown().await;
    client.shutdown().await;
}

#[actix::test]
async fn devices_without_offloads_carry_the_same_bytes() {
    let (left, right) = Link::pair(LinkConfig::default());
    let device = |mac| EmbeddedConfig {
        mac: virtroupe::MacAddr([2, 0, 0, 0, 0, mac]),
        features: FeatureBits(EmbeddedConfig::SUPPORTED.0 & !FeatureBits::CSUM.0),
        ..EmbeddedConfig::default()
    };
    let (client, _) = start_device(config(1), device(1), left).await;
    let (server, _) = start_device(config(2), device(2), right).await;
    echo_is_right(&client, &server).await;
    server.shutdown().await;
    client.shutdown().await;
}

/// A device that cuts long segments over IPv4 alone: over IPv6 they leave in pieces.
#[actix::test]
async fn a_device_that_cuts_over_one_family_carries_the_other_too() {
    let (left, right) = Link::pair(LinkConfig::default());
    let device = |mac| EmbeddedConfig {
        mac: virtroupe::MacAddr([2, 0, 0, 0, 0, mac]),
        features: EmbeddedConfig::SUPPORTED - FeatureBits::HOST_TSO6,
        ..EmbeddedConfig::default()
    };
    let (client, handle) = start_device(config_ipv6(1), device(1), left).await;
    let (server, _) = start_device(config_ipv6(2), device(2), right).await;
    echo_server(&server, "[::]:7").await;
    let checked = client.run_on(0, |local| async move {
        exchange(connect(&local, address("[fd00::2]:7")).await, 1, LENGTH).await
    });
    assert!(within(checked).await.expect("it runs"));
    let stats = client.stats().await.expect("it runs");
    let shard = &stats.cpus[0].shard;
    // Its pieces leave where they lie, and none is lost for want of memory or room.
    assert_eq!(shard.segments_added, 0);
    // What was sent again because a thread was not scheduled is dropped where it arrives.
    for reason in [
        DropReason::PoolEmpty,
        DropReason::RingFull,
        DropReason::TooBig,
    ] {
        assert_eq!(shard.drops[reason], 0, "{:?}", shard.drops);
    }
    assert_eq!(handle.stats().violations.frames, 0);
    server.shutdown().await;
    client.shutdown().await;
}

/// Of chunks that are so short, a long segment would be a chain longer than any ring.
#[actix::test]
async fn what_is_written_in_very_small_pieces_arrives() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    echo_server(&server, "10.0.0.2:7").await;
    for piece in [1, 100, 300] {
        let checked = client.run_on(0, move |local| async move {
            let stream = connect(&local, address("10.0.0.2:7")).await;
            let (mut reader, mut writer) = stream.into_split();
            let sent = bytes(piece as u64, 2000 * piece);
            let expected = sent.clone();
            actix::spawn(async move {
                for piece in sent.chunks(piece) {
                    writer.write_all(piece).await.expect("taken");
                }
                writer.shutdown().await.expect("finished");
            });
            let mut received = Vec::new();
            reader.read_to_end(&mut received).await.expect("no error");
            received == expected
        });
        assert!(within(checked).await.expect("it runs"), "pieces of {piece}");
    }
    server.shutdown().await;
    client.shutdown().await;
}

#[actix::test]
async fn a_bad_link_loses_no_byte() {
    let (client, server, _) = pair(LinkConfig {
        loss: 0.005,
        reorder: 0.01,
        duplicate: 0.01,
        corrupt: 0.002,
        seed: 7,
        ..LinkConfig::default()
    })
    .await;
    echo_is_right(&client, &server).await;
    server.shutdown().await;
    client.shutdown().await;
}

#[actix::test]
async fn a_stack_can_talk_to_itself() {
    let (end, _other) = Link::pair(LinkConfig::default());
    let (stack, _) = start(config(2), end).await;
    echo_is_right(&stack, &stack).await;
    stack.shutdown().await;
}

/// An actor that sends back what it gets, without copying, and takes no more than it can send.
struct Echo {
    stream: TcpStream,
    waiting: std::collections::VecDeque<virtroupe::TcpPayload>,
    is_at_end: bool,
    done: Option<oneshot::Sender<Vec<TcpEventKind>>>,
    events: Vec<TcpEventKind>,
}

impl Echo {
    fn flush(&mut self) {
        while let Some(payload) = self.waiting.pop_front() {
            if let Some(refused) = self.stream.send(payload).refused {
                assert!(refused.reason.would_block(), "{}", refused.reason);
                self.waiting.push_front(refused.payload);
                assert!(self.stream.notify_when_ready());
                return;
            }
        }
        if self.is_at_end {
            self.stream.finish();
        }
    }
}

impl Actor for Echo {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.stream.events_to(ctx.address());
        self.stream.deliver_to(ctx.address());
    }
}

impl Handler<TcpReceived> for Echo {
    type Result = ();

    fn handle(&mut self, mut received: TcpReceived, _: &mut Self::Context) {
        assert!(received.payload.iter().all(|frame| !frame.is_empty()));
        let frames = received.payload.drain(..).map(virtroupe::TcpPayload::from);
        self.waiting.extend(frames);
        self.flush();
    }
}

impl Handler<TcpEvent> for Echo {
    type Result = ();

    fn handle(&mut self, event: TcpEvent, ctx: &mut Self::Context) {
        assert_eq!(event.connection, self.stream.id());
        match &event.kind {
            TcpEventKind::TxReady => return self.flush(),
            TcpEventKind::EndOfStream => {
                self.is_at_end = true;
                self.flush();
            }
            _ => {}
        }
        let is_over = matches!(event.kind, TcpEventKind::Ended(_));
        self.events.push(event.kind);
        if is_over && let Some(done) = self.done.take() {
            let _ = done.send(std::mem::take(&mut self.events));
            ctx.stop();
        }
    }
}

#[actix::test]
async fn an_actor_echoes_messages_without_copying() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    let (done, events) = oneshot::channel();
    let started = server.run_on(0, |local: LocalStack| async move {
        let listener = listen(&local, "10.0.0.2:7").await;
        actix::spawn(async move {
            let stream = listener.accept().await.expect("a connection");
            Echo {
                stream,
                waiting: Default::default(),
                is_at_end: false,
                done: Some(done),
                events: Vec::new(),
            }
            .start();
        });
    });
    within(started).await.expect("it runs");
    let checked = client.run_on(0, |local| async move {
        exchange(connect(&local, address("10.0.0.2:7")).await, 2, LENGTH).await
    });
    assert!(within(checked).await.expect("it runs"));
    let events = within(events).await.expect("told");
    let expected = [TcpEventKind::EndOfStream, TcpEventKind::Finished];
    let expected = [&expected[..], &[TcpEventKind::Ended(None)]].concat();
    assert_eq!(events, expected);
    server.shutdown().await;
    client.shutdown().await;
}
