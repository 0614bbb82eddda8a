//! Sockets that are bound on some cpus only, connected ones, and whom an address belongs to.

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, SocketAddrV4};

use actix::prelude::*;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use virtroupe::wire::placement::{Flow, SourcePortError, Transport};
use virtroupe::{
    BindError, Buffer, ConnectError, DropReason, LocalStack, Payload, UdpReceived, UdpSend,
    UdpSocket,
};

use super::wire::{Rig, Sent, parse_udp, peer, rig_config, udp_frame};
use crate::stack::support::{address, within};

const SERVER: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::new(10, 0, 0, 1), 7);

/// Which cpu a socket is on, and what came to it: from where, and the payload.
type Arrival = (u16, SocketAddrV4, Vec<u8>);

/// Holds sockets of one cpu and tells what they get.
struct Holder {
    cpu: u16,
    sockets: Vec<UdpSocket>,
    seen: UnboundedSender<Arrival>,
}

impl Actor for Holder {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        for socket in &self.sockets {
            socket.deliver_to(ctx.address());
        }
    }
}

impl Handler<UdpReceived> for Holder {
    type Result = ();

    fn handle(&mut self, received: UdpReceived, _: &mut Self::Context) {
        let is_open = self.sockets.iter().any(|open| open.id() == received.socket);
        assert!(is_open, "a datagram for a socket that was closed");
        for datagram in received.datagrams.iter() {
            let SocketAddr::V4(source) = datagram.source else {
                panic!("an IPv4 address");
            };
            let _ = self
                .seen
                .send((self.cpu, source, datagram.payload.to_vec()));
        }
    }
}

/// Keeps sockets open.
struct Keep(#[expect(dead_code, reason = "kept, not used")] Vec<UdpSocket>);

impl Actor for Keep {
    type Context = Context<Self>;
}

/// Closes all sockets of a holder. When it is answered, they are closed on their cpu.
#[derive(Message)]
#[rtype(result = "()")]
struct Close;

impl Handler<Close> for Holder {
    type Result = ();

    fn handle(&mut self, _: Close, ctx: &mut Self::Context) {
        self.sockets.clear();
        ctx.stop();
    }
}

/// Sends one datagram with its source port as payload from each socket to `0`.
#[derive(Message)]
#[rtype(result = "()")]
struct Greet(SocketAddrV4);

impl Handler<Greet> for Holder {
    type Result = ();

    fn handle(&mut self, Greet(peer): Greet, _: &mut Self::Context) {
        for socket in &self.sockets {
            let port = socket.local().expect("open").port();
            let payload = Payload::Bytes(port.to_be_bytes().to_vec().into());
            let mut burst = vec![UdpSend::new(peer.into(), payload)];
            assert_eq!(
                socket.send(&mut burst).accepted,
                1,
                "{:?}",
                burst[0].refused
            );
        }
    }
}

/// How a test binds.
#[derive(Clone, Copy)]
enum Kind {
    Alone,
    PerCpu,
}

async fn bind(local: &LocalStack, kind: Kind, at: &str) -> Result<UdpSocket, BindError> {
    match kind {
        Kind::Alone => local.bind_udp(address(at)).await,
        Kind::PerCpu => local.bind_udp_per_cpu(address(at)).await,
    }
}

async fn hold(
    rig: &Rig,
    cpu: u16,
    kind: Kind,
    at: &'static str,
    seen: &UnboundedSender<Arrival>,
) -> Result<Addr<Holder>, BindError> {
    let seen = seen.clone();
    let held = rig.stack.run_on(cpu, move |local| async move {
        let sockets = vec![bind(&local, kind, at).await?];
        Ok(Holder { cpu, sockets, seen }.start())
    });
    within(held).await.expect("the stack runs")
}

/// Offers a datagram of each of `flows` flows, on all queues in turn.
fn offer(rig: &Rig, queues: u16, flows: u32) {
    for flow in 0..flows {
        let queue = (flow % u32::from(queues)) as u16;
        rig.wire
            .offer(queue, udp_frame(peer(flow), SERVER, &flow.to_be_bytes()));
    }
}

/// Waits for so many datagrams; gives the cpu that got each flow.
async fn arrivals(
    rig: &Rig,
    seen: &mut UnboundedReceiver<Arrival>,
    count: usize,
) -> HashMap<SocketAddrV4, u16> {
    let mut owners = HashMap::new();
    rig.until(|_| {
        while let Ok((cpu, source, _)) = seen.try_recv() {
            let before = owners.insert(source, cpu);
            assert!(before.is_none(), "{source} twice");
        }
        owners.len() >= count
    })
    .await;
    assert_eq!(owners.len(), count);
    owners
}

async fn drops(rig: &Rig, reason: DropReason) -> u64 {
    rig.stack.stats().await.expect("running").drops()[reason]
}

#[actix::test]
async fn a_socket_of_one_cpu_gets_every_flow_from_the_moment_that_it_is_bound() {
    for (queues, cpus) in [(1, 2), (2, 3), (4, 4), (3, 2)] {
        for cpu in 0..cpus {
            let rig = Rig::start(rig_config(queues, cpus)).await;
            let (seen, mut receiver) = unbounded_channel();
            let socket = hold(&rig, cpu, Kind::Alone, "0.0.0.0:7", &seen).await;
            offer(&rig, queues, 200);
            let owners = arrivals(&rig, &mut receiver, 200).await;
            assert!(owners.values().all(|owner| *owner == cpu));
            assert_eq!(rig.stack.stats().await.expect("running").drops().total(), 0);
            drop(socket);
            rig.stack.shutdown().await;
        }
    }
}

#[actix::test]
async fn sockets_on_some_of_the_cpus_share_all_flows_as_placement_says() {
    let rig = Rig::start(rig_config(2, 5)).await;
    let (seen, mut receiver) = unbounded_channel();
    let mut sockets = Vec::new();
    for cpus in [vec![3], vec![3, 1], vec![3, 1, 4]] {
        let cpu = *cpus.last().expect("a cpu");
        sockets.push(hold(&rig, cpu, Kind::PerCpu, "0.0.0.0:7", &seen).await);
        let placement = rig.placement(0).await.expect("several cpus");
        offer(&rig, 2, 300);
        let owners = arrivals(&rig, &mut receiver, 300).await;
        for (source, owner) in &owners {
            let flow = Flow::received_from_v4(Transport::Udp, *source, SERVER);
            assert_eq!(placement.owner(&flow), *owner, "{source}");
            assert!(cpus.contains(owner));
        }
    }
    assert_eq!(drops(&rig, DropReason::NoSocket).await, 0);
    // One goes: its flows go to the others, whose own stay.
    let gone = sockets.remove(1).expect("bound");
    within(gone.send(Close)).await.expect("alive");
    known_everywhere(&rig).await;
    let placement = rig.placement(2).await.expect("several cpus");
    offer(&rig, 2, 300);
    for (source, owner) in arrivals(&rig, &mut receiver, 300).await {
        let flow = Flow::received_from_v4(Transport::Udp, source, SERVER);
        let by_hash = placement.buckets().owner(flow.hash(placement.toeplitz()));
        assert!(owner == 3 || owner == 4);
        assert!(owner == by_hash || by_hash < 3, "{source}");
    }
    assert_eq!(drops(&rig, DropReason::NoSocket).await, 0);
    rig.stack.shutdown().await;
}

/// What was sent to the others before has been handled: their mailboxes are in order, and no cpu
/// takes note of a close later than of what its own cpu tells afterwards.
async fn known_everywhere(rig: &Rig) {
    for cpu in 0..rig.stack.cpus() {
        let bound = rig.stack.run_on(cpu, |local| async move {
            local.bind_udp(address("0.0.0.0:0")).await.map(drop)
        });
        within(bound).await.expect("running").expect("free");
    }
}

/// When a socket was closed, what comes for it is refused, wherever it comes.
#[actix::test]
async fn a_closed_port_is_unreachable_on_every_cpu() {
    let rig = Rig::start(rig_config(2, 4)).await;
    let (seen, mut receiver) = unbounded_channel();
    let socket = hold(&rig, 3, Kind::Alone, "0.0.0.0:7", &seen)
        .await
        .expect("free");
    offer(&rig, 2, 40);
    arrivals(&rig, &mut receiver, 40).await;
    within(socket.send(Close)).await.expect("alive");
    offer(&rig, 2, 40);
    rig.until_stats(|stats| stats.drops()[DropReason::NoSocket] == 40)
        .await;
    assert!(receiver.try_recv().is_err(), "closed is closed");
    rig.stack.shutdown().await;
}

#[actix::test]
async fn an_address_is_free_again_at_once_for_every_cpu() {
    let rig = Rig::start(rig_config(2, 4)).await;
    let (seen, mut receiver) = unbounded_channel();
    for round in 0..30u16 {
        // On the same cpu again, then on the next one.
        let cpu = round / 2 % 4;
        let kind = [Kind::Alone, Kind::PerCpu][usize::from(round / 3 % 2)];
        let socket = hold(&rig, cpu, kind, "0.0.0.0:7", &seen).await;
        let socket = socket.expect("the socket before was closed");
        offer(&rig, 2, 40);
        let owners = arrivals(&rig, &mut receiver, 40).await;
        assert!(owners.values().all(|owner| *owner == cpu), "round {round}");
        within(socket.send(Close)).await.expect("alive");
    }
    let stats = rig.stack.stats().await.expect("running");
    assert_eq!(stats.drops().total(), 0, "{stats}");
    rig.stack.shutdown().await;
}

/// Holds up the thread of its cpu until a gate opens; tells when it does.
#[derive(Message)]
#[rtype(result = "()")]
struct Block(
    tokio::sync::oneshot::Sender<()>,
    std::sync::mpsc::Receiver<()>,
);

impl Handler<Block> for Holder {
    type Result = ();

    fn handle(&mut self, Block(blocks, gate): Block, _: &mut Self::Context) {
        let _ = blocks.send(());
        let _ = gate.recv();
    }
}

/// One cpu takes no note of anything for a while. Who closed the address may have it again; another
/// cpu waits until all know that it was closed. Either then has every flow.
#[actix::test]
async fn a_close_that_is_not_known_everywhere_is_waited_for() {
    for heir in [0, 1] {
        let rig = Rig::start(rig_config(2, 4)).await;
        let (seen, mut receiver) = unbounded_channel();
        let blocked = hold(&rig, 3, Kind::Alone, "0.0.0.0:8", &seen).await;
        let blocked = blocked.expect("free");
        let first = hold(&rig, 0, Kind::Alone, "0.0.0.0:7", &seen).await;
        let first = first.expect("free");
        let (open, gate) = std::sync::mpsc::channel();
        let (blocks, is_blocked) = tokio::sync::oneshot::channel();
        blocked.do_send(Block(blocks, gate));
        within(is_blocked).await.expect("it blocks");
        within(first.send(Close)).await.expect("alive");
        let bind = rig.stack.run_on(heir, |local| async move {
            local
                .bind_udp(address("0.0.0.0:7"))
                .await
                .map(|socket| Keep(vec![socket]).start())
        });
        let mut bind = std::pin::pin!(bind);
        // Far longer than a bind takes, far shorter than the limit for an acknowledgement.
        let nap = std::time::Duration::from_millis(50);
        let early = tokio::time::timeout(nap, &mut bind).await;
        assert!(early.is_err(), "bound although one cpu does not know");
        open.send(()).expect("it waits");
        let keep = within(bind).await.expect("running").expect("free by now");
        drop(keep);
        known_everywhere(&rig).await;
        let socket = hold(&rig, heir, Kind::Alone, "0.0.0.0:7", &seen).await;
        let socket = socket.expect("free again");
        offer(&rig, 2, 40);
        let owners = arrivals(&rig, &mut receiver, 40).await;
        assert!(owners.values().all(|owner| *owner == heir));
        drop(socket);
        rig.stack.shutdown().await;
    }
}

/// Closed and bound again in one breath, on one cpu.
#[actix::test]
async fn a_cpu_may_bind_again_what_it_has_just_closed() {
    let rig = Rig::start(rig_config(2, 4)).await;
    for cpu in 0..4 {
        let bound = rig.stack.run_on(cpu, |local| async move {
            for _ in 0..20 {
                drop(local.bind_udp(address("0.0.0.0:7")).await?);
                drop(local.bind_udp_per_cpu(address("0.0.0.0:7")).await?);
            }
            Ok::<_, BindError>(())
        });
        within(bound).await.expect("running").expect("free");
    }
    rig.stack.shutdown().await;
}

#[actix::test]
async fn of_cpus_that_bind_the_same_port_at_once_one_gets_it() {
    let rig = Rig::start(rig_config(1, 4)).await;
    for port in 100..140u16 {
        let at = SocketAddr::from(([0, 0, 0, 0], port));
        let bind = |cpu: u16| {
            rig.stack.run_on(cpu, move |local| async move {
                let socket = match cpu {
                    // Sharing does not help against one who does not.
                    3 => local.bind_udp_per_cpu(at).await,
                    _ => local.bind_udp(at).await,
                };
                socket.map(|socket| Keep(vec![socket]).start())
            })
        };
        let (a, b, c, d) = tokio::join!(bind(0), bind(1), bind(2), bind(3));
        let outcomes = [a, b, c, d].map(|outcome| outcome.expect("running"));
        let winners = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(winners, 1, "port {port}");
        for error in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
            let is_expected =
                matches!(error, BindError::InUseOnOtherCpu { local, .. } if *local == at);
            assert!(is_expected, "{error:?}");
        }
    }
    rig.stack.shutdown().await;
}

#[actix::test]
async fn ephemeral_ports_of_all_cpus_differ() {
    const EACH: usize = 100;
    let rig = Rig::start(rig_config(1, 4)).await;
    let bind = |cpu| {
        rig.stack.run_on(cpu, |local| async move {
            let mut sockets = Vec::new();
            for _ in 0..EACH {
                sockets.push(local.bind_udp(address("0.0.0.0:0")).await.expect("free"));
            }
            let ports: Vec<_> = sockets.iter().filter_map(UdpSocket::local).collect();
            (ports, Keep(sockets).start())
        })
    };
    let (a, b, c, d) = tokio::join!(bind(0), bind(1), bind(2), bind(3));
    let bound = [a, b, c, d].map(|bound| bound.expect("running"));
    let ports: HashSet<_> = bound.iter().flat_map(|(ports, _)| ports).collect();
    assert_eq!(ports.len(), 4 * EACH);
    rig.stack.shutdown().await;
}

/// Replies to connected sockets come home, on whichever queue they arrive.
#[actix::test]
async fn connected_sockets_of_all_cpus_get_their_replies() {
    const EACH: usize = 20;
    for (queues, cpus) in [(1, 2), (2, 4), (2, 3), (3, 2)] {
        let rig = Rig::start(rig_config(queues, cpus)).await;
        let far: SocketAddrV4 = "10.1.9.9:53".parse().expect("an address");
        let (seen, mut receiver) = unbounded_channel();
        let holders = rig.stack.run_on_each(move |local| {
            let seen = seen.clone();
            async move {
                let socket = |_| local.connect_udp(far.into()).expect("a port is free");
                let sockets = (0..EACH).map(socket).collect();
                let cpu = local.cpu();
                Holder { cpu, sockets, seen }.start()
            }
        });
        let holders = within(holders).await.expect("running");
        for holder in &holders {
            within(holder.send(Greet(far))).await.expect("alive");
        }
        let total = EACH * usize::from(cpus);
        let mut sent: Vec<Sent> = Vec::new();
        rig.until(|rig| {
            sent.extend(rig.wire.take_sent());
            sent.len() >= total
        })
        .await;
        let placement = rig.placement(0).await.expect("several cpus");
        let mut ports = HashSet::new();
        for (number, Sent { queue, frame }) in sent.iter().enumerate() {
            let (source, destination, payload) = parse_udp(frame).expect("a datagram");
            assert_eq!(destination, far);
            assert!(ports.insert(source.port()), "{source} twice");
            let owner = placement.owner(&Flow::received_from_v4(Transport::Udp, far, source));
            assert_eq!(placement.ties().transmit_queue(owner), Some(*queue));
            let reply = [payload, &owner.to_be_bytes()].concat();
            let queue = (number % usize::from(queues)) as u16;
            rig.wire.offer(queue, udp_frame(far, source, &reply));
            // Strangers are not heard.
            let stranger = SocketAddrV4::new(*far.ip(), 54);
            rig.wire.offer(queue, udp_frame(stranger, source, &reply));
        }
        let mut replies = 0;
        rig.until(|_| {
            while let Ok((cpu, source, payload)) = receiver.try_recv() {
                assert_eq!(source, far);
                assert_eq!(payload[2..], cpu.to_be_bytes(), "a reply came home");
                replies += 1;
            }
            replies == total
        })
        .await;
        rig.until_stats(|stats| stats.drops()[DropReason::NoSocket] == total as u64)
            .await;
        rig.stack.shutdown().await;
    }
}

#[actix::test]
async fn a_cpu_whose_ports_are_all_in_use_says_so_and_the_others_go_on() {
    let rig = Rig::start(rig_config(1, 8)).await;
    let far = address("10.1.9.9:53");
    let placement = rig.placement(0).await.expect("several cpus");
    let owner_of = |port: u16| {
        let local = SocketAddrV4::new(*SERVER.ip(), port).into();
        placement.owner(&Flow::received_from(Transport::Udp, far, local).expect("both are IPv4"))
    };
    // All ephemeral ports whose replies come to one cpu.
    let full = owner_of(50_000);
    let expected = (49_152..=65_535)
        .filter(|port| owner_of(*port) == full)
        .count();
    let exhausted = rig.stack.run_on(full, move |local| async move {
        let mut sockets = Vec::new();
        let error = loop {
            match local.connect_udp(far) {
                Ok(socket) => sockets.push(socket),
                Err(error) => break error,
            }
        };
        let count = sockets.len();
        drop(sockets.pop());
        let again = local.connect_udp(far).is_ok();
        (count, error, again, Keep(sockets).start())
    });
    let (count, error, again, _keep) = within(exhausted).await.expect("running");
    assert_eq!(count, expected);
    let is_expected = matches!(
        error,
        ConnectError::Port(SourcePortError::NoPort { cpu, .. }) if cpu == full
    );
    assert!(is_expected, "{error:?}");
    assert!(again, "the port of a closed socket is free");
    let other = rig.stack.run_on(
        6,
        move |local| async move { local.connect_udp(far).map(drop) },
    );
    within(other).await.expect("running").expect("a port");
    rig.stack.shutdown().await;
}
