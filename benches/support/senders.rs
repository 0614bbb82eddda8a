//! Senders that produce datagrams at a steady rate, and wait when they are refused.

use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

use actix::prelude::*;
use bytes::Bytes;
use hdrhistogram::Histogram;
use virtroupe::{BindError, Frame, LocalStack, Payload, SocketEvent, UdpSend, UdpSocket};

use super::Outcome;
use super::inline::PEER;

/// Datagrams that a sender has room for.
const ROOM: usize = 32;
/// The longest wait that is told apart, in nanoseconds.
const LONGEST_WAIT: u64 = 60_000_000_000;

/// What became of the datagrams of one sender.
#[derive(Debug, Clone, MessageResponse)]
pub struct Tally {
    /// Offered to the stack; what was refused and offered again counts each time.
    pub offered: u64,
    pub accepted: u64,
    /// Notices and timers that made it try again.
    pub wake_ups: u64,
    /// From a refusal until something is accepted, in nanoseconds.
    pub waits: Histogram<u64>,
}

impl Tally {
    fn new() -> Self {
        Tally {
            offered: 0,
            accepted: 0,
            wake_ups: 0,
            waits: Histogram::new_with_max(LONGEST_WAIT, 2).expect("a range"),
        }
    }

    /// All senders together.
    pub fn sum(tallies: &[Tally]) -> Tally {
        let mut sum = Tally::new();
        for tally in tallies {
            sum.offered += tally.offered;
            sum.accepted += tally.accepted;
            sum.wake_ups += tally.wake_ups;
            sum.waits.add(&tally.waits).expect("the same range");
        }
        sum
    }

    /// Jain's index over what was accepted: 1 if all got the same, 1/n if one got all.
    pub fn fairness(tallies: &[Tally]) -> f64 {
        let shares = || tallies.iter().map(|tally| tally.accepted as f64);
        let (sum, squares): (f64, f64) =
            (shares().sum(), shares().map(|share| share * share).sum());
        sum * sum / (squares.max(1.0) * tallies.len() as f64)
    }
}

/// The running senders of one stack.
pub struct Senders(Vec<Addr<Sender>>);

impl Senders {
    /// Starts `count` senders on the cpu of `local`, each of `rate` packets a second. Those that
    /// the stack will not tell try again after `retry`.
    pub async fn start(
        local: &LocalStack,
        count: usize,
        rate: f64,
        retry: Duration,
    ) -> Result<Self, BindError> {
        let mut senders = Vec::new();
        for _ in 0..count {
            let socket = local.bind_udp(([0, 0, 0, 0], 0).into()).await?;
            let now = Instant::now();
            let sender = Sender {
                socket,
                rate,
                retry,
                started: now,
                produced: 0.0,
                buffer: Vec::new(),
                waiting: None,
                retry_at: None,
                tally: Tally::new(),
            };
            senders.push(sender.start());
        }
        Ok(Senders(senders))
    }

    /// Counts from here on.
    pub fn begin(&self) {
        self.0.iter().for_each(|sender| sender.do_send(Begin));
    }

    /// What each did since then.
    pub async fn end(&self) -> Outcome<Vec<Tally>> {
        let mut tallies = Vec::new();
        for sender in &self.0 {
            tallies.push(sender.send(End).await?);
        }
        Ok(tallies)
    }
}

pub struct Sender {
    socket: UdpSocket,
    rate: f64,
    retry: Duration,
    started: Instant,
    /// Since `started`, also what was lost for want of room.
    produced: f64,
    buffer: Vec<UdpSend<Frame>>,
    /// Since when it has been refused.
    waiting: Option<Instant>,
    /// When to try again, if nobody will tell.
    retry_at: Option<Instant>,
    tally: Tally,
}

impl Actor for Sender {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.socket.events_to(ctx.address());
        // A steady producer has a fine clock: it runs at every turn of its arbiter.
        let turns = poll_fn(|cx| {
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        });
        ctx.spawn(Turns(Box::pin(turns)));
    }
}

/// Lets the sender run at every turn of the arbiter.
struct Turns<F>(std::pin::Pin<Box<F>>);

impl<F: Future<Output = ()>> ActorFuture<Sender> for Turns<F> {
    type Output = ();

    fn poll(
        self: std::pin::Pin<&mut Self>,
        sender: &mut Sender,
        _: &mut Context<Sender>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<()> {
        sender.turn(Instant::now());
        self.get_mut().0.as_mut().poll(cx)
    }
}

impl Sender {
    fn turn(&mut self, now: Instant) {
        self.produce(now);
        match self.waiting {
            None if !self.buffer.is_empty() => self.send(now),
            Some(_) if self.retry_at.is_some_and(|at| now >= at) => {
                self.tally.wake_ups += 1;
                self.send(now);
            }
            _ => {}
        }
    }

    /// Fills the buffer with what has become due; the rest of that is lost.
    fn produce(&mut self, now: Instant) {
        let due = (now - self.started).as_secs_f64() * self.rate - self.produced;
        let count = due.floor().max(0.0);
        self.produced += count;
        let room = ROOM - self.buffer.len();
        for _ in 0..room.min(count as usize) {
            let payload = Payload::Bytes(Bytes::from_static(&[0x5a; 22]));
            self.buffer.push(UdpSend::new((PEER, 9).into(), payload));
        }
    }

    fn send(&mut self, now: Instant) {
        let outcome = self.socket.send(&mut self.buffer);
        self.tally.offered += (outcome.accepted + outcome.refused) as u64;
        self.tally.accepted += outcome.accepted as u64;
        self.retry_at = None;
        if outcome.accepted > 0
            && let Some(since) = self.waiting.take()
        {
            let wait = (now - since).as_nanos() as u64;
            self.tally.waits.saturating_record(wait);
        }
        if outcome.refused > 0 {
            self.waiting.get_or_insert(now);
            if !self.socket.notify_when_ready() {
                self.retry_at = Some(now + self.retry);
            }
        }
    }
}

impl Handler<SocketEvent> for Sender {
    type Result = ();

    fn handle(&mut self, event: SocketEvent, _: &mut Self::Context) {
        if event == SocketEvent::TxReady {
            let now = Instant::now();
            self.tally.wake_ups += 1;
            self.produce(now);
            self.send(now);
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Begin;

impl Handler<Begin> for Sender {
    type Result = ();

    fn handle(&mut self, _: Begin, _: &mut Self::Context) {
        self.tally = Tally::new();
    }
}

#[derive(Message)]
#[rtype(result = "Tally")]
struct End;

impl Handler<End> for Sender {
    type Result = Tally;

    fn handle(&mut self, _: End, _: &mut Self::Context) -> Tally {
        self.tally.clone()
    }
}
