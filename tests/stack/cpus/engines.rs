//! What the engines of several cpus have to tell each other: answers of neighbours, errors of the
//! network, packets to ourselves, and broadcasts.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use actix::prelude::*;
use etherparse::PacketBuilder;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use virtroupe::wire::placement::{Flow, Transport};
use virtroupe::{
    BindError, Buffer, DropReason, LocalStack, Payload, SocketEvent, UdpErrorKind, UdpReceived,
    UdpSend, UdpSocket,
};

use super::counts::{check_at_rest, is_at_rest};
use super::fragments::Reassembly;
use super::wire::{MAC, PEER_MAC, Rig, parse_udp, peer, rig_config, udp_frame};
use crate::stack::support::{address, within};

/// What came to the socket of a cpu.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Datagram(SocketAddr, Vec<u8>),
    Event(SocketEvent),
}

/// A socket that tells what it gets, and may echo.
struct Probe {
    cpu: u16,
    socket: UdpSocket,
    is_echo: bool,
    seen: UnboundedSender<(u16, Seen)>,
}

impl Actor for Probe {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.socket.deliver_to(ctx.address());
        self.socket.events_to(ctx.address());
    }
}

impl Handler<UdpReceived> for Probe {
    type Result = ();

    fn handle(&mut self, mut received: UdpReceived, _: &mut Self::Context) {
        for datagram in received.datagrams.iter() {
            let datagram = Seen::Datagram(datagram.source, datagram.payload.to_vec());
            let _ = self.seen.send((self.cpu, datagram));
        }
        if self.is_echo {
            let outcome = self.socket.reply(received.datagrams.drain(..));
            assert_eq!(outcome.refused, 0, "{:?}", outcome.reason);
        }
    }
}

impl Handler<SocketEvent> for Probe {
    type Result = ();

    fn handle(&mut self, event: SocketEvent, _: &mut Self::Context) {
        let _ = self.seen.send((self.cpu, Seen::Event(event)));
    }
}

/// Sends a datagram.
#[derive(Message)]
#[rtype(result = "()")]
struct Send(SocketAddr, Vec<u8>);

impl Handler<Send> for Probe {
    type Result = ();

    fn handle(&mut self, Send(to, payload): Send, _: &mut Self::Context) {
        let mut burst = vec![UdpSend::new(to, Payload::Bytes(payload.into()))];
        self.socket.send(&mut burst);
        assert!(burst.is_empty(), "{:?}", burst[0].refused);
    }
}

type Sightings = UnboundedReceiver<(u16, Seen)>;

/// One probe on each cpu, whose socket `open` makes.
async fn probes<F, Fut>(rig: &Rig, open: F) -> (Vec<Addr<Probe>>, Sightings)
where
    F: Fn(LocalStack) -> Fut + Clone + std::marker::Send + 'static,
    Fut: Future<Output = UdpSocket> + 'static,
{
    let (seen, receiver) = unbounded_channel();
    let started = rig.stack.run_on_each(move |local| {
        let (seen, open) = (seen.clone(), open.clone());
        async move {
            let cpu = local.cpu();
            let socket = open(local).await;
            let is_echo = false;
            Probe {
                cpu,
                socket,
                is_echo,
                seen,
            }
            .start()
        }
    });
    (within(started).await.expect("running"), receiver)
}

async fn ephemeral(local: LocalStack) -> UdpSocket {
    local.bind_udp(address("0.0.0.0:0")).await.expect("free")
}

/// Waits for `count` sightings.
async fn sightings(rig: &Rig, seen: &mut Sightings, count: usize) -> Vec<(u16, Seen)> {
    let mut all = Vec::new();
    rig.until(|_| {
        while let Ok(one) = seen.try_recv() {
            all.push(one);
        }
        all.len() >= count
    })
    .await;
    assert_eq!(all.len(), count);
    all
}

fn arp_reply(sender: Ipv4Addr, mac: [u8; 6]) -> Vec<u8> {
    let mut frame = [&MAC.0[..], &mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]].concat();
    frame.extend(mac);
    frame.extend(sender.octets());
    frame.extend(MAC.0);
    frame.extend([10, 0, 0, 1]);
    frame
}

/// Every cpu asks by its own queue; one answer, wherever it arrives, serves all.
#[actix::test]
async fn the_answer_of_a_neighbour_reaches_every_cpu() {
    for (queues, cpus) in [(1, 3), (2, 3), (3, 2), (2, 8)] {
        for arrival in 0..queues {
            let rig = Rig::start(rig_config(queues, cpus)).await;
            let (probes, _seen) = probes(&rig, ephemeral).await;
            let neighbor = Ipv4Addr::new(10, 0, 0, 77);
            let mac = [2, 0, 0, 0, 0, 77];
            let to = SocketAddr::from((neighbor, 9));
            for probe in &probes {
                let hello = Send(to, b"hello".to_vec());
                within(probe.send(hello)).await.expect("alive");
            }
            let mut requests = Vec::new();
            rig.until(|rig| {
                let sent = rig.wire.take_sent();
                requests.extend(sent.iter().map(|sent| sent.frame[12..14].to_vec()));
                requests.len() >= usize::from(cpus)
            })
            .await;
            assert!(
                requests.iter().all(|kind| *kind == [8, 6]),
                "only questions"
            );
            rig.wire.offer(arrival, arp_reply(neighbor, mac));
            let mut datagrams = 0;
            rig.until(|rig| {
                for sent in rig.wire.take_sent() {
                    if sent.frame[12..14] == [8, 0] {
                        assert_eq!(sent.frame[..6], mac);
                        datagrams += 1;
                    }
                }
                datagrams == cpus
            })
            .await;
            rig.stack.shutdown().await;
        }
    }
}

/// An ICMP error from the router about a datagram of ours.
fn icmp_error(about: &[u8], code: u8, mtu: u16) -> Vec<u8> {
    let cited = &about[14..about.len().min(14 + 28)];
    let kind = match code {
        4 => etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu },
        _ => etherparse::icmpv4::DestUnreachableHeader::Port,
    };
    let builder = PacketBuilder::ethernet2(PEER_MAC.0, MAC.0)
        .ipv4([10, 0, 0, 9], [10, 0, 0, 1], 64)
        .icmpv4(etherparse::Icmpv4Type::DestinationUnreachable(kind));
    let mut frame = Vec::new();
    builder.write(&mut frame, cited).expect("it fits");
    frame
}

#[actix::test]
async fn errors_of_the_network_reach_the_socket_that_sent_on_its_cpu() {
    for (queues, cpus) in [(1, 2), (2, 5), (3, 2)] {
        for is_connected in [false, true] {
            let rig = Rig::start(rig_config(queues, cpus)).await;
            let far = address("10.1.0.7:53");
            let (probes, mut seen) = match is_connected {
                false => probes(&rig, ephemeral).await,
                true => {
                    let connect = move |local: LocalStack| async move {
                        local.connect_udp(far).expect("a port")
                    };
                    probes(&rig, connect).await
                }
            };
            for (cpu, probe) in probes.iter().enumerate() {
                for (code, kind) in [
                    (3, UdpErrorKind::PortUnreachable),
                    (4, UdpErrorKind::FragmentationNeeded { mtu: 700 }),
                ] {
                    let send = Send(far, vec![1; 1000]);
                    within(probe.send(send)).await.expect("alive");
                    let mut frame = Vec::new();
                    rig.until(|rig| {
                        frame = rig.wire.take_sent().pop().map_or(vec![], |sent| sent.frame);
                        !frame.is_empty()
                    })
                    .await;
                    let queue = (cpu as u16 + u16::from(code)) % queues;
                    rig.wire.offer(queue, icmp_error(&frame, code, 700));
                    match &sightings(&rig, &mut seen, 1).await[..] {
                        [(to, Seen::Event(SocketEvent::Failed(error)))] => {
                            assert_eq!(usize::from(*to), cpu);
                            assert_eq!((error.peer, error.kind), (far, kind));
                        }
                        other => panic!("{other:?}"),
                    }
                }
                // What is longer than the path bears now goes in fragments.
                let send = Send(far, vec![2; 1000]);
                within(probe.send(send)).await.expect("alive");
                let mut reassembly = Reassembly::default();
                let mut whole = None;
                rig.until(|rig| {
                    for sent in rig.wire.take_sent() {
                        assert!(sent.frame.len() <= 714);
                        whole = reassembly.add(&sent).or(whole.take());
                    }
                    whole.is_some()
                })
                .await;
                assert_eq!(whole.expect("whole").payload, [2; 1000]);
            }
            rig.stack.shutdown().await;
        }
    }
}

/// From each cpu to a socket on another one, and back, without a device.
#[actix::test]
async fn packets_to_ourselves_go_from_cpu_to_cpu() {
    for (queues, cpus) in [(1, 1), (1, 3), (2, 4), (3, 2)] {
        let mut config = rig_config(queues, cpus);
        config.options.pool_frames = 2048;
        let rig = Rig::start(config).await;
        let (probes, mut seen) = probes(&rig, ephemeral).await;
        let (echo_seen, mut at_echo) = unbounded_channel();
        let last = cpus - 1;
        let echo = rig.stack.run_on(last, |local| async move {
            let socket = local.bind_udp(address("10.0.0.1:7")).await?;
            let probe = Probe {
                cpu: local.cpu(),
                socket,
                is_echo: true,
                seen: echo_seen,
            };
            Ok::<_, BindError>(probe.start())
        });
        let echo = within(echo).await.expect("running").expect("free");
        for (cpu, probe) in probes.iter().enumerate() {
            for length in [0, 1, 1472, 1473, 9000, 65_507] {
                let payload: Vec<u8> = (0..length).map(|at| (at + cpu) as u8).collect();
                let send = Send(address("10.0.0.1:7"), payload.clone());
                within(probe.send(send)).await.expect("alive");
                match &sightings(&rig, &mut at_echo, 1).await[..] {
                    [(to, Seen::Datagram(_, there))] => {
                        assert_eq!(*to, last);
                        assert!(*there == payload);
                    }
                    other => panic!("{other:?}"),
                }
                match &sightings(&rig, &mut seen, 1).await[..] {
                    [(home, Seen::Datagram(source, back))] => {
                        assert_eq!((usize::from(*home), *source), (cpu, address("10.0.0.1:7")));
                        assert!(*back == payload, "{length} bytes");
                    }
                    other => panic!("{other:?}"),
                }
            }
            // An error comes home, too.
            let send = Send(address("10.0.0.1:99"), b"anybody?".to_vec());
            within(probe.send(send)).await.expect("alive");
            match &sightings(&rig, &mut seen, 1).await[..] {
                [(home, Seen::Event(SocketEvent::Failed(error)))] => {
                    assert_eq!(usize::from(*home), cpu);
                    assert_eq!(error.kind, UdpErrorKind::PortUnreachable);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(rig.device.stats().from_driver.frames, 0);
        rig.until_stats(|stats| is_at_rest(&rig, stats)).await;
        let stats = rig.stack.stats().await.expect("running");
        assert_eq!(
            stats.drops().total(),
            u64::from(cpus),
            "the errors: {stats}"
        );
        check_at_rest(&stats, &rig.device.stats());
        drop(echo);
        rig.stack.shutdown().await;
    }
}

#[actix::test]
async fn a_broadcast_reaches_one_socket_whoever_receives_it() {
    let rig = Rig::start(rig_config(2, 4)).await;
    let (_all, mut seen) = probes(&rig, |local| async move {
        local
            .bind_udp_per_cpu(address("0.0.0.0:7"))
            .await
            .expect("free")
    })
    .await;
    let placement = rig.placement(0).await.expect("several cpus");
    for (flow, to) in (0..40).zip(
        [Ipv4Addr::new(10, 0, 0, 255), Ipv4Addr::BROADCAST]
            .iter()
            .cycle(),
    ) {
        let to = SocketAddrV4::new(*to, 7);
        let mut frame = udp_frame(peer(flow), to, &flow.to_be_bytes());
        frame[..6].fill(0xff);
        rig.wire.offer((flow % 2) as u16, frame);
        let owner = placement.owner(&Flow::received_from_v4(Transport::Udp, peer(flow), to));
        let expected = Seen::Datagram(peer(flow).into(), flow.to_be_bytes().to_vec());
        assert_eq!(sightings(&rig, &mut seen, 1).await, [(owner, expected)]);
    }
    let stats = rig.stack.stats().await.expect("running");
    assert_eq!(stats.drops()[DropReason::NoSocket], 0);
    rig.wire.take_sent().iter().for_each(|sent| {
        assert!(parse_udp(&sent.frame).is_none());
    });
    rig.stack.shutdown().await;
}
