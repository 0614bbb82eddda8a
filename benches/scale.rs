//! The TCP engine with many connections: what each takes, and whether idle ones cost the others.
//!
//! ```sh
//! cargo bench --bench scale
//! cargo bench --bench scale -- --connections 100000 --rounds 10 --seconds 0.5
//! ```
//!
//! One engine, driven through its sans-IO surface; its peers are made up by the benchmark, and
//! their packets have a length but no bytes, so that only the engine's own memory and time count.
//!
//! - *Memory*: bytes on the heap for a connection that is established and idle, that is half-open,
//!   and in TIME-WAIT, by a counting allocator.
//! - *Cost of others* (`ratio scale`): packets per second of 1000 active connections with nothing
//!   else open, over those among the idle ones: requests that are read and answered, in bursts of
//!   64, in an order without pattern. Rounds alternate.
//! - *Connection rate*: connect, one request with its reply, close; two engines in one thread, so
//!   the rate is that of both ends together.
//!
//! Options: `--connections N` (100 000), `--rounds N` (5), `--seconds S` per measurement (0.5).

#[path = "scale/peers.rs"]
mod peers;
mod support;

use std::process::ExitCode;
use std::time::{Duration, Instant as Clock};

use peers::{Engine, Peers, connections_per_second};
use support::stats::Summary;
use support::{Outcome, option};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Connections that are active while the cost of a packet is measured.
const ACTIVE: usize = 1000;

fn main() -> ExitCode {
    support::run(|| {
        let connections = option("--connections", 100_000)?;
        let rounds = option("--rounds", 5)?;
        let seconds = Duration::from_secs_f64(option("--seconds", 0.5)?);
        report_memory(connections)?;
        report_cost(connections, rounds, seconds)?;
        let rate = (0..rounds)
            .map(|round| connections_per_second(round as u64, seconds))
            .collect::<Outcome<Vec<f64>>>()?;
        let rate = Summary::of(rate).ok_or("no round was measured")?;
        println!("connections with one request and its reply, both ends: {rate:.0} a second");
        Ok(())
    })
}

/// Bytes on the heap for each of `count` connections of one kind, which `make` adds to an engine.
fn bytes_of_each(
    count: usize,
    make: impl FnOnce(&mut Engine, &mut Peers) -> Outcome<()>,
) -> Outcome<f64> {
    let peers = Peers::new(count);
    let mut engine = peers::engine(count);
    let mut listened = peers.listen(&mut engine)?;
    let before = dhat::HeapStats::get().curr_bytes;
    make(&mut engine, &mut listened)?;
    let held = dhat::HeapStats::get().curr_bytes.saturating_sub(before);
    Ok(held as f64 / count as f64)
}

fn report_memory(connections: usize) -> Outcome<()> {
    let profiler = dhat::Profiler::builder().testing().build();
    let idle = bytes_of_each(connections, |engine, peers| {
        peers.open_all(engine)?;
        peers.exchange_once(engine);
        peers.rest(engine);
        Ok(())
    })?;
    let half_open = bytes_of_each(connections, |engine, peers| {
        peers.ask_all(engine);
        Ok(())
    })?;
    let time_wait = bytes_of_each(connections, |engine, peers| {
        peers.open_all(engine)?;
        peers.close_all(engine)
    })?;
    drop(profiler);
    println!("bytes for each of {connections} connections, with its share of all tables:");
    println!("  established and idle {idle:.0}");
    println!("  half-open            {half_open:.0}");
    println!("  TIME-WAIT            {time_wait:.0}");
    Ok(())
}

fn report_cost(connections: usize, rounds: usize, seconds: Duration) -> Outcome<()> {
    let mut alone = Set::new(ACTIVE)?;
    let mut among = Set::new(connections)?;
    let mut pairs = Vec::new();
    for round in 0..rounds {
        let pair = match round % 2 {
            0 => {
                let first = alone.measure(seconds);
                (first, among.measure(seconds))
            }
            _ => {
                let first = among.measure(seconds);
                (alone.measure(seconds), first)
            }
        };
        pairs.push(pair);
    }
    let cost = |pick: fn(&(f64, f64)) -> f64| {
        Summary::of(pairs.iter().map(pick)).ok_or("no round was measured")
    };
    let (alone, among) = (cost(|pair| pair.0)?, cost(|pair| pair.1)?);
    println!("nanoseconds for a request and its reply, median [min, max]:");
    println!("  {ACTIVE} connections and no other   {alone:.0}");
    println!("  {ACTIVE} among {connections:<20} {among:.0}");
    let ratio = Summary::of_ratios(pairs).ok_or("no round was measured")?;
    println!("ratio scale {:.2}", ratio.median);
    Ok(())
}

/// An engine of which some connections are active.
struct Set {
    engine: Engine,
    peers: Peers,
}

impl Set {
    fn new(connections: usize) -> Outcome<Self> {
        let mut engine = peers::engine(connections);
        let mut peers = Peers::new(connections).listen(&mut engine)?;
        peers.open_all(&mut engine)?;
        peers.choose_active(ACTIVE);
        Ok(Set { engine, peers })
    }

    /// Nanoseconds for a request and its reply.
    fn measure(&mut self, span: Duration) -> f64 {
        // The caches are warm for this set then.
        self.peers.request_all(&mut self.engine);
        let start = Clock::now();
        let mut count = 0;
        while start.elapsed() < span {
            count += self.peers.request_all(&mut self.engine);
        }
        start.elapsed().as_nanos() as f64 / count as f64
    }
}
