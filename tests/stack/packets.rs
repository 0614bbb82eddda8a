//! The packet API.

use actix::prelude::*;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use virtroupe::actors::services::Subscribe;
use virtroupe::driver::embedded::{Link, LinkConfig, PacketSource, SourceConfig};
use virtroupe::{Buffer, Capture, Filter, PacketSocket, PacketsReceived, SendOutcome, Stack};

use super::support::{Probe, Seen, Send, address, config, datagram, pair, start, within};

/// Takes or copies frames, and reports them.
struct Tap {
    socket: Option<PacketSocket>,
    seen: tokio::sync::mpsc::UnboundedSender<Vec<u8>>,
}

impl Actor for Tap {
    type Context = Context<Self>;
}

impl Handler<PacketsReceived> for Tap {
    type Result = ();

    fn handle(&mut self, received: PacketsReceived, _: &mut Self::Context) {
        for frame in received.frames.iter() {
            let _ = self.seen.send(frame.to_vec());
        }
    }
}

/// A probe that answers nobody.
async fn probe(stack: &Stack, local: &str) -> (Addr<Probe>, UnboundedReceiver<Seen>) {
    Probe::start(stack, local, false).await.expect("bound")
}

/// Sends frames with these contents.
#[derive(Message)]
#[rtype(result = "SendOutcome")]
struct Transmit(Vec<Vec<u8>>);

impl Handler<Transmit> for Tap {
    type Result = MessageResult<Transmit>;

    fn handle(&mut self, Transmit(contents): Transmit, _: &mut Self::Context) -> Self::Result {
        let socket = self.socket.as_ref().expect("subscribed");
        let mut frames = Vec::new();
        for content in contents {
            let mut frame = socket.frame().expect("the pool has a frame");
            assert!(frame.extend_from_slice(&content));
            frames.push(frame);
        }
        MessageResult(socket.transmit(&mut frames))
    }
}

async fn tap(
    stack: &Stack,
    filter: Filter,
    capture: Capture,
) -> (Addr<Tap>, UnboundedReceiver<Vec<u8>>) {
    let (seen, receiver) = unbounded_channel();
    let tap = stack.run_on(0, move |local| async move {
        Tap::create(|ctx| {
            let socket = local.subscribe(filter, capture, ctx.address());
            Tap {
                socket: Some(socket),
                seen,
            }
        })
    });
    (within(tap).await.expect("the stack runs"), receiver)
}

fn frame(content: u8) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 9, 0x88, 0xb5]);
    frame.extend([content; 46]);
    frame
}

#[actix::test]
async fn frames_of_an_unknown_protocol_are_taken_whole_and_in_order() {
    let (left, right) = Link::pair(LinkConfig::default());
    let (first, _) = start(config(1), left).await;
    let (second, _) = start(config(2), right).await;
    let (sender, _) = tap(&first, Filter::EtherType(0x88b5), Capture::Take).await;
    let (_receiver, mut seen) = tap(&second, Filter::EtherType(0x88b5), Capture::Take).await;
    let sent: Vec<_> = (0..100).map(frame).collect();
    for some in sent.chunks(10) {
        let outcome = within(sender.send(Transmit(some.to_vec())))
            .await
            .expect("alive");
        assert_eq!(outcome.accepted, 10);
        for expected in some {
            assert_eq!(within(seen.recv()).await.as_ref(), Some(expected));
        }
    }
    first.shutdown().await;
    second.shutdown().await;
}

#[actix::test]
async fn a_copy_leaves_the_frame_to_the_stack_and_a_take_does_not() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    let (_bound, mut at_server) = probe(&server, "0.0.0.0:7").await;
    let (probe, _) = probe(&client, "10.0.0.1:5000").await;
    let udp = || Filter::Protocol(17);
    let (_copier, mut copies) = tap(&server, udp(), Capture::Copy).await;
    let send = |text: &'static [u8]| Send(vec![datagram(address("10.0.0.2:7"), text)]);
    within(probe.send(send(b"copied"))).await.expect("alive");
    assert!(
        within(copies.recv())
            .await
            .expect("a copy")
            .ends_with(b"copied")
    );
    assert!(
        matches!(within(at_server.recv()).await, Some(Seen::Datagram { payload, .. }) if payload == b"copied")
    );
    let (_taker, mut taken) = tap(&server, udp(), Capture::Take).await;
    within(probe.send(send(b"taken"))).await.expect("alive");
    assert!(
        within(taken.recv())
            .await
            .expect("the frame")
            .ends_with(b"taken")
    );
    assert!(
        at_server.try_recv().is_err(),
        "the stack saw a frame that was taken"
    );
    client.shutdown().await;
    server.shutdown().await;
}

#[actix::test]
async fn a_source_of_a_thousand_frames_is_received_to_the_last() {
    let source = PacketSource::new(SourceConfig {
        frames: (0..10).map(frame).collect(),
        count: Some(1000),
        rate: Some(100_000),
        ..SourceConfig::default()
    });
    let (stack, _) = start(config(1), source).await;
    // Those that came before the subscription were dropped by the stack, and counted.
    let (_tap, mut seen) = tap(&stack, Filter::All, Capture::Take).await;
    let mut received = 0;
    let dropped = loop {
        while seen.try_recv().is_ok() {
            received += 1;
        }
        let stats = stack.stats().await.expect("running");
        if stats.received_frames() == 1000 {
            break stats.drops().total();
        }
        tokio::task::yield_now().await;
    };
    while received + dropped < 1000 {
        within(seen.recv()).await.expect("a frame");
        received += 1;
    }
    stack.shutdown().await;
}

/// Frames go to the stack again, and to others, when an actor on another arbiter has stopped.
#[actix::test]
async fn a_subscription_by_message_ends_with_its_receiver() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    let (_bound, mut at_server) = probe(&server, "0.0.0.0:7").await;
    let (probe, _) = probe(&client, "10.0.0.1:5000").await;
    let (seen, mut taken) = unbounded_channel();
    let remote = Tap { socket: None, seen }.start();
    let subscribe = Subscribe {
        filter: Filter::Protocol(17),
        capture: Capture::Take,
        received: remote.clone().recipient(),
    };
    let cpu = server.cpu(0).expect("a cpu");
    within(cpu.send(subscribe)).await.expect("alive");
    let send = || Send(vec![datagram(address("10.0.0.2:7"), b"again")]);
    within(probe.send(send())).await.expect("alive");
    within(taken.recv()).await.expect("the frame");
    within(remote.send(StopTap)).await.expect("alive");
    while taken.recv().await.is_some() {}
    let reaches_the_stack = async {
        // The first finds that the receiver is gone, and is dropped.
        while at_server.try_recv().is_err() {
            within(probe.send(send())).await.expect("alive");
            tokio::task::yield_now().await;
        }
    };
    within(reaches_the_stack).await;
    client.shutdown().await;
    server.shutdown().await;
}

/// Stops the actor.
#[derive(Message)]
#[rtype(result = "()")]
struct StopTap;

impl Handler<StopTap> for Tap {
    type Result = ();

    fn handle(&mut self, _: StopTap, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
