//! A client that measures an echo server.
//!
//! It keeps a window of datagrams in flight on each of its flows, sends the next one when an
//! echo is back, checks every byte of it, and counts what does not come back.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use actix::prelude::*;
use hdrhistogram::Histogram;
use virtroupe::{
    BindError, Buffer, Frame, LocalStack, Payload, UdpDatagram, UdpReceived, UdpSend, UdpSocket,
};

/// Flows, each with a port of its own.
pub const FLOWS: usize = 32;
/// Datagrams in flight on each flow.
pub const WINDOW: usize = 8;
/// Bytes in each datagram.
const LENGTH: usize = 64;
/// An echo that takes longer is given up as lost.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often to look for lost ones.
const TICK: Duration = Duration::from_millis(100);
/// The longest round trip that is told from longer ones, in nanoseconds.
const LONGEST: u64 = 10_000_000_000;

/// Keeps datagrams in flight and measures their echoes.
pub struct Client {
    server: SocketAddr,
    flows: Vec<Flow>,
    report: Report,
    epoch: Instant,
    /// Whether the server has answered: the first datagram goes alone, because only few may
    /// wait until its Ethernet address is known.
    is_answered: bool,
    /// Memory for bursts, empty between them.
    burst: Vec<UdpSend<Frame>>,
}

struct Flow {
    socket: UdpSocket,
    window: [Slot; WINDOW],
}

/// A place in the window. The datagrams that use it have sequence numbers `WINDOW` apart.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    sequence: u64,
    /// When the datagram was sent, in nanoseconds since the epoch, if its echo is not back.
    sent: Option<u64>,
}

/// What was measured since the last report.
#[derive(Debug)]
pub struct Report {
    /// Echoes that came back as they should.
    pub echoed: u64,
    /// Datagrams whose echo did not come in time.
    pub lost: u64,
    /// Echoes that came after they were given up, or twice.
    pub late: u64,
    /// Echoes with other content than was sent.
    pub wrong: u64,
    /// Round-trip times in nanoseconds.
    pub round_trip: Histogram<u64>,
}

impl Report {
    /// A report of nothing yet.
    pub fn new() -> Self {
        Report {
            echoed: 0,
            lost: 0,
            late: 0,
            wrong: 0,
            round_trip: Histogram::new_with_max(LONGEST, 3).expect("the bounds are valid"),
        }
    }

    /// Adds what `other` measured.
    pub fn add(&mut self, other: &Report) {
        self.echoed += other.echoed;
        self.lost += other.lost;
        self.late += other.late;
        self.wrong += other.wrong;
        self.round_trip
            .add(&other.round_trip)
            .expect("the bounds are the same");
    }
}

/// Asks a client for its report, and begins the next.
#[derive(Message)]
#[rtype(result = "Report")]
pub struct TakeReport;

impl Handler<TakeReport> for Client {
    type Result = MessageResult<TakeReport>;

    fn handle(&mut self, _: TakeReport, _: &mut Self::Context) -> Self::Result {
        MessageResult(std::mem::replace(&mut self.report, Report::new()))
    }
}

impl Client {
    /// Starts a client of `server` on the cpu of `local`.
    pub async fn start_on(local: LocalStack, server: SocketAddr) -> Result<Addr<Self>, BindError> {
        let mut flows = Vec::new();
        for _ in 0..FLOWS {
            let socket = local.bind_udp((Ipv4Addr::UNSPECIFIED, 0).into()).await?;
            let mut window = [Slot::default(); WINDOW];
            for (slot, sequence) in window.iter_mut().zip(0..) {
                slot.sequence = sequence;
            }
            flows.push(Flow { socket, window });
        }
        let client = Client {
            server,
            flows,
            report: Report::new(),
            epoch: Instant::now(),
            is_answered: false,
            burst: Vec::new(),
        };
        Ok(client.start())
    }

    fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// Gives up what is overdue, and sends where the window has room.
    fn tick(&mut self) {
        let now = self.now();
        let (flows, window) = match self.is_answered {
            true => (FLOWS, WINDOW),
            false => (1, 1),
        };
        for flow in self.flows.iter_mut().take(flows) {
            for slot in flow.window.iter_mut().take(window) {
                self.report.lost += u64::from(slot.give_up(now));
                if slot.sent.is_none()
                    && let Some(mut frame) = flow.socket.frame()
                    && frame.extend_from_slice(&slot.next(now))
                {
                    let payload = Payload::Buffer(frame);
                    self.burst.push(UdpSend::new(self.server, payload));
                }
            }
            flow.send(&mut self.burst);
        }
    }
}

impl Slot {
    /// Whether the datagram is overdue; it is then forgotten.
    fn give_up(&mut self, now: u64) -> bool {
        let limit = PATIENCE.as_nanos() as u64;
        let is_overdue = self.sent.is_some_and(|sent| now - sent > limit);
        if is_overdue {
            self.sent = None;
        }
        is_overdue
    }

    /// The next datagram of this place.
    fn next(&mut self, now: u64) -> [u8; LENGTH] {
        self.sequence += WINDOW as u64;
        self.sent = Some(now);
        content(self.sequence, now)
    }
}

impl Flow {
    /// Sends `burst`. The places of what is refused are free again, until the next tick.
    fn send(&mut self, burst: &mut Vec<UdpSend<Frame>>) {
        self.socket.send(burst);
        for refused in burst.drain(..) {
            if let Payload::Buffer(frame) = refused.payload
                && let Some(slot) = slot_of(&mut self.window, frame.head())
            {
                slot.sent = None;
            }
        }
    }

    /// Takes an echo and makes the next datagram of its memory.
    fn turn(
        &mut self,
        mut echo: UdpDatagram<Frame>,
        now: u64,
        report: &mut Report,
    ) -> Option<UdpSend<Frame>> {
        let bytes = echo.payload.head_mut();
        let Some(slot) = slot_of(&mut self.window, bytes) else {
            report.wrong += 1;
            return None;
        };
        let Some(sent) = slot
            .sent
            .filter(|_| sequence_of(bytes) == Some(slot.sequence))
        else {
            report.late += 1;
            return None;
        };
        if bytes != content(slot.sequence, sent) {
            report.wrong += 1;
            return None; // it stays missing, and is given up later
        }
        report.echoed += 1;
        report.round_trip.saturating_record(now - sent);
        bytes.copy_from_slice(&slot.next(now));
        Some(UdpSend::reply(echo))
    }
}

/// A datagram: its sequence number, the time, and bytes that depend on both.
fn content(sequence: u64, sent: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    for (at, word) in bytes.chunks_exact_mut(8).enumerate() {
        let value = match at {
            0 => sequence,
            1 => sent,
            _ => (sequence ^ sent.rotate_left(at as u32)).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        };
        word.copy_from_slice(&value.to_be_bytes());
    }
    bytes
}

fn sequence_of(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().copied().map(u64::from_be_bytes)
}

fn slot_of<'a>(window: &'a mut [Slot; WINDOW], bytes: &[u8]) -> Option<&'a mut Slot> {
    window.get_mut((sequence_of(bytes)? % WINDOW as u64) as usize)
}

impl Actor for Client {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Each burst brings a message for every flow.
        ctx.set_mailbox_capacity(2 * FLOWS);
        for flow in &self.flows {
            flow.socket.deliver_to(ctx.address());
        }
        self.tick();
        ctx.run_interval(TICK, |client, _| client.tick());
    }
}

impl Handler<UdpReceived> for Client {
    type Result = ();

    fn handle(&mut self, mut received: UdpReceived, _: &mut Self::Context) {
        let now = self.now();
        let mut flows = self.flows.iter_mut();
        let Some(flow) = flows.find(|flow| flow.socket.id() == received.socket) else {
            return;
        };
        for echo in received.datagrams.drain(..) {
            self.burst.extend(flow.turn(echo, now, &mut self.report));
        }
        flow.send(&mut self.burst);
        if !self.is_answered {
            self.is_answered = true;
            self.tick();
        }
    }
}
