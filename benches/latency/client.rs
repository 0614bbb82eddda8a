//! The client: a blocking UDP socket, one datagram at a time.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::unistd::Pid;

use super::{RoundTrips, Settings};
use crate::support::Outcome;

/// Bytes of payload.
const LENGTH: usize = 22;
/// Echoes that are waited for before measuring: addresses are resolved, memory is warm.
const WARM_UP: usize = 1000;
/// An echo that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(1);

/// Enters a network namespace of our own, for the interfaces of the benchmark.
pub fn enter_namespace() -> Outcome<()> {
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|error| format!("cannot enter a network namespace: {error}").into())
}

/// Pins the current thread to a core.
pub fn pin(core: usize) -> Outcome<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Measures the echo at `server`, on a thread of its own.
pub fn measure(server: SocketAddr, settings: &Settings) -> Outcome<RoundTrips> {
    let measured = thread::scope(|scope| {
        let client = scope.spawn(|| {
            pin(settings.client_core)?;
            run(server, settings.time)
        });
        client.join()
    });
    measured.map_err(|_| "the client panicked")?
}

fn run(server: SocketAddr, time: Duration) -> Outcome<RoundTrips> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut round_trips = RoundTrips::new();
    for sequence in 0..WARM_UP {
        round_trip(&socket, sequence as u64, &mut round_trips)?;
    }
    round_trips = RoundTrips::new();
    let end = Instant::now() + time;
    let mut sequence = WARM_UP as u64;
    while Instant::now() < end {
        sequence += 1;
        round_trip(&socket, sequence, &mut round_trips)?;
    }
    match round_trips.times.is_empty() {
        true => Err(format!("nothing came back from {server}").into()),
        false => Ok(round_trips),
    }
}

/// Sends a datagram with a number of its own and waits for its echo.
fn round_trip(socket: &UdpSocket, sequence: u64, round_trips: &mut RoundTrips) -> Outcome<()> {
    let mut datagram = [0; LENGTH];
    datagram[..8].copy_from_slice(&sequence.to_be_bytes());
    let mut echo = [0; LENGTH];
    let sent = Instant::now();
    socket.send(&datagram)?;
    loop {
        match socket.recv(&mut echo) {
            Ok(_) if echo == datagram => break,
            // The echo of one that was given up.
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                round_trips.lost += 1;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
    }
    let time = sent.elapsed().as_nanos() as u64;
    round_trips.times.saturating_record(time);
    Ok(())
}
