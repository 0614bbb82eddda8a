//! Sockets open and close on all cpus while datagrams come.
//!
//! What acknowledges a close: dropping a `UdpSocket` closes it at once on its own cpu, and the
//! answer to `CloseUdp` says so to another arbiter. From then on nothing is put into the mailbox of
//! its receiver; what lies there already is still handled.

use std::collections::HashSet;
use std::net::SocketAddrV4;

use actix::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use virtroupe::actors::services::{BindUdp, CloseUdp};
use virtroupe::{BindError, LocalStack, UdpReceived, UdpSocket, UdpSocketId};

use super::counts::{check_at_rest, is_at_rest};
use super::wire::{Rig, peer, rig_config, udp_frame};
use crate::stack::support::within;

/// The ports that are bound and closed, of which the packets are.
const PORTS: std::ops::Range<u16> = 100..112;
const CPUS: u16 = 4;

/// Opens and closes sockets of its cpu, and echoes.
struct Churner {
    local: LocalStack,
    open: Vec<UdpSocket>,
    /// Sockets whose close has been acknowledged.
    closed: HashSet<UdpSocketId>,
    received: u64,
}

impl Actor for Churner {
    type Context = Context<Self>;
}

impl Handler<UdpReceived> for Churner {
    type Result = ();

    fn handle(&mut self, mut received: UdpReceived, _: &mut Self::Context) {
        assert!(!self.closed.contains(&received.socket), "it was closed");
        self.received += received.datagrams.len() as u64;
        if let Some(socket) = self.open.iter().find(|open| open.id() == received.socket) {
            socket.reply(received.datagrams.drain(..));
        }
    }
}

/// Binds `port`, with others or alone. Answers whether that worked.
#[derive(Message)]
#[rtype(result = "bool")]
struct Open {
    port: u16,
    is_per_cpu: bool,
}

impl Handler<Open> for Churner {
    type Result = ResponseActFuture<Self, bool>;

    fn handle(&mut self, Open { port, is_per_cpu }: Open, _: &mut Self::Context) -> Self::Result {
        let local = self.local.clone();
        let bind = async move {
            let at = ([0, 0, 0, 0], port).into();
            match is_per_cpu {
                true => local.bind_udp_per_cpu(at).await,
                false => local.bind_udp(at).await,
            }
        };
        Box::pin(bind.into_actor(self).map(|bound, actor, ctx| match bound {
            Ok(socket) => {
                socket.deliver_to(ctx.address());
                actor.open.push(socket);
                true
            }
            Err(BindError::InUseOnOtherCpu { .. } | BindError::Host(_)) => false,
            Err(error) => panic!("{error}"),
        }))
    }
}

/// Closes one of the sockets, if there is one.
#[derive(Message)]
#[rtype(result = "()")]
struct Close(u32);

/// Comes behind everything that was put into the mailbox before the close.
#[derive(Message)]
#[rtype(result = "()")]
struct Closed(UdpSocketId);

impl Handler<Close> for Churner {
    type Result = ();

    fn handle(&mut self, Close(which): Close, ctx: &mut Self::Context) {
        if !self.open.is_empty() {
            let socket = self.open.remove(which as usize % self.open.len());
            let id = socket.id();
            drop(socket);
            ctx.address().do_send(Closed(id));
        }
    }
}

impl Handler<Closed> for Churner {
    type Result = ();

    fn handle(&mut self, Closed(id): Closed, _: &mut Self::Context) {
        self.closed.insert(id);
    }
}

/// How much came, and how many sockets are open.
#[derive(Message)]
#[rtype(result = "(u64, usize)")]
struct Report;

impl Handler<Report> for Churner {
    type Result = MessageResult<Report>;

    fn handle(&mut self, _: Report, _: &mut Self::Context) -> Self::Result {
        MessageResult((self.received, self.open.len()))
    }
}

/// A receiver on the test's arbiter, for sockets that are opened by message.
#[derive(Default)]
struct Remote {
    closed: HashSet<UdpSocketId>,
    received: u64,
}

impl Actor for Remote {
    type Context = Context<Self>;
}

impl Handler<UdpReceived> for Remote {
    type Result = ();

    fn handle(&mut self, received: UdpReceived, _: &mut Self::Context) {
        assert!(!self.closed.contains(&received.socket), "it was closed");
        self.received += received.datagrams.len() as u64;
    }
}

impl Handler<Closed> for Remote {
    type Result = ();

    fn handle(&mut self, Closed(id): Closed, _: &mut Self::Context) {
        self.closed.insert(id);
    }
}

impl Handler<Report> for Remote {
    type Result = MessageResult<Report>;

    fn handle(&mut self, _: Report, _: &mut Self::Context) -> Self::Result {
        MessageResult((self.received, 0))
    }
}

/// Binds, waits a little and closes by message, on a cpu in turn.
async fn churn_remotely(rig: &Rig, round: u32, remote: &Addr<Remote>, number: u32) {
    let cpu = rig.stack.cpu((round % u32::from(CPUS)) as u16);
    let cpu = cpu.expect("a cpu");
    for frame in datagrams(number, PORTS.end) {
        rig.wire.offer(0, frame);
    }
    let bind = BindUdp {
        local: ([0, 0, 0, 0], PORTS.end).into(),
        received: remote.clone().recipient(),
        events: None,
    };
    let bound = within(cpu.send(bind)).await.expect("alive");
    let (id, _) = bound.expect("the one before was closed");
    for frame in datagrams(number, PORTS.end) {
        rig.wire.offer(0, frame);
    }
    for _ in 0..3 {
        rig.step();
        tokio::task::yield_now().await;
    }
    within(cpu.send(CloseUdp(id))).await.expect("alive");
    within(remote.send(Closed(id))).await.expect("alive");
}

/// Some datagrams to `port`.
fn datagrams(number: u32, port: u16) -> Vec<Vec<u8>> {
    let to = SocketAddrV4::new([10, 0, 0, 1].into(), port);
    let frame = |at| udp_frame(peer((number + at) % 200), to, b"hello");
    (0..8).map(frame).collect()
}

#[actix::test]
async fn nothing_comes_for_a_closed_socket_and_nothing_leaks() {
    for seed in [1, 2, 3] {
        println!("seed {seed}");
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let rig = Rig::start(rig_config(2, CPUS)).await;
        let churners = rig.stack.run_on_each(|local| async move {
            Churner {
                local,
                open: Vec::new(),
                closed: HashSet::new(),
                received: 0,
            }
            .start()
        });
        let churners = within(churners).await.expect("running");
        // Sockets of several cpus are numbered alike, so remotes have receivers of their own.
        let remotes: Vec<_> = (0..CPUS).map(|_| Remote::default().start()).collect();
        let mut opens = Vec::new();
        let mut round = 0;
        // On a slow machine a cpu may have closed before it got anything.
        while round < 150 || !has_each_received(&churners, &remotes).await {
            assert!(round < 10_000, "somebody gets nothing");
            for _ in 0..6 {
                let port = PORTS.start + (random.next_u32() % 12) as u16;
                let queue = (random.next_u32() % 2) as u16;
                for frame in datagrams(random.next_u32() % 1000, port) {
                    rig.wire.offer(queue, frame);
                }
                let churner = &churners[random.next_u32() as usize % churners.len()];
                match random.next_u32() % 3 {
                    0 => churner.do_send(Close(random.next_u32())),
                    _ => opens.push(actix::spawn(churner.send(Open {
                        port: PORTS.start + (random.next_u32() % 12) as u16,
                        is_per_cpu: random.next_u32() % 2 == 0,
                    }))),
                }
            }
            if round % 5 == 0 {
                let round = round / 5;
                let remote = &remotes[(round % u32::from(CPUS)) as usize];
                churn_remotely(&rig, round, remote, random.next_u32() % 1000).await;
            }
            rig.step();
            rig.wire.take_sent();
            tokio::task::yield_now().await;
            round += 1;
        }
        let mut opened = 0;
        for open in opens {
            opened += u32::from(within(open).await.expect("done").expect("alive"));
        }
        assert!(opened > 50, "{opened} sockets were opened");
        check_end(&rig, &churners).await;
        rig.stack.shutdown().await;
    }
}

/// Whether every cpu got something, and the sockets that were opened by message did.
async fn has_each_received(churners: &[Addr<Churner>], remotes: &[Addr<Remote>]) -> bool {
    for churner in churners {
        if within(churner.send(Report)).await.expect("alive").0 == 0 {
            return false;
        }
    }
    let mut received = 0;
    for remote in remotes {
        received += within(remote.send(Report)).await.expect("alive").0;
    }
    received > 0
}

async fn check_end(rig: &Rig, churners: &[Addr<Churner>]) {
    for churner in churners {
        loop {
            let (_, open) = within(churner.send(Report)).await.expect("alive");
            if open == 0 {
                break;
            }
            within(churner.send(Close(0))).await.expect("alive");
        }
    }
    // No port is in use: each can be had alone, by one cpu after the other.
    for cpu in 0..CPUS {
        let bound = rig.stack.run_on(cpu, |local| async move {
            for port in PORTS.start..=PORTS.end {
                drop(local.bind_udp(([0, 0, 0, 0], port).into()).await?);
            }
            Ok::<_, BindError>(())
        });
        within(bound).await.expect("running").expect("free");
    }
    rig.until_stats(|stats| {
        is_at_rest(rig, stats)
            && stats.cpus.iter().all(|cpu| {
                let rings = cpu.queues.len() * 2 * 256;
                let credits = cpu
                    .virtual_queue
                    .map_or(0, |queue| queue.credits - queue.credits_free);
                cpu.shard.sockets == 0 && credits == 0 && cpu.pool_free + rings >= cpu.pool_size
            })
    })
    .await;
    let stats = rig.stack.stats().await.expect("running");
    check_at_rest(&stats, &rig.device.stats());
    for cpu in 0..CPUS {
        let placement = rig.placement(cpu).await.expect("several cpus");
        assert!(placement.exceptions().is_empty(), "cpu {cpu}");
    }
}
