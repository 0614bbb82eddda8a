//! Streams over good and bad networks: every byte is verified.

use std::time::Duration;

use virtroupe_wire::Buffer;
use virtroupe_wire::tcp::{ConnectionId, TcpOptions, TcpState, WriteError};

use crate::FAMILY;
use crate::network::{Network, Path};
use crate::support::{FAMILIES, byte, content, milliseconds, options, seconds};

/// One end of a stream that writes so much and reads so much.
struct End {
    engine: usize,
    id: ConnectionId,
    to_write: u64,
    written: u64,
    to_read: u64,
    read: u64,
    is_finished: bool,
    chunk: usize,
}

impl End {
    fn new(engine: usize, id: ConnectionId, to_write: u64, to_read: u64) -> Self {
        End {
            engine,
            id,
            to_write,
            written: 0,
            to_read,
            read: 0,
            is_finished: false,
            chunk: 10_000,
        }
    }

    /// Writes and reads what can be.
    fn work(&mut self, network: &mut Network) {
        let now = network.now;
        let engine = &mut network.engines[self.engine];
        while self.written < self.to_write {
            let length = (self.to_write - self.written).min(self.chunk as u64) as usize;
            let chunk = content(self.engine as u64, self.written, length);
            match engine.write(now, self.id, chunk) {
                Ok(()) => self.written += length as u64,
                Err((WriteError::Full, _)) => break,
                Err((error, _)) => panic!("end {}: {error}", self.engine),
            }
        }
        if self.written == self.to_write && !self.is_finished {
            engine.finish(now, self.id);
            self.is_finished = true;
        }
        while let Some(payload) = engine.read(now, self.id) {
            for read in payload.to_vec() {
                assert_eq!(
                    read,
                    byte(1 - self.engine as u64, self.read),
                    "at {}",
                    self.read
                );
                self.read += 1;
            }
        }
        assert!(self.read <= self.to_read);
    }

    fn is_done(&self, network: &Network) -> bool {
        let state = network.engines[self.engine].state(self.id);
        self.read == self.to_read
            && network.engines[self.engine].is_at_end(self.id)
            && matches!(state, Some(TcpState::TimeWait | TcpState::Closed))
    }
}

/// Transfers so many bytes from engine 0 and from engine 1. Returns the time that it took until
/// both have read everything.
pub fn transfer(network: &mut Network, options: TcpOptions, bytes: [u64; 2]) -> Duration {
    let (client, server) = network.open(options);
    let start = network.now;
    let mut ends = [
        End::new(0, client, bytes[0], bytes[1]),
        End::new(1, server, bytes[1], bytes[0]),
    ];
    let mut took = None;
    loop {
        for end in &mut ends {
            end.work(network);
        }
        let is_read = ends.iter().all(|end| end.read == end.to_read);
        if is_read && took.is_none() {
            took = Some(network.now.since(start));
        }
        if ends.iter().all(|end| end.is_done(network)) {
            break;
        }
        if !network.step() || network.now.since(start) > seconds(3600) {
            let stats = ends
                .each_ref()
                .map(|end| network.engines[end.engine].stats(end.id));
            let read = ends.each_ref().map(|end| end.read);
            panic!("the stream hangs after {read:?}: {stats:#?}");
        }
    }
    for end in ends {
        let engine = &network.engines[end.engine];
        assert_eq!(
            engine.error(end.id),
            None,
            "{:?} {:?}",
            engine.stats(end.id),
            network.now.since(start)
        );
        network.engines[end.engine].close(network.now, end.id);
    }
    took.expect("everything was read")
}

/// After everything has ended, the engines hold nothing.
pub fn check_empty(network: &mut Network) {
    network.pass(seconds(300));
    for engine in &network.engines {
        let usage = engine.usage();
        assert_eq!(
            (usage.connections, usage.half_open, usage.time_wait),
            (0, 0, 0)
        );
        assert_eq!(usage.receive_memory, 0);
        assert_eq!(engine.next_deadline(), None);
    }
}

#[test]
fn a_stream_arrives_whole_in_both_directions() {
    for family in FAMILIES {
        let mut network = Network::new(family, Path::default(), 1);
        transfer(&mut network, options(), [1_000_000, 300_000]);
        assert_eq!(network.engines[0].counters().retransmits, 0);
        assert_eq!(network.engines[1].counters().retransmits, 0);
        check_empty(&mut network);
    }
}

#[test]
fn the_connection_ends_although_nothing_was_sent() {
    let mut network = Network::new(FAMILY, Path::default(), 1);
    let took = transfer(&mut network, options(), [0, 0]);
    assert!(took < milliseconds(100));
    check_empty(&mut network);
}

#[test]
fn a_lossy_path_delays_but_changes_nothing() {
    for seed in 0..10 {
        let path = Path {
            loss: 0.05,
            duplication: 0.02,
            corruption: 0.02,
            jitter: milliseconds(20),
            ..Path::default()
        };
        let mut network = Network::new(FAMILY, path, seed);
        transfer(&mut network, options(), [200_000, 200_000]);
        check_empty(&mut network);
    }
}

/// Bytes per second over a path that loses data at random, and what Mathis et al. expect of Reno.
fn goodput_at_one_percent(seed: u64) -> (f64, f64) {
    let path = Path {
        delay: milliseconds(25),
        ..Path::default()
    };
    let mut network = Network::new(FAMILY, path, seed);
    network.paths[0].loss = 0.01;
    let bytes = 8_000_000;
    let took = transfer(&mut network, options(), [bytes, 0]);
    let expected = 1.22 * 1448.0 / (0.05 * 0.01_f64.sqrt());
    (bytes as f64 / took.as_secs_f64(), expected)
}

#[test]
fn one_percent_of_loss_leaves_what_reno_would_have() {
    let runs: Vec<(f64, f64)> = (0..20).map(goodput_at_one_percent).collect();
    let mean = runs.iter().map(|(goodput, _)| goodput).sum::<f64>() / runs.len() as f64;
    let ratio = mean / runs[0].1;
    println!("{:.3} of 1.22 MSS / (RTT sqrt(p)), seeds 0 to 19", ratio);
    assert!(ratio >= 0.9, "{ratio:.3}: {runs:.0?}");
}

/// The table of goodput over bad paths:
/// `SEEDS=3 cargo test -p virtroupe-wire --test tcp grid -- --nocapture`.
#[test]
fn grid_of_bad_paths() {
    let seeds: u32 = std::env::var("SEEDS").map_or(1, |seeds| seeds.parse().expect("a number"));
    println!("Mbit/s of 2 MB each way at once over 1 Gbit/s, mean of {seeds} seeds\n");
    println!("| delay ms | loss % | as it is | in bursts | reordered | damaged | all of it |");
    println!("|---|---|---|---|---|---|---|");
    for delay in [0, 1, 10, 50, 150, 300] {
        for loss in [0.0, 0.001, 0.01, 0.05] {
            print!("| {delay} | {} |", loss * 100.0);
            for (is_bursty, jitter, damage) in [
                (false, 0, 0.0),
                (true, 0, 0.0),
                (false, 5, 0.0),
                (false, 0, 0.01),
                (true, 5, 0.01),
            ] {
                let path = Path {
                    delay: milliseconds(delay),
                    jitter: milliseconds(jitter),
                    loss,
                    is_bursty,
                    duplication: damage,
                    corruption: damage,
                    rate: 125_000_000,
                    ..Path::default()
                };
                print!(" {:.2} |", goodput_both_ways(path, seeds));
            }
            println!();
        }
    }
}

/// Mbit/s of 2 MB each way at once, mean over seeds.
fn goodput_both_ways(path: Path, seeds: u32) -> f64 {
    let run = |seed: u32| {
        let mut network = Network::new(FAMILY, path, seed.into());
        let took = transfer(&mut network, options(), [2_000_000, 2_000_000]);
        check_empty(&mut network);
        2.0 * 8.0 * 2.0 / took.as_secs_f64()
    };
    (0..seeds).map(run).sum::<f64>() / f64::from(seeds)
}
