//! IPv6 over several cpus: what arrives on any queue, whole or in fragments, reaches the owner of
//! its flow, and the reply leaves by the owner's queue.

use std::collections::HashMap;
use std::net::{Ipv6Addr, SocketAddrV6};

use actix::prelude::*;
use etherparse::{IpNumber, Ipv6FlowLabel, Ipv6Header, UdpHeader};
use virtroupe::wire::host::{Neighbor, Route};
use virtroupe::wire::placement::{Flow, Transport};
use virtroupe::{BindError, Config};

use super::counts::{check_at_rest, is_at_rest};
use super::echo::Echo;
use super::wire::{MAC, PEER_MAC, Rig, Sent, rig_config};
use crate::stack::support::{address, within};

const SERVER: SocketAddrV6 = SocketAddrV6::new(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1), 7, 0, 0);

/// Bytes of a datagram in one frame of 1500 bytes, whole and as a fragment.
const WHOLE: usize = 1460;
const FRAGMENT: usize = 1448;

/// The stack is at fd00::1/64 too; fd00::9 is a router at [`PEER_MAC`].
fn config(queues: u16, cpus: u16) -> Config {
    let mut config = rig_config(queues, cpus);
    let parse = |text: &str| text.parse().expect("an address");
    config.options.pool_frames = 2048;
    config
        .host
        .addresses
        .push("fd00::1/64".parse().expect("an address"));
    config.host.neighbors.push(Neighbor {
        address: parse("fd00::9"),
        mac: PEER_MAC,
    });
    config.host.routes.push(Route {
        destination: "fd02::/16".parse().expect("a prefix"),
        gateway: Some(parse("fd00::9")),
    });
    config
}

/// The peer of a flow.
fn peer(flow: u32) -> SocketAddrV6 {
    let [high, low] = [(flow >> 16) as u16, flow as u16];
    SocketAddrV6::new(
        Ipv6Addr::new(0xfd02, 0, 0, 0, 0, 0, high, low),
        1024 + (flow % 50_000) as u16,
        0,
        0,
    )
}

/// The frames of a datagram to the stack.
fn frames(source: SocketAddrV6, payload: &[u8], id: u32) -> Vec<Vec<u8>> {
    let header = |next: u8, length: usize| Ipv6Header {
        traffic_class: 0,
        flow_label: Ipv6FlowLabel::ZERO,
        payload_length: length as u16,
        next_header: IpNumber(next),
        hop_limit: 64,
        source: source.ip().octets(),
        destination: SERVER.ip().octets(),
    };
    let udp = UdpHeader::with_ipv6_checksum(source.port(), 7, &header(17, 0), payload);
    let mut datagram = udp.expect("not too long").to_bytes().to_vec();
    datagram.extend(payload);
    let link = [&MAC.0[..], &PEER_MAC.0, &[0x86, 0xdd]].concat();
    if datagram.len() <= WHOLE {
        let ip = header(17, datagram.len()).to_bytes();
        return vec![[&link[..], &ip, &datagram].concat()];
    }
    let count = datagram.len().div_ceil(FRAGMENT);
    let fragment = |(at, piece): (usize, &[u8])| {
        let field = (at * FRAGMENT) as u16 | u16::from(at + 1 < count);
        let [high, low] = field.to_be_bytes();
        let fragment = [&[17, 0, high, low][..], &id.to_be_bytes()].concat();
        let ip = header(44, piece.len() + 8).to_bytes();
        [&link[..], &ip, &fragment, piece].concat()
    };
    let pieces = datagram.chunks(FRAGMENT).enumerate();
    pieces.map(fragment).collect()
}

/// A datagram that the stack sent, and the queue by which all of it came.
struct Whole {
    destination: Ipv6Addr,
    payload: Vec<u8>,
    queue: u16,
}

/// Puts datagrams together again: by identification, the pieces by offset, and the end if it is
/// known.
#[derive(Default)]
struct Reassembly(HashMap<[u8; 4], Partial>);

#[derive(Default)]
struct Partial {
    pieces: HashMap<usize, Vec<u8>>,
    end: Option<usize>,
}

impl Reassembly {
    fn add(&mut self, sent: &Sent) -> Option<Whole> {
        let (ip, rest) = Ipv6Header::from_slice(&sent.frame[14..]).expect("IPv6");
        assert_eq!(Ipv6Addr::from(ip.source), *SERVER.ip());
        let whole = |datagram: &[u8]| Whole {
            destination: ip.destination.into(),
            payload: datagram[8..].to_vec(),
            queue: sent.queue,
        };
        if ip.next_header == IpNumber::UDP {
            return Some(whole(rest));
        }
        let ([17, 0, high, low, id @ ..], piece) = rest.split_first_chunk::<8>()? else {
            panic!("not a fragment of UDP: {rest:02x?}");
        };
        let field = u16::from_be_bytes([*high, *low]);
        let offset = usize::from(field & !7);
        let partial = self.0.entry(*id).or_default();
        partial.pieces.insert(offset, piece.to_vec());
        if field & 1 == 0 {
            partial.end = Some(offset + piece.len());
        }
        let have: usize = partial.pieces.values().map(Vec::len).sum();
        if partial.end != Some(have) {
            return None;
        }
        let mut pieces: Vec<_> = self.0.remove(id)?.pieces.into_iter().collect();
        pieces.sort_unstable();
        let bytes: Vec<u8> = pieces.into_iter().flat_map(|(_, piece)| piece).collect();
        Some(whole(&bytes))
    }
}

#[actix::test]
async fn flows_and_fragments_reach_their_owners_over_ipv6() {
    for (queues, cpus) in [(1, 1), (1, 3), (4, 4), (3, 2)] {
        let rig = Rig::start(config(queues, cpus)).await;
        let echoes = rig.stack.run_on_each(|local| async move {
            let socket = local.bind_udp_per_cpu(address("[::]:7")).await?;
            let cpu = local.cpu();
            Ok::<_, BindError>(Echo::numbered(socket, cpu).start())
        });
        let echoes = within(echoes).await.expect("running");
        let placement = rig.placement(0).await;
        let flow = |source| Flow::received_from_v6(Transport::Udp, source, SERVER);
        let mut owners = Vec::new();
        let lengths = [1, 1452, 1453, 3000, 20_000, 65_507].into_iter();
        for (number, length) in lengths.cycle().take(24).enumerate() {
            // Each cpu owns some, whatever the key of the hash is.
            let is_turn = |candidate: &u32| {
                let turn = number as u16 % cpus;
                let placement = placement.as_ref();
                placement.is_none_or(|placement| placement.owner(&flow(peer(*candidate))) == turn)
            };
            let first = number as u32 * 100;
            let source = peer((first..first + 100_000).find(is_turn).expect("a flow"));
            let payload: Vec<u8> = (0..length).map(|at| (at * 7 + number) as u8).collect();
            let mut frames = frames(source, &payload, number as u32);
            let count = frames.len();
            frames.rotate_left(number % count);
            for (at, frame) in frames.into_iter().enumerate() {
                let queue = (at + number) % usize::from(queues);
                rig.wire.offer(queue as u16, frame);
            }
            let mut reassembly = Reassembly::default();
            let mut whole = None;
            rig.until(|rig| {
                for sent in rig.wire.take_sent() {
                    whole = reassembly.add(&sent).or(whole.take());
                }
                whole.is_some()
            })
            .await;
            let whole = whole.expect("an echo");
            assert_eq!(whole.destination, *source.ip());
            assert!(whole.payload[1..] == payload[1..], "{length} bytes");
            let owner = u16::from(whole.payload[0]);
            if let Some(placement) = &placement {
                assert_eq!(owner, placement.owner(&flow(source)));
                let tied = placement.ties().transmit_queue(owner);
                assert_eq!(Some(whole.queue), tied, "the echo left by the tied queue");
            }
            owners.push(owner);
        }
        owners.sort_unstable();
        owners.dedup();
        assert_eq!(owners.len(), usize::from(cpus), "each cpu owned some");
        rig.until_stats(|stats| is_at_rest(&rig, stats)).await;
        let stats = rig.stack.stats().await.expect("running");
        assert_eq!(stats.drops().total(), 0, "{stats}");
        check_at_rest(&stats, &rig.device.stats());
        drop(echoes);
        rig.stack.shutdown().await;
    }
}
