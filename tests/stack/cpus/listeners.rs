//! Listeners of several cpus at one address that come one after another, segment by segment.

use std::collections::{HashMap, HashSet};
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use etherparse::{
    NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TcpHeader, TransportSlice,
};
use tokio::sync::oneshot;
use virtroupe::wire::placement::{Flow, Transport};
use virtroupe::{BindError, ListenOptions, Stats, TcpListener};

use super::wire::{MAC, PEER_MAC, Rig, Sent, rig_config};
use crate::stack::support::{address, within};

const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 7);
const FLOWS: u32 = 64;
/// The initial sequence number of each peer.
const THEIRS: u32 = 1000;

/// The address and port of a flow. Under any key, flows are spread over the cpus by 1024 ports in a
/// row, but not by a few of them: these lie all over.
fn peer(flow: u32) -> SocketAddrV4 {
    let port = 2048 + flow * 167 % 1024;
    SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 1), port as u16)
}

/// A segment of a peer: a SYN, or what acknowledges `ours`.
fn segment(from: SocketAddrV4, ours: Option<u32>) -> Vec<u8> {
    match ours {
        None => frame(from, THEIRS, |tcp| tcp.syn()),
        Some(ours) => frame(from, THEIRS + 1, |tcp| tcp.ack(ours)),
    }
}

fn frame(
    from: SocketAddrV4,
    number: u32,
    flags: impl FnOnce(PacketBuilderStep<TcpHeader>) -> PacketBuilderStep<TcpHeader>,
) -> Vec<u8> {
    let (source, destination) = (from.ip().octets(), SERVER.ip().octets());
    let builder = PacketBuilder::ethernet2(PEER_MAC.0, MAC.0).ipv4(source, destination, 64);
    let builder = flags(builder.tcp(from.port(), SERVER.port(), number, 1000));
    let mut frame = Vec::new();
    builder.write(&mut frame, &[]).expect("it fits");
    frame
}

/// What the stack sent to whom: its sequence number, and whether it is a SYN and a reset.
fn parse(sent: &Sent) -> (SocketAddrV4, u32, bool, bool) {
    let packet = SlicedPacket::from_ethernet(&sent.frame).expect("sound");
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) =
        (&packet.net, &packet.transport)
    else {
        panic!("not TCP over IPv4: {packet:?}");
    };
    let to = ip.header().destination_addr();
    let to = SocketAddrV4::new(to, tcp.destination_port());
    (to, tcp.sequence_number(), tcp.syn(), tcp.rst())
}

/// Closes a listener, and then tells by what it is sent.
type Close = oneshot::Sender<oneshot::Sender<()>>;

/// Listens on `cpu` for as long as the stack runs, or until told by what is returned. The connections
/// stay.
async fn listen_on(rig: &Rig, cpu: u16) -> Close {
    let (close, closes) = oneshot::channel();
    let listening = rig.stack.run_on(cpu, |local| async move {
        let at = address("0.0.0.0:7");
        let listener = local.listen_tcp_per_cpu(at, ListenOptions::default());
        actix::spawn(keep(listener.await?, closes));
        Ok::<_, BindError>(())
    });
    within(listening).await.expect("it runs").expect("free");
    close
}

async fn keep(listener: TcpListener, closes: oneshot::Receiver<oneshot::Sender<()>>) {
    let mut streams = Vec::new();
    let accept = async {
        while let Ok(stream) = listener.accept().await {
            streams.push(stream);
        }
    };
    tokio::select! {
        () = accept => {}
        Ok(closed) = closes => {
            drop(listener);
            let _ = closed.send(());
            pending().await
        }
    }
}

/// Closes the listener of `cpu`; done when all cpus know.
async fn close_on(rig: &Rig, cpu: u16, close: Close) {
    let (closed, is_closed) = oneshot::channel();
    let _ = close.send(closed);
    within(is_closed).await.expect("it closes");
    // What the same cpu binds is known later.
    let known = rig.stack.run_on(cpu, |local| async move {
        local.bind_udp(address("0.0.0.0:0")).await.map(drop)
    });
    within(known).await.expect("it runs").expect("free");
}

/// Offers a segment of each flow, on both queues in turn.
fn offer(rig: &Rig, flows: impl Iterator<Item = u32>, ours: impl Fn(SocketAddrV4) -> Option<u32>) {
    for flow in flows {
        let queue = (flow % 2) as u16;
        rig.wire.offer(queue, segment(peer(flow), ours(peer(flow))));
    }
}

/// How many connections each cpu has made.
async fn opened(rig: &Rig) -> Vec<u64> {
    let stats = within(rig.stack.stats()).await.expect("it runs");
    let cpus = stats.cpus.iter();
    cpus.map(|cpu| cpu.shard.tcp.engine.opened).collect()
}

/// Which cpu gets each of the flows, as `cpu` knows it.
async fn owners(rig: &Rig, cpu: u16) -> Vec<u16> {
    let placement = rig.placement(cpu).await.expect("several cpus");
    let owner = |flow| placement.owner(&Flow::received_from_v4(Transport::Tcp, peer(flow), SERVER));
    (0..FLOWS).map(owner).collect()
}

/// Each cpu's connections stay there while it and others listen no more and again, and every cpu knows
/// it.
#[actix::test]
async fn connections_stay_where_they_are_while_listeners_come_and_go() {
    let rig = Rig::start(rig_config(2, 4)).await;
    let mut first = listen_on(&rig, 0).await;
    let mut second = listen_on(&rig, 1).await;
    let ours = shake_hands(&rig).await;
    let expected = owners(&rig, 0).await;
    assert_eq!(expected.iter().collect::<HashSet<_>>().len(), 2);
    for round in 0..2 {
        close_on(&rig, 0, first).await;
        for cpu in 0..4 {
            assert_eq!(
                owners(&rig, cpu).await,
                expected,
                "cpu {cpu}, round {round}"
            );
        }
        first = listen_on(&rig, 0).await;
        // The first looks again which of its connections would be another's.
        close_on(&rig, 1, second).await;
        second = listen_on(&rig, 1).await;
    }
    let before = accepted(&rig).await;
    offer(&rig, 0..FLOWS, |peer| ours.get(&peer).copied());
    let all = u64::from(FLOWS);
    rig.until_stats(|stats| accepted_of(stats) == before + all)
        .await;
    let stats = within(rig.stack.stats()).await.expect("it runs");
    let engines = stats.cpus.iter().map(|cpu| &cpu.shard.tcp.engine);
    assert_eq!(engines.map(|engine| engine.resets_sent).sum::<u64>(), 0);
    rig.stack.shutdown().await;
}

/// The peers of a cpu that does not listen any more reset their connections, whose handles are kept:
/// what these peers begin next is for who listens.
#[actix::test]
async fn connections_that_are_over_stay_nowhere() {
    let rig = Rig::start(rig_config(2, 4)).await;
    let first = listen_on(&rig, 0).await;
    shake_hands(&rig).await;
    let _second = listen_on(&rig, 1).await;
    close_on(&rig, 0, first).await;
    for cpu in 0..4 {
        assert_eq!(owners(&rig, cpu).await, [0; FLOWS as usize], "cpu {cpu}");
    }
    let half = FLOWS / 2;
    for flow in 0..half {
        let reset = frame(peer(flow), THEIRS + 1, |tcp| tcp.rst());
        rig.wire.offer((flow % 2) as u16, reset);
    }
    let resets = |stats: &Stats| {
        let cpus = stats.cpus.iter();
        let resets = cpus.map(|cpu| cpu.shard.tcp.engine.resets_received);
        resets.sum::<u64>()
    };
    rig.until_stats(|stats| resets(stats) == u64::from(half))
        .await;
    let expected: Vec<_> = (0..FLOWS).map(|flow| u16::from(flow < half)).collect();
    for cpu in 0..4 {
        let known = async {
            while owners(&rig, cpu).await != expected {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        within(known).await;
    }
    rig.stack.shutdown().await;
}

/// What begins when a cpu has only connections left, and another begins to listen, is the other's.
#[actix::test]
async fn a_cpu_that_listens_no_more_is_asked_for_no_new_connections_when_another_listens() {
    let rig = Rig::start(rig_config(2, 4)).await;
    let first = listen_on(&rig, 0).await;
    shake_hands(&rig).await;
    close_on(&rig, 0, first).await;
    listen_on(&rig, 1).await;
    for cpu in 0..4 {
        let placement = rig.placement(cpu).await.expect("several cpus");
        let owner =
            |flow| placement.owner(&Flow::received_from_v4(Transport::Tcp, peer(flow), SERVER));
        assert!((0..FLOWS).all(|flow| owner(flow) == 0), "cpu {cpu}");
        assert!((FLOWS..2 * FLOWS).all(|flow| owner(flow) == 1), "cpu {cpu}");
    }
    rig.stack.shutdown().await;
}

/// Opens all flows. Returns what each peer acknowledges.
async fn shake_hands(rig: &Rig) -> HashMap<SocketAddrV4, u32> {
    offer(rig, 0..FLOWS, |_| None);
    let ours = syn_acks(rig).await;
    let before = accepted(rig).await;
    offer(rig, 0..FLOWS, |peer| ours.get(&peer).copied());
    rig.until_stats(|stats| accepted_of(stats) == before + u64::from(FLOWS))
        .await;
    ours
}

/// What each peer is to acknowledge, from the answers to its SYN.
async fn syn_acks(rig: &Rig) -> HashMap<SocketAddrV4, u32> {
    let mut ours = HashMap::new();
    rig.until(|rig| {
        for sent in rig.wire.take_sent() {
            let (to, number, is_syn, _) = parse(&sent);
            assert!(is_syn);
            ours.insert(to, number + 1);
        }
        ours.len() == FLOWS as usize
    })
    .await;
    ours
}

/// How many segments the engines have taken.
async fn accepted(rig: &Rig) -> u64 {
    accepted_of(&within(rig.stack.stats()).await.expect("it runs"))
}

fn accepted_of(stats: &Stats) -> u64 {
    let cpus = stats.cpus.iter();
    cpus.map(|cpu| cpu.shard.tcp.engine.accepted).sum()
}

/// Handshakes that begin with one cpu listening, and end with four of them.
#[actix::test]
async fn a_handshake_ends_where_it_began_and_what_begins_later_goes_to_its_owner() {
    let rig = Rig::start(rig_config(2, 4)).await;
    listen_on(&rig, 0).await;
    offer(&rig, 0..FLOWS, |_| None);
    let ours = syn_acks(&rig).await;
    for cpu in 1..4 {
        listen_on(&rig, cpu).await;
    }
    offer(&rig, 0..FLOWS, |peer| ours.get(&peer).copied());
    let all = u64::from(FLOWS);
    rig.until_stats(|stats| accepted_of(stats) == 2 * all).await;
    assert_eq!(opened(&rig).await, [all, 0, 0, 0]);
    // Each cpu knows where they are, and others go by their hash.
    for cpu in 0..4 {
        let placement = rig.placement(cpu).await.expect("several cpus");
        let owner =
            |flow| placement.owner(&Flow::received_from_v4(Transport::Tcp, peer(flow), SERVER));
        assert!((0..FLOWS).all(|flow| owner(flow) == 0));
        let others: HashSet<_> = (FLOWS..2 * FLOWS).map(owner).collect();
        assert_eq!(others.len(), 4);
    }
    offer(&rig, FLOWS..2 * FLOWS, |_| None);
    let mut answered = HashSet::new();
    rig.until(|rig| {
        for sent in rig.wire.take_sent() {
            let (to, _, is_syn, is_reset) = parse(&sent);
            assert!(!is_reset);
            // On a slow machine the answer to a SYN is sent again, also those of before.
            if is_syn && (FLOWS..2 * FLOWS).any(|flow| peer(flow) == to) {
                answered.insert(to);
            }
        }
        answered.len() == FLOWS as usize
    })
    .await;
    rig.stack.shutdown().await;
}
