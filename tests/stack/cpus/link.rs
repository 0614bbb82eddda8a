//! Two whole stacks over a link, whose devices run by themselves: they steer by what they last saw
//! sent, interrupt and sleep.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use actix::prelude::*;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use virtroupe::driver::embedded::{Link, LinkConfig};
use virtroupe::wire::placement::{Flow, Placement, Transport};
use virtroupe::{
    BindError, Buffer, CpuRole, Frame, Payload, Stack, UdpDatagram, UdpReceived, UdpSend, UdpSocket,
};

use super::echo::Echo;
use crate::stack::support::{address, config, dropped, start, within};

const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 7);
/// Flows of the client, each from an address of its own.
const FLOWS: u32 = 1000;
/// Datagrams of each flow.
const ROUNDS: u32 = 4;

fn sequence_of(payload: &[u8]) -> u32 {
    u32::from_be_bytes(*payload.first_chunk().expect("four bytes"))
}

/// Sends the datagrams of all flows, in order, with a bounded number of them under way.
struct Client {
    socket: UdpSocket,
    server: SocketAddr,
    next: u32,
    /// For each flow the sequence number that is expected back.
    expected: Vec<u32>,
    left: u32,
    done: Option<tokio::sync::oneshot::Sender<()>>,
}

const WINDOW: u32 = 48;

impl Client {
    fn send(&mut self, count: u32) {
        let mut burst = Vec::new();
        for _ in 0..count {
            if self.next == FLOWS * ROUNDS {
                break;
            }
            let (flow, round) = (self.next % FLOWS, self.next / FLOWS);
            self.next += 1;
            let payload = Payload::Bytes(round.to_be_bytes().to_vec().into());
            let mut send = UdpSend::new(self.server, payload);
            send.source = Some(source(flow).into());
            burst.push(send);
        }
        self.socket.send(&mut burst);
        assert!(burst.is_empty(), "{:?}", burst[0].refused);
    }
}

fn source(flow: u32) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::from(0x0a01_0000 + flow)
}

impl Actor for Client {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.socket.deliver_to(ctx.address());
        self.send(1);
    }
}

impl Handler<UdpReceived> for Client {
    type Result = ();

    fn handle(&mut self, received: UdpReceived, _: &mut Self::Context) {
        let is_first = self.left == FLOWS * ROUNDS;
        for datagram in received.datagrams.iter() {
            let std::net::IpAddr::V4(ip) = datagram.destination.ip() else {
                panic!("an IPv4 address");
            };
            let flow = (ip.to_bits() - 0x0a01_0000) as usize;
            let sequence = sequence_of(datagram.payload.head());
            assert_eq!(sequence, self.expected[flow], "in order within flow {flow}");
            self.expected[flow] += 1;
            self.left -= 1;
        }
        if self.left == 0 {
            if let Some(done) = self.done.take() {
                let _ = done.send(());
            }
            return;
        }
        let count = received.datagrams.len() as u32;
        self.send(if is_first { WINDOW } else { count });
    }
}

async fn run(queues: u16, cpus: u16, device: u16) {
    let (left, right) = Link::pair(LinkConfig::default());
    let mut client_config = config(1);
    client_config
        .host
        .owned
        .push("10.1.0.0/16".parse().expect("a prefix"));
    client_config.options.queue_size = 256;
    client_config.options.pool_frames = 1024;
    let (client, _) = start(client_config, left).await;
    let mut server_config = config(2).cpus(cpus).queues(queues);
    server_config.cpus.device = device;
    server_config
        .host
        .routes
        .push(virtroupe::wire::host::Route {
            destination: "10.1.0.0/16".parse().expect("a prefix"),
            gateway: Some("10.0.0.1".parse().expect("an address")),
        });
    let (server, _) = start(server_config, right).await;

    let (seen, receiver) = unbounded_channel();
    let echoes = server.run_on_each(move |local| {
        let seen = seen.clone();
        async move {
            let socket = local.bind_udp_per_cpu(address("0.0.0.0:7")).await?;
            let cpu = local.cpu();
            let tell = move |datagram: &mut UdpDatagram<Frame>| {
                let sequence = sequence_of(datagram.payload.head());
                let _ = seen.send((cpu, datagram.source, sequence));
            };
            Ok::<_, BindError>(Echo::new(socket, tell).start())
        }
    });
    let echoes = within(echoes).await.expect("the stack runs");
    assert!(echoes.iter().all(Result::is_ok));

    let (done, finished) = tokio::sync::oneshot::channel();
    let started = client.run_on(0, move |local| async move {
        let socket = local.bind_udp(address("0.0.0.0:9")).await?;
        let client = Client {
            socket,
            server: address("10.0.0.2:7"),
            next: 0,
            expected: vec![0; FLOWS as usize],
            left: FLOWS * ROUNDS,
            done: Some(done),
        };
        Ok::<_, BindError>(client.start())
    });
    let _client = within(started).await.expect("runs").expect("bound");
    if tokio::time::timeout(crate::stack::support::LIMIT, finished)
        .await
        .is_err()
    {
        panic!(
            "({queues}, {cpus}):\n{}\n{}",
            client.stats().await.unwrap(),
            server.stats().await.unwrap()
        );
    }
    let placement = server.run_on(0, |local| async move { local.placement() });
    let placement = within(placement).await.expect("the stack runs");
    check_owners(receiver, placement.as_ref());
    check_stats(&server, queues, cpus, device).await;
    client.shutdown().await;
    server.shutdown().await;
}

/// Each flow was seen by its owner only, in order. Whether each cpu owns some of so few addresses is up
/// to the random key.
fn check_owners(
    mut seen: UnboundedReceiver<(u16, SocketAddr, u32)>,
    placement: Option<&Placement>,
) {
    let mut owners: HashMap<SocketAddr, (u16, u32)> = HashMap::new();
    while let Ok((cpu, flow, sequence)) = seen.try_recv() {
        let (owner, next) = owners.entry(flow).or_insert((cpu, 0));
        assert_eq!((*owner, *next), (cpu, sequence), "{flow}");
        *next += 1;
    }
    assert_eq!(owners.len() as u32, FLOWS);
    for (peer, (cpu, _)) in owners {
        let SocketAddr::V4(peer) = peer else {
            panic!("an IPv4 address");
        };
        let flow = Flow::received_from_v4(Transport::Udp, peer, SERVER);
        let owner = placement.map_or(0, |placement| placement.owner(&flow));
        assert_eq!(cpu, owner, "{peer}");
    }
}

async fn check_stats(server: &Stack, queues: u16, cpus: u16, device: u16) {
    let stats = server.stats().await.expect("the stack runs");
    println!("{stats}");
    assert_eq!(dropped(&stats), 0, "{stats}");
    assert_eq!(stats.cpus.len(), usize::from(cpus));
    let mut owned: Vec<u16> = stats
        .cpus
        .iter()
        .flat_map(|cpu| cpu.queues.clone())
        .collect();
    owned.sort_unstable();
    assert_eq!(owned, (0..queues).collect::<Vec<_>>());
    let first = &stats.cpus[usize::from(device)];
    assert_eq!((first.role, first.queues[0]), (CpuRole::Queue, 0));
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
        run(queues, cpus, 0).await;
    }
}

#[actix::test]
async fn the_device_may_be_on_the_last_cpu() {
    run(1, 3, 2).await;
    run(2, 5, 4).await;
}
