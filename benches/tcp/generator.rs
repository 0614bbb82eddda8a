//! Connections to a server, one after the other, on our own engine: the client of both servers,
//! over a cable, so that neither has a kernel on its other side.
//!
//! Each connection sends a request of 64 bytes, takes a reply of as many, and closes. As the client
//! closes first, TIME-WAIT stays here, where it lasts a millisecond.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use virtroupe::driver::embedded::monotonic_now;
use virtroupe::wire::host::exchange;
use virtroupe::wire::tcp::{
    ConnectionId, Outgoing, Readiness, TcpConfig, TcpEngine, TcpEvent, TcpOptions,
};
use virtroupe::wire::{Buffer, Heap, HeapBuffer, Host, HostConfig, Instant, MacAddr};

use crate::cable::CableEnd;
use crate::link::{CLIENT, CLIENT_MAC, SERVER};
use crate::support::Outcome;

/// The port that is served.
pub const PORT: u16 = 9000;
/// Bytes in a request, and in a reply.
pub const REQUEST: usize = 64;
/// Frames taken in at once.
const BURST: usize = 16;
static CONTENT: [u8; REQUEST] = [0x5a; REQUEST];

/// What a generator has done, read by other threads.
#[derive(Debug, Default)]
pub struct Progress {
    /// Connections that got their reply and were closed by both sides.
    pub connections: AtomicU64,
    /// Nanoseconds in turns that found something to do.
    pub busy: AtomicU64,
    /// Tells the generator to end.
    pub stop: AtomicBool,
}

/// The generator.
pub struct Generator {
    host: Host<HeapBuffer>,
    engine: TcpEngine<HeapBuffer, Bytes>,
    outgoing: Outgoing<Bytes>,
    cable: CableEnd,
    burst: Vec<HeapBuffer>,
    /// Connections that are to stay open, and do nothing.
    idle: HashSet<ConnectionId>,
    /// How many of them are open.
    open: usize,
    progress: Arc<Progress>,
}

impl Generator {
    /// A generator at one end of a cable.
    pub fn new(cable: CableEnd, progress: Arc<Progress>) -> Outcome<Self> {
        let [a, b, c, d] = CLIENT;
        let config = HostConfig {
            mac: MacAddr(CLIENT_MAC),
            addresses: vec![format!("{a}.{b}.{c}.{d}/24").parse()?],
            ..HostConfig::default()
        };
        let mut host = Host::new(config, 1)?;
        host.enable_tcp();
        let tcp = TcpConfig {
            time_wait_time: Duration::from_millis(1),
            ephemeral_ports: (1024, u16::MAX),
            ..TcpConfig::default()
        };
        Ok(Generator {
            host,
            engine: TcpEngine::new(tcp, 1),
            outgoing: Outgoing::new(),
            cable,
            burst: Vec::new(),
            idle: HashSet::new(),
            open: 0,
            progress,
        })
    }

    /// Opens `idle` connections, and then keeps `connections` going besides, until it is told to
    /// stop.
    ///
    /// # Errors
    /// Why a connection failed; or that timers ran out, which a cable gives no cause for.
    pub fn run(mut self, idle: usize, connections: usize) -> Outcome<()> {
        while self.open < idle {
            let now = monotonic_now();
            if self.idle.len() < idle && self.idle.len() - self.open < BURST {
                let id = self.connect(now)?;
                self.idle.insert(id);
            }
            self.turn(now)?;
        }
        // Neighbours ask for each other's addresses first, and what waits for that is bounded.
        self.begin(1)?;
        while self.progress.connections.load(Ordering::Relaxed) == 0 {
            self.turn(monotonic_now())?;
        }
        self.begin(connections.saturating_sub(1))?;
        while !self.progress.stop.load(Ordering::Relaxed) {
            let now = monotonic_now();
            if self.turn(now)? > 0 {
                let busy = monotonic_now().since(now).as_nanos() as u64;
                self.progress.busy.fetch_add(busy, Ordering::Relaxed);
            }
        }
        self.check()
    }

    /// Has so many connections under way from now on.
    pub fn begin(&mut self, connections: usize) -> Outcome<()> {
        (0..connections).try_for_each(|_| self.connect(monotonic_now()).map(drop))
    }

    /// Whether no segment was sent again.
    pub fn check(&self) -> Outcome<()> {
        match self.engine.counters().timeouts {
            0 => Ok(()),
            times => {
                let why = "segments were lost, or a core stood still for as long";
                Err(format!("{times} timeouts: {why}; the rate is that of waiting").into())
            }
        }
    }

    fn connect(&mut self, now: Instant) -> Outcome<ConnectionId> {
        let options = TcpOptions {
            nodelay: true,
            ..TcpOptions::default()
        };
        let (from, to) = ((CLIENT, 0).into(), (SERVER, PORT).into());
        Ok(self.engine.connect(now, from, to, options, |_| true)?)
    }

    /// One turn; returns how many frames and events there were.
    pub fn turn(&mut self, now: Instant) -> Outcome<usize> {
        while self.burst.len() < BURST
            && let Some(frame) = self.cable.receive()
        {
            self.burst.push(HeapBuffer::new(&frame));
            self.cable.done(frame);
        }
        let mut work = self.burst.len();
        self.host.receive(now, &mut self.burst, &mut Heap);
        let due = |deadline: Option<Instant>| deadline.is_some_and(|at| at <= now);
        if due(self.host.next_deadline()) {
            self.host.handle_timeout(now, &mut Heap);
        }
        if due(self.engine.next_deadline()) {
            self.engine.handle_timeout(now);
        }
        // Nothing leaves before what has arrived was answered: so a request carries the
        // acknowledgment of the SYN-ACK.
        self.exchange(now, 0);
        while let Some(event) = self.engine.poll_event() {
            work += 1;
            if let TcpEvent::Connection(id, what) = event {
                self.advance(now, id, what)?;
            }
        }
        self.exchange(now, BURST * 8);
        work += self.host.transmit().len();
        for frame in self.host.transmit().drain(..) {
            let mut buffer = self.cable.buffer();
            frame.for_each_segment(|segment| buffer.extend_from_slice(segment));
            self.cable.send(buffer);
        }
        self.cable.flush();
        Ok(work)
    }

    fn exchange(&mut self, now: Instant, room: usize) {
        self.host.set_transmit_room(room);
        exchange(
            now,
            &mut self.host,
            &mut self.engine,
            &mut self.outgoing,
            &mut Heap,
        );
    }

    /// Does what is next on a connection to which something happened.
    fn advance(&mut self, now: Instant, id: ConnectionId, what: Readiness) -> Outcome<()> {
        if self.idle.contains(&id) {
            self.open += usize::from(what.connected);
            return match what.closed {
                true => {
                    Err(format!("an idle connection ended: {:?}", self.engine.error(id)).into())
                }
                false => Ok(()),
            };
        }
        if what.connected {
            let request = Bytes::from_static(&CONTENT);
            // A connection that has just failed is found below.
            let _ = self.engine.write(now, id, request);
        }
        let mut received = 0;
        while let Some(payload) = self.engine.read(now, id) {
            received += payload.len();
        }
        // A reply is one segment.
        if received == REQUEST {
            self.engine.finish(now, id);
        }
        let is_served = self.engine.is_at_end(id) && received == 0;
        if is_served || what.closed {
            if let Some(error) = self.engine.error(id) {
                return Err(format!("a connection failed: {error}").into());
            }
            self.progress.connections.fetch_add(1, Ordering::Relaxed);
            self.engine.close(now, id);
            self.connect(now)?;
        }
        Ok(())
    }
}
