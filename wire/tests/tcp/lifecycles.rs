//! Connections that come and go in every way: nothing hangs, and nothing is left.

use std::net::SocketAddr;

use proptest::prelude::*;
use virtroupe_wire::Buffer;
use virtroupe_wire::tcp::{
    ConnectionId, Keepalive, TcpConnectError, TcpEvent, TcpOptions, TcpState,
};

use crate::network::{Network, Path};
use crate::streams::check_empty;
use crate::support::{FAMILY, Family, Random, address, content, milliseconds, options, seconds};

/// What an application does with one connection, from then on.
#[derive(Debug)]
struct Application {
    engine: usize,
    id: ConnectionId,
    writes: u64,
    /// How it lets go.
    ending: u64,
    is_done: bool,
}

impl Application {
    fn new(engine: usize, id: ConnectionId, random: &mut Random) -> Self {
        Application {
            engine,
            id,
            writes: random.below(6),
            ending: random.below(5),
            is_done: false,
        }
    }

    fn work(&mut self, network: &mut Network) {
        let now = network.now;
        let length = network.random.below(30_000) as usize;
        let engine = &mut network.engines[self.engine];
        if self.ending != 4 {
            while let Some(payload) = engine.read(now, self.id) {
                assert!(!payload.is_empty());
            }
        }
        if self.writes > 0 {
            self.writes -= 1;
            let _ = engine.write(now, self.id, content(0, 0, length));
            return;
        }
        match self.ending {
            0 => engine.abort(now, self.id),
            1 | 4 => engine.close(now, self.id),
            // To the end, then close.
            _ => {
                engine.finish(now, self.id);
                let is_over = engine.state(self.id) == Some(TcpState::Closed);
                if !engine.is_at_end(self.id) && !is_over {
                    return;
                }
                engine.close(now, self.id);
            }
        }
        self.is_done = true;
    }
}

/// Some connections over a bad path, from a seed.
fn live(seed: u64) {
    let mut random = Random::new(seed);
    let path = Path {
        delay: milliseconds(random.below(100)),
        jitter: milliseconds(random.below(30)),
        loss: random.below(20) as f64 / 100.0,
        is_bursty: random.happens(0.3),
        duplication: random.below(5) as f64 / 100.0,
        corruption: random.below(5) as f64 / 100.0,
        ..Path::default()
    };
    let family = if random.happens(0.5) {
        Family::V4
    } else {
        Family::V6
    };
    let mut network = Network::new(family, path, seed);
    let options = TcpOptions {
        sack: random.happens(0.8),
        timestamps: random.happens(0.8),
        nodelay: random.happens(0.5),
        receive_buffer: 4096 << random.below(8),
        // A peer whose reset was lost would be waited for for ever.
        keepalive: Some(Keepalive {
            idle: seconds(60),
            interval: seconds(10),
            probes: 5,
        }),
        ..options()
    };
    if random.happens(0.3) {
        network.engines[0].set_most_payload(60_000);
    }
    let listener = network.listen(options.clone());
    let mut applications = Vec::new();
    for _ in 0..=random.below(4) {
        let id = network.connect(options.clone());
        applications.push(Application::new(0, id, &mut random));
    }
    let start = network.now;
    while network.now.since(start) < seconds(2000) {
        for event in network.events(1) {
            if event == TcpEvent::Acceptable(listener) {
                while let Some(id) = network.engines[1].accept(network.now, listener) {
                    applications.push(Application::new(1, id, &mut random));
                }
            }
        }
        network.events(0);
        for application in &mut applications {
            if !application.is_done {
                application.work(&mut network);
            }
        }
        applications.retain(|application| !application.is_done);
        let is_over = network
            .engines
            .iter()
            .all(|engine| engine.usage().connections == 0);
        if is_over && applications.is_empty() {
            break;
        }
        if !network.step() {
            // Only an application can go on.
            network.pass(seconds(1));
        }
    }
    assert!(
        applications.is_empty(),
        "seed {seed}: they hang: {applications:?}"
    );
    network.engines[1].close_listener(network.now, listener);
    check_empty(&mut network);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn connections_come_and_go_and_leave_nothing(seed in any::<u64>()) {
        live(seed);
    }
}

/// Some 15 s. `SEEDS` sets another number.
#[test]
fn ten_thousand_life_cycles() {
    let seeds: u64 =
        std::env::var("SEEDS").map_or(10_000, |seeds| seeds.parse().expect("a number"));
    (0..seeds).for_each(live);
}

#[test]
fn a_run_is_repeated_by_its_seed() {
    let run = |seed| {
        let path = Path {
            loss: 0.05,
            jitter: milliseconds(5),
            ..Path::default()
        };
        let mut network = Network::new(FAMILY, path, seed);
        crate::streams::transfer(&mut network, options(), [100_000, 100_000]);
        (network.now, network.sent, *network.engines[0].counters())
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

/// No packet could carry it: one over IPv6 would have a mapped address, which must not be seen on a
/// link (RFC 6890, section 2.2.3).
#[test]
fn there_is_no_connection_between_two_families() {
    let mut network = Network::new(FAMILY, Path::default(), 1);
    let (v4, v6) = (address(Family::V4, 0, 0), address(Family::V6, 1, 80));
    for (local, remote) in [(v4, v6), (v6, address(Family::V4, 1, 80))] {
        for port in [0, 5000] {
            let local = SocketAddr::new(local.ip(), port);
            let now = network.now;
            assert_eq!(
                network.engines[0].connect(now, local, remote, options(), |_| true),
                Err(TcpConnectError::OtherFamily {
                    local: local.ip(),
                    remote
                })
            );
        }
    }
    check_empty(&mut network);
}

/// RFC 6191: with timestamps that have moved on, a port in TIME-WAIT serves again.
#[test]
fn a_port_in_time_wait_serves_again_after_a_second() {
    let mut network = Network::new(FAMILY, Path::default(), 1);
    let listener = network.listen(options());
    let (local, remote) = (address(FAMILY, 0, 5000), address(FAMILY, 1, 80));
    let connect = |network: &mut Network| {
        let now = network.now;
        network.engines[0].connect(now, local, remote, options(), |_| true)
    };
    let first = connect(&mut network).expect("the port is free");
    network.pass(milliseconds(50));
    let now = network.now;
    network.engines[0].close(now, first);
    network.pass(milliseconds(50));
    let server = network.engines[1]
        .accept(network.now, listener)
        .expect("it is open");
    network.engines[1].close(network.now, server);
    network.pass(milliseconds(50));
    assert_eq!(network.engines[0].usage().time_wait, 1);
    assert_eq!(connect(&mut network), Err(TcpConnectError::InUse(local)));
    network.pass(seconds(2));
    let second = connect(&mut network).expect("the old connection can not interfere");
    network.pass(milliseconds(50));
    assert_eq!(
        network.engines[0].state(second),
        Some(TcpState::Established)
    );
    assert_eq!(network.engines[0].usage().time_wait, 0);
    assert!(network.engines[1].accept(network.now, listener).is_some());
}
