//! Two hosts over a link that loses, duplicates, delays and reorders, in virtual time from a seed.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use virtroupe_wire::{
    Buffer, Heap, HeapBuffer, Host, HostConfig, Instant, MacAddr, Payload, UdpSend, UdpSocketId,
};

use crate::support::{OUR_MAC, PEER_MAC, pattern};

struct Link {
    seed: u64,
    /// Frames under way by arrival, with the host that they arrive at.
    frames: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    serial: u64,
    loss_percent: u64,
    now: Instant,
}

impl Link {
    fn random(&mut self, bound: u64) -> u64 {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % bound
    }

    fn carry(&mut self, to: usize, frame: &HeapBuffer) {
        let copies = match self.random(100) {
            percent if percent < self.loss_percent => 0,
            percent if percent < self.loss_percent + 3 => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let delay = Duration::from_micros(100 + self.random(400));
            self.serial += 1;
            self.frames
                .insert((self.now + delay, self.serial), (to, frame.to_vec()));
        }
    }
}

fn host(mac: MacAddr, address: &str, seed: u64) -> Host<HeapBuffer> {
    let config = HostConfig {
        mac,
        addresses: vec![address.parse().unwrap()],
        ..HostConfig::default()
    };
    let mut host = Host::new(config, seed).unwrap();
    host.set_transmit_room(usize::MAX);
    host
}

/// Runs both hosts until nothing is under way and nothing is due. Host 1 echoes.
fn run(link: &mut Link, hosts: &mut [Host<HeapBuffer>; 2], echo: UdpSocketId) {
    for _ in 0..100_000 {
        for (from, host) in hosts.iter_mut().enumerate() {
            for frame in host.transmit().drain(..) {
                link.carry(1 - from, &frame);
            }
        }
        let arrival = link.frames.keys().next().map(|(time, _)| *time);
        let due = hosts.iter().filter_map(Host::next_deadline).min();
        let Some(next) = arrival.into_iter().chain(due).min() else {
            return;
        };
        link.now = link.now.max(next);
        for host in hosts.iter_mut() {
            host.handle_timeout(link.now, &mut Heap);
        }
        while let Some(entry) = link.frames.first_entry()
            && entry.key().0 <= link.now
        {
            let (to, frame) = entry.remove();
            hosts[to].receive(link.now, &mut vec![HeapBuffer::new(&frame)], &mut Heap);
        }
        let received = hosts[1].udp_received(echo).unwrap().drain(..);
        let mut replies: Vec<_> = received.map(UdpSend::reply).collect();
        let _ = hosts[1].send_udp(link.now, echo, &mut replies, &mut Heap);
    }
    panic!("the hosts do not come to rest");
}

/// Sends datagrams of many lengths from host 0 and returns how many came back, intact.
fn echoes(seed: u64, loss_percent: u64) -> usize {
    let mut hosts = [
        host(OUR_MAC, "10.0.0.1/24", seed),
        host(PEER_MAC, "10.0.0.2/24", !seed),
    ];
    let socket = hosts[0].bind_udp("0.0.0.0:0".parse().unwrap()).unwrap();
    let echo = hosts[1].bind_udp("0.0.0.0:7".parse().unwrap()).unwrap();
    let mut link = Link {
        seed,
        frames: BTreeMap::new(),
        serial: 0,
        loss_percent,
        now: Instant::ZERO,
    };
    let mut whole = std::collections::BTreeSet::new();
    for length in (0..20_000).step_by(997) {
        let payload = Payload::Buffer(HeapBuffer::new(&pattern(length)));
        let mut burst = vec![UdpSend::new("10.0.0.2:7".parse().unwrap(), payload)];
        let _ = hosts[0].send_udp(link.now, socket, &mut burst, &mut Heap);
        run(&mut link, &mut hosts, echo);
        for datagram in hosts[0].udp_received(socket).unwrap().drain(..) {
            let bytes = datagram.payload.to_vec();
            assert_eq!(bytes, pattern(bytes.len()));
            whole.insert(bytes.len());
        }
        link.now = link.now + Duration::from_secs(5); // an unreachable neighbour is asked again
    }
    for host in &hosts {
        let counters = host.counters();
        assert_eq!(counters.held, 0);
        assert_eq!(
            counters.rx_frames,
            counters.delivered + counters.consumed + counters.rx_dropped
        );
    }
    whole.len()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn over_a_bad_link_what_arrives_is_intact(seed in any::<u64>(), loss in 0_u64..30) {
        let arrived = echoes(seed, loss);
        prop_assert!(arrived <= 21);
        prop_assert!(loss > 0 || arrived == 21, "only {arrived} of 21 over a link without loss");
    }
}

#[test]
fn a_run_is_repeated_by_its_seed() {
    assert_eq!(echoes(7, 20), echoes(7, 20));
    assert_eq!(echoes(8, 0), 21);
}
