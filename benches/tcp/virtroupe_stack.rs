//! Virtroupe as a server, on an embedded device that is stepped by the cpu of the stack: its work
//! is on the server's core, as it is for smoltcp, which has no other.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::task::Poll;
use std::time::Duration;

use actix::System;
use tokio::io::AsyncWriteExt;
use virtroupe::driver::ReceiveOffloadMode;
use virtroupe::driver::embedded::{
    Backend, EmbeddedConfig, EmbeddedTransport, Tap, TapConfig, monotonic_now,
};
use virtroupe::wire::Buffer;
use virtroupe::{
    Config, DeviceUrl, ListenOptions, LocalStack, MacAddr, Stack, Supervisor, TcpListener,
    TcpOptions, TcpStream,
};

use crate::bulk::{self, CONTENT, Direction};
use crate::cable::CableEnd;
use crate::generator::{self, Generator, Progress, REQUEST};
use crate::http;
use crate::link::{SERVER, SERVER_MAC, TAP};
use crate::support::Outcome;
use crate::support::inline::step_on_first_cpu;
use crate::window::SERVER_CORE;

/// Descriptors of each ring, and packet slots: for a window of 4 MiB in each direction.
const QUEUE: u16 = 512;
const FRAMES: u32 = 8192;

/// Tasks that wait for connections, at least: more than arrive in one turn.
const LEAST_WAITING: usize = 128;

/// Serves bulk transfers on a TAP interface, until it is killed.
pub fn serve_bulk(direction: Direction) -> Outcome<()> {
    serve_on_tap(bulk::PORT, move |stream| async move {
        match direction {
            Direction::Send => send(stream).await,
            Direction::Receive => receive(stream).await,
        }
    })
}

/// Serves HTTP on a TAP interface, until it is killed.
pub fn serve_http() -> Outcome<()> {
    serve_on_tap(http::PORT, |stream| async {
        http::serve(stream).await;
        Ok(())
    })
}

/// Answers requests of 64 bytes on a cable, for ever. Counts in `busy` the nanoseconds of turns that
/// found something to do, and says when it is `listening`.
pub fn serve_connections(
    cable: CableEnd,
    busy: Arc<AtomicU64>,
    listening: SyncSender<()>,
) -> Outcome<()> {
    System::new().block_on(async {
        let stack = start(cable, ReceiveOffloadMode::default()).await?;
        serve(&stack, generator::PORT, answer).await?;
        listening.send(())?;
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let stats = stack.stats().await?;
            let nanoseconds = stats.cpus.iter().map(|cpu| cpu.poll.busy_nanos).sum();
            busy.store(nanoseconds, Ordering::Relaxed);
        }
    })
}

/// Answers requests of 64 bytes on a cable whose other end a generator has, on the same thread, with
/// so many `connections` under way. Returns after `count` of them.
pub fn serve_beside(
    cable: CableEnd,
    client: CableEnd,
    connections: usize,
    count: u64,
) -> Outcome<()> {
    System::new().block_on(async {
        let stack = start(cable, ReceiveOffloadMode::default()).await?;
        serve(&stack, generator::PORT, answer).await?;
        let progress = Arc::new(Progress::default());
        let shared = Arc::clone(&progress);
        let generate = move |_| async move {
            let mut generator = Generator::new(client, Arc::clone(&shared))?;
            generator.begin(connections)?;
            let generating = poll_fn(move |cx| -> Poll<Outcome<()>> {
                if shared.connections.load(Ordering::Relaxed) >= count {
                    return Poll::Ready(generator.check());
                }
                generator.turn(monotonic_now())?;
                cx.waker().wake_by_ref();
                Poll::Pending
            });
            generating.await
        };
        stack.run_on(0, generate).await?
    })
}

fn serve_on_tap<F: Future<Output = io::Result<()>> + 'static>(
    port: u16,
    work: impl Fn(TcpStream) -> F + Send + 'static,
) -> Outcome<()> {
    System::new().block_on(async {
        let tap = Tap::new(TapConfig {
            name: TAP.into(),
            ..TapConfig::default()
        });
        let stack = start(tap, ReceiveOffloadMode::All).await?;
        serve(&stack, port, work).await?;
        stack.ended().await;
        Ok(())
    })
}

async fn start(
    backend: impl Backend + 'static,
    receive_offloads: ReceiveOffloadMode,
) -> Outcome<Stack> {
    let device = EmbeddedConfig {
        mac: MacAddr(SERVER_MAC),
        ..EmbeddedConfig::default()
    };
    let (transport, _, stepper) = EmbeddedTransport::inline(device, backend)?;
    let mut config = config(SERVER, SERVER_CORE)?;
    config.options.receive_offloads = receive_offloads;
    let stack = Supervisor::start_on(Box::new(transport), config).await?;
    step_on_first_cpu(&stack, stepper, None).await?;
    Ok(stack)
}

/// A stack with one cpu, which never sleeps, on a core of its own.
pub fn config([a, b, c, d]: [u8; 4], core: usize) -> Outcome<Config> {
    let mut config = Config::new(DeviceUrl::Own("inline".into()))
        .address(format!("{a}.{b}.{c}.{d}/24").parse()?)
        .cores([core]);
    config.poll.spin_us = Some(u64::MAX);
    config.options.receive_offloads = ReceiveOffloadMode::All;
    config.options.queue_size = QUEUE;
    config.options.pool_frames = FRAMES;
    Ok(config)
}

/// Does `work` with each connection to a port, in a task of its own.
pub async fn serve<F: Future<Output = io::Result<()>> + 'static>(
    stack: &Stack,
    port: u16,
    work: impl Fn(TcpStream) -> F + Send + 'static,
) -> Outcome<()> {
    let listen = move |local: LocalStack| async move {
        let any = ([0, 0, 0, 0], port).into();
        let options = ListenOptions {
            connection: TcpOptions {
                nodelay: true,
                ..TcpOptions::default()
            },
            ..ListenOptions::default()
        };
        let server = Rc::new(Server {
            listener: local.listen_tcp(any, options).await?,
            work,
            waiting: Cell::new(0),
        });
        for _ in 0..LEAST_WAITING {
            actix::spawn(worker(Rc::clone(&server)));
        }
        Outcome::Ok(())
    };
    stack.run_on(0, listen).await?
}

/// What the tasks share that serve a port.
struct Server<W> {
    listener: TcpListener,
    work: W,
    /// Tasks that wait for a connection.
    waiting: Cell<usize>,
}

/// Serves one connection after the other. When it begins and few of its like wait it makes one more: so
/// there are hardly more than there were ever connections at once, a connection costs no new task, and
/// a burst of them need not wait until there are enough.
async fn worker<F, W>(server: Rc<Server<W>>)
where
    F: Future<Output = io::Result<()>> + 'static,
    W: Fn(TcpStream) -> F + 'static,
{
    let Server {
        listener,
        work,
        waiting,
    } = &*server;
    loop {
        waiting.set(waiting.get() + 1);
        let accepted = listener.accept().await;
        waiting.set(waiting.get() - 1);
        let Ok(stream) = accepted else {
            return;
        };
        if waiting.get() < LEAST_WAITING {
            actix::spawn(worker(Rc::clone(&server)));
        }
        // A client that fails ends its connection, and nobody else's.
        let _ = work(stream).await;
    }
}

/// Writes bytes that are copied into packet memory.
pub async fn send(mut stream: TcpStream) -> io::Result<()> {
    loop {
        stream.write_all(&CONTENT).await?;
    }
}

/// Takes what comes where it lies, and does not read it.
pub async fn receive(mut stream: TcpStream) -> io::Result<()> {
    while stream.receive().await?.is_some() {}
    Ok(())
}

/// Sends a request back where it lies.
async fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut left = REQUEST;
    // The client closes first, so that TIME-WAIT is its own.
    while let Some(mut received) = stream.receive().await? {
        for frame in received.payload.drain(..) {
            left = left
                .checked_sub(frame.len())
                .ok_or(io::ErrorKind::InvalidData)?;
            if stream.send(frame).refused.is_some() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
    }
    match left {
        0 => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
