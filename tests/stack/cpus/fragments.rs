//! Datagrams in fragments: they arrive by their addresses, on any queue and in any order, and
//! what they make goes to the owner of its ports.

use std::collections::HashMap;
use std::net::SocketAddrV4;

use actix::prelude::*;
use virtroupe::BindError;
use virtroupe::wire::placement::{Flow, Transport};

use super::counts::{check_at_rest, is_at_rest};
use super::echo::Echo;
use super::wire::{MAC, PEER_MAC, Rig, Sent, peer, rig_config};
use crate::stack::support::{address, within};

const SERVER: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::new(10, 0, 0, 1), 7);

/// The frames of a datagram to the stack, with at most `most` bytes of it in each.
pub fn fragments(
    source: SocketAddrV4,
    destination: SocketAddrV4,
    payload: &[u8],
    id: u16,
    most: usize,
) -> Vec<Vec<u8>> {
    let header = etherparse::UdpHeader::with_ipv4_checksum(
        source.port(),
        destination.port(),
        &etherparse::Ipv4Header::new(
            0,
            64,
            etherparse::IpNumber::UDP,
            source.ip().octets(),
            destination.ip().octets(),
        )
        .expect("a header"),
        payload,
    );
    let mut datagram = header.expect("not too long").to_bytes().to_vec();
    datagram.extend(payload);
    let most = most / 8 * 8;
    let count = datagram.len().div_ceil(most);
    let pieces = datagram.chunks(most).enumerate();
    let frame = |(at, piece): (usize, &[u8])| {
        let mut ip = etherparse::Ipv4Header::new(
            piece.len() as u16,
            64,
            etherparse::IpNumber::UDP,
            source.ip().octets(),
            destination.ip().octets(),
        )
        .expect("a header");
        ip.identification = id;
        ip.dont_fragment = false;
        ip.more_fragments = at + 1 < count;
        ip.fragment_offset = ((at * most / 8) as u16).try_into().expect("13 bits");
        ip.header_checksum = ip.calc_header_checksum();
        let mut frame = [&MAC.0[..], &PEER_MAC.0, &[8, 0]].concat();
        frame.extend(ip.to_bytes());
        frame.extend(piece);
        frame
    };
    pieces.map(frame).collect()
}

/// Puts datagrams together again. For each: where it was sent from and to, its payload, and the
/// queue by which all of it came.
#[derive(Default)]
pub struct Reassembly(HashMap<u16, Partial>);

#[derive(Default)]
struct Partial {
    bytes: Vec<u8>,
    seen: usize,
    length: Option<usize>,
    queue: Option<u16>,
}

/// A whole datagram.
pub struct Whole {
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
    pub payload: Vec<u8>,
    pub queue: u16,
}

impl Reassembly {
    pub fn add(&mut self, sent: &Sent) -> Option<Whole> {
        let (ip, rest) = etherparse::Ipv4Header::from_slice(&sent.frame[14..]).expect("IPv4");
        let piece = &rest[..usize::from(ip.payload_len().expect("a length"))];
        let offset = usize::from(ip.fragment_offset.value()) * 8;
        let partial = self.0.entry(ip.identification).or_default();
        let end = offset + piece.len();
        partial.bytes.resize(partial.bytes.len().max(end), 0);
        partial.bytes[offset..end].copy_from_slice(piece);
        partial.seen += piece.len();
        if !ip.more_fragments {
            partial.length = Some(end);
        }
        assert_eq!(*partial.queue.get_or_insert(sent.queue), sent.queue);
        if partial.length != Some(partial.seen) {
            return None;
        }
        let whole = self.0.remove(&ip.identification)?;
        let port = |at: usize| u16::from_be_bytes([whole.bytes[at], whole.bytes[at + 1]]);
        Some(Whole {
            source: SocketAddrV4::new(ip.source.into(), port(0)),
            destination: SocketAddrV4::new(ip.destination.into(), port(2)),
            payload: whole.bytes[8..].to_vec(),
            queue: sent.queue,
        })
    }
}

#[actix::test]
async fn fragments_on_any_queue_make_a_datagram_for_the_owner_of_its_ports() {
    for (queues, cpus) in [(1, 1), (1, 3), (2, 3), (4, 4), (3, 2)] {
        let mut config = rig_config(queues, cpus);
        config.options.pool_frames = 2048;
        let rig = Rig::start(config).await;
        let echoes = rig.stack.run_on_each(|local| async move {
            let socket = local.bind_udp_per_cpu(address("0.0.0.0:7")).await?;
            let cpu = local.cpu();
            Ok::<_, BindError>(Echo::numbered(socket, cpu).start())
        });
        let echoes = within(echoes).await.expect("running");
        let placement = rig.placement(0).await;
        let mut owners = Vec::new();
        for (number, length) in [
            1, 1472, 1473, 3000, 20_000, 65_507, 65_506, 8000, 1481, 5000,
        ]
        .into_iter()
        .cycle()
        .take(30)
        .enumerate()
        {
            // Each cpu owns some, whatever the key of the hash is.
            let is_turn = |flow: &u32| {
                let flow = Flow::received_from_v4(Transport::Udp, peer(*flow), SERVER);
                let turn = number as u16 % cpus;
                placement
                    .as_ref()
                    .is_none_or(|placement| placement.owner(&flow) == turn)
            };
            let first = number as u32 * 100;
            let source = peer((first..first + 100_000).find(is_turn).expect("a flow"));
            let payload: Vec<u8> = (0..length).map(|at| (at * 7 + number) as u8).collect();
            let mut frames = fragments(source, SERVER, &payload, number as u16, 1480);
            // Some order: none of the first or last is always first.
            let length = frames.len();
            frames.rotate_left(number % length);
            frames.swap(0, length / 2);
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
            assert_eq!((whole.source, whole.destination), (SERVER, source));
            assert!(whole.payload[1..] == payload[1..], "{length} bytes");
            let owner = u16::from(whole.payload[0]);
            let flow = Flow::received_from_v4(Transport::Udp, source, SERVER);
            if let Some(placement) = &placement {
                assert_eq!(owner, placement.owner(&flow));
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
