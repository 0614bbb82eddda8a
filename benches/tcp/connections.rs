//! Connection rate: the generator on one core, a server on the other, a cable between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::cable::CableEnd;
use crate::generator::{Generator, Progress};
use crate::smoltcp_stack;
use crate::support::{Outcome, option};
use crate::virtroupe_stack;
use crate::window::{CLIENT_CORE, SERVER_CORE};

/// How long connections are made before they are counted.
const WARM_UP: Duration = Duration::from_millis(500);

/// smoltcp's rate, as a program: `--connections` at a time, `--sockets` that listen.
pub fn smoltcp() -> Outcome<()> {
    let sockets = option("--sockets", 64)?;
    measure(move |cable, busy, listening| {
        pin(SERVER_CORE)?;
        smoltcp_stack::serve_connections(cable, sockets, &busy, &listening)
    })
}

/// Virtroupe's rate, as a program: `--connections` at a time, beside `--idle` open ones.
pub fn virtroupe() -> Outcome<()> {
    measure(virtroupe_stack::serve_connections)
}

/// Makes `--count` connections to Virtroupe with client, server and device on one thread, in turns:
/// for a profiler, which sees the same work each time.
pub fn inline() -> Outcome<()> {
    let (count, connections) = (option("--count", 10_000)?, option("--connections", 64)?);
    let (near, far) = CableEnd::pair();
    virtroupe_stack::serve_beside(far, near, connections, count)
}

/// Starts a server on a thread of its own, and counts the connections that it serves. Nobody asks
/// for one before the server says that it listens: until then they would be refused.
fn measure(
    serve: impl FnOnce(CableEnd, Arc<AtomicU64>, SyncSender<()>) -> Outcome<()> + Send + 'static,
) -> Outcome<()> {
    let (connections, idle) = (option("--connections", 32)?, option("--idle", 0)?);
    let seconds = Duration::from_secs_f64(option("--seconds", 2.0)?);
    let (near, far) = CableEnd::pair();
    let progress = Arc::new(Progress::default());
    let busy = Arc::new(AtomicU64::new(0));
    let (server_busy, shared) = (Arc::clone(&busy), Arc::clone(&progress));
    let (listening, is_listening) = sync_channel(1);
    thread::spawn(move || serve(far, server_busy, listening).expect("the server runs"));
    is_listening.recv()?;
    let generator = thread::spawn(move || -> Outcome<()> {
        pin(CLIENT_CORE)?;
        Generator::new(near, shared)?.run(idle, connections)
    });
    while progress.connections.load(Ordering::Relaxed) == 0 && !generator.is_finished() {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(WARM_UP);
    let read = || {
        let counted = progress.connections.load(Ordering::Relaxed);
        let client = progress.busy.load(Ordering::Relaxed);
        (
            counted,
            client,
            busy.load(Ordering::Relaxed),
            Instant::now(),
        )
    };
    let before = read();
    thread::sleep(seconds);
    let after = read();
    progress.stop.store(true, Ordering::Relaxed);
    generator.join().map_err(|_| "the generator panicked")??;
    let elapsed = (after.3 - before.3).as_secs_f64();
    let share = |after: u64, before: u64| (after - before) as f64 / (elapsed * 1e9);
    println!(
        "measured {} {} {}",
        (after.0 - before.0) as f64 / elapsed,
        share(after.1, before.1),
        share(after.2, before.2)
    );
    Ok(())
}

/// Binds the calling thread to a core.
fn pin(core: usize) -> Outcome<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}
