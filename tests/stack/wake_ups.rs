//! A stack that sleeps wakes up for everything that it owes somebody; and one that owes nothing
//! sleeps.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::mpsc::unbounded_channel;
use virtroupe::driver::embedded::{EmbeddedConfig, EmbeddedTransport, Link, monotonic_now};
use virtroupe::{
    Buffer, Burst, Capture, Config, Filter, PacketsReceived, SocketEvent, Stack, Supervisor,
    UdpReceived, UdpSocket,
};

use super::support::{Seen, address, config, datagram, pair, start, within};

/// Long enough for an idle stack without spin to sleep. If it was not, the tests prove less, but
/// do not fail.
const NAP: Duration = Duration::from_millis(30);

fn drowsy() -> Config {
    let mut config = config(1);
    config.poll.spin_us = Some(0);
    config
}

/// Handles nothing until its gate opens; then tells how many datagrams it gets.
struct Gated {
    gate: Option<Receiver<()>>,
    seen: tokio::sync::mpsc::UnboundedSender<usize>,
}

impl Actor for Gated {
    type Context = Context<Self>;
}

impl Handler<UdpReceived> for Gated {
    type Result = ();

    fn handle(&mut self, received: UdpReceived, _: &mut Self::Context) {
        if let Some(gate) = self.gate.take() {
            let _ = gate.recv();
        }
        let _ = self.seen.send(received.datagrams.len());
    }
}

/// A receiver whose mailbox is full, on a thread of its own; and what opens its gate.
async fn full_receiver(
    elsewhere: &Arbiter,
) -> (
    Recipient<UdpReceived>,
    Sender<()>,
    tokio::sync::mpsc::UnboundedReceiver<usize>,
) {
    let (open, gate) = channel();
    let (seen, receiver) = unbounded_channel();
    let (report, started) = tokio::sync::oneshot::channel();
    elsewhere.spawn(async move {
        let gate = Some(gate);
        let _ = report.send(Gated { gate, seen }.start());
    });
    let recipient = started.await.expect("started").recipient();
    (recipient, open, receiver)
}

fn fill(recipient: &Recipient<UdpReceived>, socket: &UdpSocket) {
    let message = || UdpReceived {
        socket: socket.id(),
        datagrams: Burst::new(),
    };
    while recipient.try_send(message()).is_ok() {}
}

/// Opens port 7 with one datagram in it that waits for a receiver.
async fn socket_with_mail(stack: &Stack) -> Addr<Holder> {
    let holder = stack.run_on(0, |local| async move {
        let socket = local.bind_udp(address("10.0.0.1:7")).await.expect("free");
        let mail = datagram(address("10.0.0.1:7"), b"mail");
        assert_eq!(socket.send(&mut vec![mail]).accepted, 1);
        Holder(socket).start()
    });
    within(holder).await.expect("the stack runs")
}

struct Holder(UdpSocket);

impl Actor for Holder {
    type Context = Context<Self>;
}

#[derive(Message)]
#[rtype(result = "()")]
struct DeliverTo(Recipient<UdpReceived>);

impl Handler<DeliverTo> for Holder {
    type Result = ();

    fn handle(&mut self, DeliverTo(recipient): DeliverTo, _: &mut Self::Context) {
        fill(&recipient, &self.0);
        self.0.deliver_to(recipient);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Close;

impl Handler<Close> for Holder {
    type Result = ();

    fn handle(&mut self, _: Close, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

#[actix::test]
async fn what_found_a_full_mailbox_while_the_stack_slept_gets_there() {
    let mut config = drowsy();
    config.poll.patience_us = 60_000_000;
    let (end, _other) = Link::pair(Default::default());
    let (stack, _) = start(config, end).await;
    let elsewhere = Arbiter::new();
    let (recipient, open, mut seen) = full_receiver(&elsewhere).await;
    let holder = socket_with_mail(&stack).await;
    tokio::time::sleep(NAP).await;
    within(holder.send(DeliverTo(recipient)))
        .await
        .expect("alive");
    tokio::time::sleep(NAP).await;
    open.send(()).expect("it waits");
    within(async { while seen.recv().await != Some(1) {} }).await;
    elsewhere.stop();
    stack.shutdown().await;
}

#[actix::test]
async fn a_stack_sleeps_again_after_a_socket_with_waiting_datagrams_is_closed() {
    let mut config = drowsy();
    config.poll.patience_us = 200_000;
    let (end, _other) = Link::pair(Default::default());
    let (stack, _) = start(config, end).await;
    let elsewhere = Arbiter::new();
    let (recipient, open, _seen) = full_receiver(&elsewhere).await;
    let holder = socket_with_mail(&stack).await;
    within(holder.send(DeliverTo(recipient)))
        .await
        .expect("alive");
    tokio::time::sleep(NAP).await;
    within(holder.send(Close)).await.expect("alive");
    // Until what was parked would have been given up.
    tokio::time::sleep(Duration::from_millis(250)).await;
    let sleeps = async || stack.stats().await.expect("running").cpus[0].poll.sleeps;
    let before = sleeps().await;
    within(async { while sleeps().await == before {} }).await;
    let _ = open.send(());
    elsewhere.stop();
    stack.shutdown().await;
}

/// Reports its events under its number.
struct Waiting {
    number: usize,
    seen: tokio::sync::mpsc::UnboundedSender<usize>,
    _socket: UdpSocket,
}

impl Actor for Waiting {
    type Context = Context<Self>;
}

impl Handler<SocketEvent> for Waiting {
    type Result = ();

    fn handle(&mut self, event: SocketEvent, _: &mut Self::Context) {
        if event == SocketEvent::TxReady {
            let _ = self.seen.send(self.number);
        }
    }
}

/// More of them than one turn wakes, and nothing in the ring whose end could wake the stack.
#[actix::test]
async fn every_sender_that_waits_is_told_of_room_once() {
    const SENDERS: usize = 40;
    let (end, _other) = Link::pair(Default::default());
    let (stack, _) = start(drowsy(), end).await;
    let (seen, mut told) = unbounded_channel();
    let senders = stack.run_on(0, |local| async move {
        let mut senders = Vec::new();
        for number in 0..SENDERS {
            let socket = local.bind_udp(address("0.0.0.0:0")).await.expect("free");
            let seen = seen.clone();
            senders.push(Waiting::create(|ctx| {
                socket.events_to(ctx.address());
                socket.notify_when_ready();
                socket.notify_when_ready();
                Waiting {
                    number,
                    seen,
                    _socket: socket,
                }
            }));
        }
        senders
    });
    let _senders = within(senders).await.expect("the stack runs");
    let mut numbers = Vec::new();
    for _ in 0..SENDERS {
        numbers.push(within(told.recv()).await.expect("told"));
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..SENDERS).collect::<Vec<_>>());
    stack.shutdown().await;
    assert!(told.try_recv().is_err(), "somebody was told twice");
}

struct Nobody;

impl Actor for Nobody {
    type Context = Context<Self>;
}

impl Handler<PacketsReceived> for Nobody {
    type Result = ();

    fn handle(&mut self, _: PacketsReceived, _: &mut Self::Context) {}
}

/// Frames of two segments take two descriptors, so the ring holds half of what was accepted.
#[actix::test]
async fn frames_that_found_the_ring_full_leave_when_the_device_has_made_room() {
    const FRAMES: usize = 40;
    let (end, _other) = Link::pair(Default::default());
    let (transport, device, stepper) =
        EmbeddedTransport::inline(EmbeddedConfig::default(), end).expect("a device");
    let stack = within(Supervisor::start_on(Box::new(transport), drowsy()));
    let stack = stack.await.expect("the stack starts");
    let sent = stack.run_on(0, |local| async move {
        let socket = local.subscribe(Filter::EtherType(0x88b5), Capture::Take, Nobody.start());
        let mut frames = Vec::new();
        for _ in 0..FRAMES {
            let mut frame = socket.frame().expect("a frame");
            let mut tail = socket.frame().expect("a frame");
            let header = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 9, 0x88, 0xb5]].concat();
            assert!(frame.extend_from_slice(&header) && tail.extend_from_slice(&[1; 46]));
            frame.append(tail);
            frames.push(frame);
        }
        socket.transmit(&mut frames).accepted
    });
    assert_eq!(within(sent).await.expect("the stack runs"), FRAMES);
    tokio::time::sleep(NAP).await;
    within(async {
        while device.stats().from_driver.frames < FRAMES as u64 {
            stepper.step(monotonic_now());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    stack.shutdown().await;
}

/// Echoes, and uses the stack while it says what to echo.
struct BusyEcho(UdpSocket);

impl Actor for BusyEcho {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.0.deliver_to(ctx.address());
    }
}

impl Handler<UdpReceived> for BusyEcho {
    type Result = ();

    fn handle(&mut self, mut received: UdpReceived, _: &mut Self::Context) {
        let socket = &self.0;
        let all = received.datagrams.drain(..);
        socket.reply(all.filter(|_| socket.local().is_some() && socket.frame().is_some()));
    }
}

#[actix::test]
async fn an_iterator_of_replies_may_use_the_stack() {
    let (client, server, _) = pair(Default::default()).await;
    let echo = server.run_on(0, |local| async move {
        BusyEcho(local.bind_udp(address("0.0.0.0:7")).await.expect("free")).start()
    });
    let _echo = within(echo).await.expect("the stack runs");
    let (probe, mut seen) = super::support::Probe::start(&client, "10.0.0.1:5000", false)
        .await
        .expect("bound");
    let hello = datagram(address("10.0.0.2:7"), b"hello");
    within(probe.send(super::support::Send(vec![hello])))
        .await
        .expect("alive");
    match within(seen.recv()).await {
        Some(Seen::Datagram { payload, .. }) => assert_eq!(payload, b"hello"),
        other => panic!("{other:?}"),
    }
    client.shutdown().await;
    server.shutdown().await;
}
