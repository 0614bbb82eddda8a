//! Every packet is somewhere: the sums over all cpus of a stack, under overload.

use std::net::SocketAddrV4;

use actix::prelude::*;
use virtroupe::driver::embedded::EmbeddedStats;
use virtroupe::{BindError, Capture, DropReason, Filter, PacketsReceived, Stats};
use virtroupe::{PacketSocket, UdpReceived, UdpSocket};

use super::fragments::fragments;
use super::wire::{Rig, peer, rig_config, udp_frame};
use crate::stack::support::{address, within};

const SERVER: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::new(10, 0, 0, 1), 7);

/// Checks the equations of ARCHITECTURE.md, 'What is counted', on a stack at rest: the lanes and
/// rings are empty.
pub fn check_at_rest(stats: &Stats, device: &EmbeddedStats) {
    let sum = |count: fn(&virtroupe::actors::stats::CpuStats) -> u64| -> u64 {
        stats.cpus.iter().map(count).sum()
    };
    for cpu in &stats.cpus {
        let host = &cpu.shard.host;
        assert_eq!(
            host.rx_frames + host.looped + host.split,
            host.delivered + host.consumed + host.rx_dropped + host.held,
            "engines of cpu {}",
            cpu.cpu
        );
        let tcp = &cpu.shard.tcp;
        assert_eq!(
            tcp.engine.rx_segments,
            tcp.engine.accepted + tcp.drops.total(),
            "TCP of cpu {}",
            cpu.cpu
        );
    }
    assert_eq!(
        device.to_driver.frames,
        stats.received_frames(),
        "device to driver"
    );
    assert_eq!(
        device.from_driver.frames,
        stats.sent_frames(),
        "driver to device"
    );
    assert_eq!(
        stats.received_frames() + sum(|cpu| cpu.shard.host.handed_over),
        sum(|cpu| cpu.shard.host.rx_frames
            + cpu.shard.taken
            + cpu.crossings.drops.total()
            + cpu.crossings.waiting),
        "cpus: {stats}"
    );
    assert_eq!(
        stats.drops().total(),
        sum(|cpu| {
            let host = &cpu.shard.host;
            let engines = host.rx_dropped + host.tx_dropped + host.closed;
            let engines = engines + cpu.shard.tcp.drops.total();
            engines + cpu.shard.undelivered + cpu.shard.unsent + cpu.crossings.drops.total()
        }),
        "drops: {stats}"
    );
}

/// Whether nothing is under way any more: what crossed has arrived, and what was sent is out.
pub fn is_at_rest(rig: &Rig, stats: &Stats) -> bool {
    let device = rig.device.stats();
    let (mut crossing, mut lost) = (0, 0);
    for cpu in &stats.cpus {
        crossing += cpu.crossings.sent as i64 - cpu.crossings.received as i64;
        lost += cpu.crossings.drops[DropReason::CpuGone] as i64;
    }
    let sent: u64 = stats
        .cpus
        .iter()
        .map(|cpu| cpu.shard.host.tx_frames - cpu.shard.unsent)
        .sum();
    rig.wire.waiting() == 0
        && device.to_driver.frames == stats.received_frames()
        && device.from_driver.frames == stats.sent_frames()
        && sent == stats.sent_frames()
        && stats.cpus.iter().all(|cpu| cpu.crossings.waiting == 0)
        && (0..=lost).contains(&crossing)
}

/// Echoes some, and is slow when it is told to be.
struct Echo {
    socket: UdpSocket,
}

impl Actor for Echo {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.socket.deliver_to(ctx.address());
    }
}

impl Handler<UdpReceived> for Echo {
    type Result = ();

    fn handle(&mut self, mut received: UdpReceived, _: &mut Self::Context) {
        let offered = received.datagrams.len();
        let outcome = self.socket.reply(received.datagrams.drain(..));
        assert_eq!(outcome.accepted + outcome.refused, offered);
    }
}

/// Holds up the thread of its cpu until a gate opens.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Block(pub std::sync::mpsc::Receiver<()>);

impl Handler<Block> for Echo {
    type Result = ();

    fn handle(&mut self, Block(gate): Block, _: &mut Self::Context) {
        let _ = gate.recv();
    }
}

/// Takes ICMP, and lets go of it.
struct Sink(#[expect(dead_code, reason = "open while it is here")] PacketSocket);

impl Actor for Sink {
    type Context = Context<Self>;
}

impl Handler<PacketsReceived> for Sink {
    type Result = ();

    fn handle(&mut self, _: PacketsReceived, _: &mut Self::Context) {}
}

/// Good and bad frames of all kinds to all cpus, of which one does not take them, and more
/// replies than credits and rings take.
#[actix::test]
async fn every_frame_is_delivered_dropped_for_a_reason_or_waits() {
    for (queues, cpus) in [(1, 3), (2, 4), (3, 2)] {
        let mut config = rig_config(queues, cpus);
        config.poll.patience_us = 0;
        config.poll.lane_frames = 32;
        config.poll.credits = 32;
        config.options.queue_size = 64;
        config.options.pool_frames = 256;
        let rig = Rig::start(config).await;
        let echoes = rig.stack.run_on_each(|local| async move {
            let socket = local.bind_udp_per_cpu(address("0.0.0.0:7")).await?;
            Sink::create(|ctx| {
                Sink(local.subscribe(Filter::Protocol(1), Capture::Take, ctx.address()))
            });
            Ok::<_, BindError>(Echo { socket }.start())
        });
        let echoes = within(echoes).await.expect("running");
        let blocked = echoes.last().expect("a cpu").as_ref().expect("bound");
        let (open, gate) = std::sync::mpsc::channel();
        blocked.do_send(Block(gate));
        for number in 0..6000u32 {
            let queue = (number % u32::from(queues)) as u16;
            for frame in frames(number) {
                rig.wire.offer(queue, frame);
            }
        }
        // The others go on while one is held up. Nothing of it is lost but what found its lane
        // full; and a queue of its own is not harvested.
        let is_proxy = cpus > queues;
        rig.until(|rig| !is_proxy || rig.wire.waiting() == 0).await;
        open.send(()).expect("it waits");
        rig.until_stats(|stats| is_at_rest(&rig, stats)).await;
        let stats = rig.stack.stats().await.expect("running");
        check_at_rest(&stats, &rig.device.stats());
        for reason in [
            DropReason::LaneFull,
            DropReason::NoSocket,
            DropReason::Checksum,
        ] {
            assert!(
                stats.drops()[reason] > 0 || !is_proxy,
                "{reason:?}: {stats}"
            );
        }
        rig.stack.shutdown().await;
    }
}

/// A datagram to port 7, and sometimes something else.
fn frames(number: u32) -> Vec<Vec<u8>> {
    let flow = peer(number % 500);
    let mut frames = vec![udp_frame(flow, SERVER, &number.to_be_bytes())];
    match number % 10 {
        1 => frames.push(udp_frame(flow, SocketAddrV4::new(*SERVER.ip(), 8), b"?")),
        2 => {
            let mut bad = udp_frame(flow, SERVER, b"bad");
            bad[42] ^= 1;
            frames.push(bad);
        }
        3 => {
            let mut ping = udp_frame(flow, SERVER, b"ping");
            ping[23] = 1;
            frames.push(ping);
        }
        4 => frames.push(vec![0xff; 60]),
        5 if number % 50 == 5 => {
            frames.extend(fragments(flow, SERVER, &[1; 4000], number as u16, 1480));
        }
        // Never whole.
        6 if number % 100 == 6 => {
            frames.extend(fragments(flow, SERVER, &[1; 4000], number as u16, 1480).pop());
        }
        _ => {}
    }
    frames
}
