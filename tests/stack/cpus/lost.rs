//! Cpus and clients that die with packets under way: everything comes home, the others go on.

use std::net::SocketAddrV4;
use std::sync::mpsc::channel;

use actix::prelude::*;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use virtroupe::actors::services::RunLocal;
use virtroupe::wire::placement::{Flow, Transport};
use virtroupe::{
    BindError, CloseReason, DropReason, Frame, Lifecycle, SocketEvent, Stack, UdpReceived,
    UdpSocket,
};

use super::counts::{Block, check_at_rest, is_at_rest};
use super::wire::{Rig, parse_udp, peer, rig_config, udp_frame};
use crate::stack::support::{address, within};

const SERVER: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::new(10, 0, 0, 1), 7);

/// Echoes, until it is told to die.
struct Echo {
    socket: UdpSocket,
    events: UnboundedSender<SocketEvent>,
    is_doomed: bool,
}

impl Actor for Echo {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.socket.deliver_to(ctx.address());
        self.socket.events_to(ctx.address());
    }
}

impl Handler<UdpReceived> for Echo {
    type Result = ();

    fn handle(&mut self, mut received: UdpReceived, _: &mut Self::Context) {
        assert!(!self.is_doomed, "this client dies, as it was told to");
        self.socket.reply(received.datagrams.drain(..));
    }
}

impl Handler<SocketEvent> for Echo {
    type Result = ();

    fn handle(&mut self, event: SocketEvent, _: &mut Self::Context) {
        let _ = self.events.send(event);
    }
}

impl Handler<Block> for Echo {
    type Result = ();

    fn handle(&mut self, Block(gate): Block, _: &mut Self::Context) {
        let _ = gate.recv();
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Doom;

impl Handler<Doom> for Echo {
    type Result = ();

    fn handle(&mut self, _: Doom, _: &mut Self::Context) {
        self.is_doomed = true;
    }
}

/// Takes every frame of the pool of its cpu, and tells how many there were.
#[derive(Message)]
#[rtype(result = "usize")]
struct CountFrames;

impl Handler<CountFrames> for Echo {
    type Result = usize;

    fn handle(&mut self, _: CountFrames, _: &mut Self::Context) -> usize {
        let frames: Vec<Frame> = std::iter::from_fn(|| self.socket.frame()).collect();
        frames.len()
    }
}

/// Passes on what happens to the stack.
struct Watcher(UnboundedSender<Lifecycle>);

impl Actor for Watcher {
    type Context = Context<Self>;
}

impl Handler<Lifecycle> for Watcher {
    type Result = ();

    fn handle(&mut self, event: Lifecycle, _: &mut Self::Context) {
        let _ = self.0.send(event);
    }
}

async fn watch(stack: &Stack) -> UnboundedReceiver<Lifecycle> {
    let (events, mut seen) = unbounded_channel();
    stack.subscribe(Watcher(events).start());
    assert!(matches!(
        within(seen.recv()).await,
        Some(Lifecycle::Ready(_))
    ));
    seen
}

async fn echo(
    rig: &Rig,
    cpu: u16,
    is_per_cpu: bool,
    at: &'static str,
) -> (Addr<Echo>, UnboundedReceiver<SocketEvent>) {
    let (events, seen) = unbounded_channel();
    let started = rig.stack.run_on(cpu, move |local| async move {
        let socket = match is_per_cpu {
            true => local.bind_udp_per_cpu(address(at)).await?,
            false => local.bind_udp(address(at)).await?,
        };
        let echo = Echo {
            socket,
            events,
            is_doomed: false,
        };
        Ok::<_, BindError>(echo.start())
    });
    let started = within(started).await.expect("running");
    (started.expect("free"), seen)
}

/// The flows, of the first 400, that `cpu` owns at port 7.
async fn flows_of(rig: &Rig, cpu: u16) -> Vec<u32> {
    let placement = rig.placement(0).await.expect("several cpus");
    let is_owned = |flow: &u32| {
        let flow = Flow::received_from_v4(Transport::Udp, peer(*flow), SERVER);
        placement.owner(&flow) == cpu
    };
    (0..400).filter(is_owned).collect()
}

fn offer(rig: &Rig, queues: u16, flows: &[u32], port: u16) {
    for flow in flows {
        let to = SocketAddrV4::new(*SERVER.ip(), port);
        let queue = (flow % u32::from(queues)) as u16;
        rig.wire.offer(queue, udp_frame(peer(*flow), to, b"hello"));
    }
}

/// Offers a datagram of each flow to `port`, and waits for their echoes; few at a time, so that
/// none exceeds a ring.
async fn exchange(rig: &Rig, queues: u16, flows: &[u32], port: u16) {
    for some in flows.chunks(100) {
        offer(rig, queues, some, port);
        let mut seen = 0;
        rig.until(|rig| {
            let sent = rig.wire.take_sent();
            let echoes = sent.iter().filter_map(|sent| parse_udp(&sent.frame));
            seen += echoes.filter(|(from, ..)| from.port() == port).count();
            seen >= some.len()
        })
        .await;
        assert_eq!(seen, some.len());
    }
}

fn kill(stack: &Stack, cpu: u16) -> impl Future<Output = bool> + use<> {
    let cpu = stack.cpu(cpu).expect("a cpu").clone();
    async move {
        let work = RunLocal(Box::new(|_| panic!("this cpu dies, as the test wants")));
        cpu.send(work).await.is_err()
    }
}

/// The proxy dies with received frames in its lane, and sent ones in its virtual queue, in the
/// ring, and with the device.
#[actix::test]
async fn a_proxy_that_dies_takes_nothing_with_it_and_the_others_go_on() {
    for (queues, cpus) in [(1, 3), (2, 4)] {
        let rig = Rig::start(rig_config(queues, cpus)).await;
        let mut lifecycle = watch(&rig.stack).await;
        let victim = cpus - 1;
        let mut all = Vec::new();
        for cpu in 0..cpus {
            all.push(echo(&rig, cpu, true, "0.0.0.0:7").await);
        }
        let (alone, mut alone_events) = echo(&rig, victim, false, "0.0.0.0:9").await;
        let flows: Vec<u32> = (0..400).collect();
        let theirs = flows_of(&rig, victim).await;
        // Replies under way: the device takes nothing while the test does not step it.
        offer(&rig, queues, &theirs, 7);
        while rig.wire.waiting() > 0 {
            rig.step();
            tokio::task::yield_now().await;
        }
        // Frames in its lane: its thread is held up until they are there.
        let (open, gate) = channel();
        all[usize::from(victim)].0.do_send(Block(gate));
        let before = rig.stack.cpu(0).expect("a cpu").clone();
        offer(&rig, queues, &theirs, 7);
        let killed = actix::spawn(kill(&rig.stack, victim));
        tokio::task::yield_now().await;
        while rig.wire.waiting() > 0 {
            rig.step();
            tokio::task::yield_now().await;
        }
        let collect = virtroupe::actors::services::CollectStats;
        within(before.send(collect)).await.expect("alive");
        open.send(()).expect("it waits");
        assert!(within(killed).await.expect("asked"), "it died");
        match within(lifecycle.recv()).await {
            Some(Lifecycle::CpuLost { cpu, .. }) => assert_eq!(cpu, victim),
            other => panic!("{other:?}"),
        }
        let lost = SocketEvent::Closed(CloseReason::CpuLost(
            "the actor of the cpu was dropped".into(),
        ));
        assert_eq!(within(alone_events.recv()).await, Some(lost.clone()));
        let events = &mut all[usize::from(victim)].1;
        assert_eq!(within(events.recv()).await, Some(lost));
        rig.until_stats(|stats| is_at_rest(&rig, stats)).await;
        let stats = rig.stack.stats().await.expect("running");
        assert_eq!(stats.cpus.len(), usize::from(cpus), "its counters stay");
        check_at_rest(&stats, &rig.device.stats());
        rig.wire.take_sent();

        // The sockets that are left share all flows; nobody else is told that anything ended.
        exchange(&rig, queues, &flows, 7).await;
        // Its own address can be had again, and all of its flows.
        let (heir, _heir_events) = echo(&rig, 0, false, "0.0.0.0:9").await;
        exchange(&rig, queues, &flows, 9).await;
        for (_, events) in &mut all[..usize::from(victim)] {
            assert!(events.try_recv().is_err());
        }
        // Every slot of its pool is home.
        rig.until_stats(|stats| is_at_rest(&rig, stats)).await;
        let frames = within(alone.send(CountFrames)).await.expect("alive");
        assert_eq!(frames, 1024);
        let stats = rig.stack.stats().await.expect("running");
        check_at_rest(&stats, &rig.device.stats());
        drop(heir);
        rig.stack.shutdown().await;
    }
}

/// What has no ports goes by its addresses alone, to the cpu that is gone.
#[actix::test]
async fn packets_of_a_lost_cpu_are_counted() {
    let rig = Rig::start(rig_config(1, 2)).await;
    let mut lifecycle = watch(&rig.stack).await;
    assert!(within(kill(&rig.stack, 1)).await, "it died");
    assert!(matches!(
        within(lifecycle.recv()).await,
        Some(Lifecycle::CpuLost { cpu: 1, .. })
    ));
    let theirs = flows_of(&rig, 1).await;
    // Nobody is bound there, so the flows go by their hash.
    offer(&rig, 1, &(0..400).collect::<Vec<_>>(), 7);
    let count = theirs.len() as u64;
    rig.until_stats(|stats| {
        stats.drops()[DropReason::CpuGone] == count
            && stats.drops()[DropReason::NoSocket] == 400 - count
    })
    .await;
    let stats = rig.stack.stats().await.expect("running");
    check_at_rest(&stats, &rig.device.stats());
    rig.stack.shutdown().await;
}

/// The client of a queue's cpu dies with bursts in its mailbox.
#[actix::test]
async fn a_client_that_dies_gives_back_what_it_had() {
    let mut config = rig_config(1, 2);
    // So that most of a burst waits in the mailbox, or behind it.
    config.poll.burst = 8;
    let rig = Rig::start(config).await;
    let (client, _events) = echo(&rig, 0, false, "0.0.0.0:7").await;
    let (other, _other_events) = echo(&rig, 0, false, "0.0.0.0:8").await;
    let flows: Vec<u32> = (0..400).collect();
    client.do_send(Doom);
    offer(&rig, 1, &flows, 7);
    rig.until(|rig| rig.wire.waiting() == 0).await;
    within(async {
        while client.connected() {
            tokio::task::yield_now().await
        }
    })
    .await;
    exchange(&rig, 1, &flows, 8).await;
    rig.until_stats(|stats| {
        let cpu = &stats.cpus[0];
        // The receive ring holds the rest.
        is_at_rest(&rig, stats) && cpu.pool_free + 256 == cpu.pool_size
    })
    .await;
    let stats = rig.stack.stats().await.expect("running");
    check_at_rest(&stats, &rig.device.stats());
    let (_heir, _) = echo(&rig, 1, false, "0.0.0.0:7").await;
    exchange(&rig, 1, &flows, 7).await;
    drop(other);
    rig.stack.shutdown().await;
}

#[actix::test]
async fn a_queue_that_dies_is_the_end_for_all_cpus() {
    let rig = Rig::start(rig_config(2, 3)).await;
    let mut lifecycle = watch(&rig.stack).await;
    let mut sockets = Vec::new();
    for cpu in 0..3 {
        sockets.push(echo(&rig, cpu, true, "0.0.0.0:7").await);
    }
    assert!(within(kill(&rig.stack, 1)).await, "it died");
    for (_, events) in &mut sockets {
        assert!(matches!(
            within(events.recv()).await,
            Some(SocketEvent::Closed(CloseReason::DeviceLost(_)))
        ));
    }
    assert!(matches!(
        within(lifecycle.recv()).await,
        Some(Lifecycle::DeviceLost(_))
    ));
    assert!(matches!(
        within(rig.stack.ended()).await,
        Lifecycle::DeviceLost(_)
    ));
    rig.stack.shutdown().await;
}
