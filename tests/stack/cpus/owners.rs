//! Any number of queues and cpus: every flow's packets reach its owner, in order, and what the
//! owner sends leaves by the queue that it is tied to.

use std::collections::HashMap;
use std::net::{SocketAddr, SocketAddrV4};

use actix::prelude::*;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use virtroupe::wire::placement::{Flow, Placement, Transport};
use virtroupe::{
    BindError, Buffer, Capture, Config, CpuRole, Filter, Frame, PacketSocket, PacketsReceived,
    UdpDatagram,
};

use super::echo::Echo;
use super::wire::{Rig, flow_of, parse_udp, peer, rig_config, udp_frame};
use crate::stack::support::{address, within};

/// Flows, and datagrams of each.
const FLOWS: u32 = 1000;
const ROUNDS: u32 = 4;
/// Requests without a reply at any time: below every limit, of which the ring's is the least.
const WINDOW: u32 = 192;

/// Which cpu saw a datagram of which peer, with which number.
type Sighting = (u16, SocketAddrV4, u32);

/// As [`Echo`], by the packet API: turns whole frames round.
struct Mirror {
    cpu: u16,
    socket: PacketSocket,
    seen: UnboundedSender<Sighting>,
}

impl Actor for Mirror {
    type Context = Context<Self>;
}

impl Handler<PacketsReceived> for Mirror {
    type Result = ();

    fn handle(&mut self, mut received: PacketsReceived, _: &mut Self::Context) {
        for frame in received.frames.iter_mut() {
            let (source, _, payload) = parse_udp(frame.head()).expect("a datagram");
            let _ = self.seen.send((self.cpu, source, number(payload)));
            let bytes = frame.head_mut();
            for (one, other) in [(0..6, 6), (26..30, 30), (34..36, 36)] {
                let length = one.len();
                let copy = bytes[one.clone()].to_vec();
                bytes.copy_within(other..other + length, one.start);
                bytes[other..other + length].copy_from_slice(&copy);
            }
        }
        let outcome = self.socket.transmit(&mut received.frames);
        assert_eq!(outcome.refused, 0, "{:?}", outcome.reason);
    }
}

fn number(payload: &[u8]) -> u32 {
    u32::from_be_bytes(*payload.first_chunk().expect("four bytes"))
}

/// By which API the echo works.
#[derive(Clone, Copy, PartialEq)]
enum Api {
    Udp,
    Packets,
}

async fn start_echoes(rig: &Rig, api: Api) -> UnboundedReceiver<Sighting> {
    let (seen, receiver) = unbounded_channel();
    let started = rig.stack.run_on_each(move |local| {
        let seen = seen.clone();
        async move {
            let cpu = local.cpu();
            match api {
                Api::Udp => {
                    let socket = local.bind_udp_per_cpu(address("0.0.0.0:7")).await?;
                    let tell = move |datagram: &mut UdpDatagram<Frame>| {
                        let SocketAddr::V4(source) = datagram.source else {
                            panic!("an IPv4 address");
                        };
                        let _ = seen.send((cpu, source, number(datagram.payload.head())));
                    };
                    Echo::new(socket, tell).start();
                }
                Api::Packets => {
                    Mirror::create(|ctx| {
                        let socket =
                            local.subscribe(Filter::Protocol(17), Capture::Take, ctx.address());
                        Mirror { cpu, socket, seen }
                    });
                }
            }
            Ok::<_, BindError>(())
        }
    });
    let started = within(started).await.expect("the stack runs");
    assert!(started.iter().all(Result::is_ok));
    receiver
}

/// All flows' datagrams to port 7, each flow on a queue of its own choice, and the echoes back.
async fn run(config: Config, api: Api) {
    let (queues, cpus, device) = (
        config.options.queue_pairs,
        config.cpus.count,
        config.cpus.device,
    );
    let case = format!("({queues}, {cpus}), device on cpu {device}");
    let rig = Rig::start(config).await;
    let mut seen = start_echoes(&rig, api).await;
    let placement = rig.placement(cpus - 1).await;
    let server = SocketAddrV4::new([10, 0, 0, 1].into(), 7);
    let (mut offered, mut returned) = (0, vec![0; FLOWS as usize]);
    let mut left = FLOWS * ROUNDS;
    rig.until(|rig| {
        for sent in rig.wire.take_sent() {
            let (source, destination, payload) = parse_udp(&sent.frame).expect("a datagram");
            assert_eq!(source, server, "{case}");
            let expected = tied_queue(placement.as_ref(), destination, server);
            assert_eq!(sent.queue, expected, "{case}: {destination}");
            let next = &mut returned[flow_of(destination) as usize];
            assert_eq!(number(payload), *next, "{case}: {destination} in order");
            *next += 1;
            left -= 1;
        }
        while offered < FLOWS * ROUNDS && offered - (FLOWS * ROUNDS - left) < WINDOW {
            let (flow, round) = (offered % FLOWS, offered / FLOWS);
            // Not where its owner is, as a rule: software dispatches.
            let queue = (flow * 7 / 3 % u32::from(queues)) as u16;
            rig.wire
                .offer(queue, udp_frame(peer(flow), server, &round.to_be_bytes()));
            offered += 1;
        }
        left == 0
    })
    .await;
    check_owners(&mut seen, placement.as_ref(), server, &case);
    check_stats(&rig, queues, cpus, device, &case).await;
    rig.stack.shutdown().await;
}

fn flow(peer: SocketAddrV4, server: SocketAddrV4) -> Flow {
    Flow::received_from_v4(Transport::Udp, peer, server)
}

fn tied_queue(placement: Option<&Placement>, peer: SocketAddrV4, server: SocketAddrV4) -> u16 {
    placement.map_or(0, |placement| {
        let owner = placement.owner(&flow(peer, server));
        placement.ties().transmit_queue(owner).expect("a cpu")
    })
}

/// Each datagram was seen once, by the owner of its flow, in order. Whether each cpu owns some of so few
/// addresses and ports is up to the random key.
fn check_owners(
    seen: &mut UnboundedReceiver<Sighting>,
    placement: Option<&Placement>,
    server: SocketAddrV4,
    case: &str,
) {
    let mut next: HashMap<SocketAddrV4, u32> = HashMap::new();
    while let Ok((cpu, peer, number)) = seen.try_recv() {
        let owner = placement.map_or(0, |placement| placement.owner(&flow(peer, server)));
        assert_eq!(cpu, owner, "{case}: {peer}");
        let next = next.entry(peer).or_default();
        assert_eq!(number, *next, "{case}: {peer}");
        *next += 1;
    }
    assert!(next.len() == FLOWS as usize && next.values().all(|seen| *seen == ROUNDS));
}

async fn check_stats(rig: &Rig, queues: u16, cpus: u16, device: u16, case: &str) {
    let stats = rig.stack.stats().await.expect("the stack runs");
    assert_eq!(stats.drops().total(), 0, "{case}: {stats}");
    assert_eq!(stats.cpus.len(), usize::from(cpus));
    let owned = stats.cpus.iter().flat_map(|cpu| cpu.queues.clone());
    let mut owned: Vec<u16> = owned.collect();
    owned.sort_unstable();
    assert_eq!(owned, (0..queues).collect::<Vec<_>>(), "{case}");
    let first = &stats.cpus[usize::from(device)];
    assert_eq!((first.role, first.queues[0]), (CpuRole::Queue, 0), "{case}");
    let proxies = stats.cpus.iter().filter(|cpu| cpu.role == CpuRole::Proxy);
    assert_eq!(proxies.count(), usize::from(cpus.saturating_sub(queues)));
    // Every credit and every slot that a proxy lent comes home.
    rig.until_stats(|stats| {
        stats.cpus.iter().all(|cpu| {
            cpu.virtual_queue.is_none_or(|queue| {
                queue.credits_free == queue.credits && cpu.pool_free == cpu.pool_size
            })
        })
    })
    .await;
}

#[actix::test]
async fn every_number_of_queues_and_cpus_serves_every_flow_on_its_owner() {
    for (queues, cpus) in [
        (1, 1),
        (1, 2),
        (1, 4),
        (2, 2),
        (2, 3),
        (4, 4),
        (3, 8),
        (4, 2),
        (8, 3),
    ] {
        run(rig_config(queues, cpus), Api::Udp).await;
    }
}

#[actix::test]
async fn the_device_may_be_on_any_cpu() {
    for (queues, cpus, device) in [(1, 2, 1), (1, 3, 2), (2, 5, 4), (3, 4, 1), (5, 2, 1)] {
        let mut config = rig_config(queues, cpus);
        config.cpus.device = device;
        run(config, Api::Udp).await;
    }
}

#[actix::test]
async fn many_cpus_may_share_few_threads() {
    for (queues, cpus, threads) in [(1, 4, 1), (2, 3, 1), (3, 8, 2), (5, 2, 1)] {
        let mut config = rig_config(queues, cpus);
        config.cpus.threads = Some(threads);
        run(config, Api::Udp).await;
    }
}

#[actix::test]
async fn whole_frames_reach_the_subscribers_of_their_owner() {
    for (queues, cpus) in [(1, 1), (1, 3), (2, 2), (2, 5), (5, 2)] {
        run(rig_config(queues, cpus), Api::Packets).await;
    }
}
