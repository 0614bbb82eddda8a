//! The queue actor: one queue pair, its poll loop, and the cpu's shard.
//!
//! Applications on the same arbiter use [`LocalStack`]; those on other arbiters send the
//! messages of this module to the queue actor's address. Either way the shard does the work.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use actix::fut::wrap_future;
use actix::prelude::*;
use virtroupe_driver::{Frame, QueuePair};
use virtroupe_wire::filter::Filter;
use virtroupe_wire::udp::{UdpSend, UdpSocketId};

use crate::clock::Clock;
use crate::local::LocalStack;
use crate::messages::{
    BindError, CloseReason, PacketsReceived, SendOutcome, SocketEvent, SubscriptionId, UdpReceived,
};
use crate::poll::{Control, PollCounters, PollLoop, PollSettings, QueueEnd};
use crate::shard::{Capture, ShardCell, ShardCounters};

/// Messages that the mailbox of a queue actor holds. While the loop is busy, messages from
/// other threads are seen only every 31 turns, so the default of 16 would refuse.
const MAILBOX: usize = 160;

/// Polls one queue pair and serves the applications of its cpu.
pub struct QueueActor {
    shard: ShardCell,
    pair: Rc<RefCell<QueuePair>>,
    control: Rc<Control>,
    clock: Clock,
    settings: PollSettings,
    /// Whether there is a poll loop, or was one.
    started: bool,
    ended: Option<QueueEnd>,
    stop_reason: Option<CloseReason>,
    /// Told when the loop ends by itself.
    watcher: Recipient<QueueEnded>,
    /// Answer when the loop has ended.
    stopping: Vec<tokio::sync::oneshot::Sender<()>>,
}

/// The poll loop of a cpu has ended.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct QueueEnded {
    /// Whose.
    pub cpu: u16,
    /// And why.
    pub end: QueueEnd,
}

impl QueueActor {
    pub(crate) fn new(
        shard: ShardCell,
        pair: Rc<RefCell<QueuePair>>,
        clock: Clock,
        settings: PollSettings,
        watcher: Recipient<QueueEnded>,
    ) -> Self {
        QueueActor {
            shard,
            pair,
            control: Control::new(),
            clock,
            settings,
            started: false,
            ended: None,
            stop_reason: None,
            watcher,
            stopping: Vec::new(),
        }
    }

    /// The stack of this actor's cpu.
    pub fn local(&self) -> LocalStack {
        LocalStack::new(self.shard.clone())
    }

    fn loop_ended(&mut self, end: QueueEnd) {
        let cpu = self.shard.borrow().cpu();
        let reason = match &end {
            QueueEnd::Stopped => self.stop_reason.take().unwrap_or(CloseReason::Shutdown),
            QueueEnd::Broken(violation) => {
                tracing::error!(cpu, %violation, "the device broke the rules of its ring");
                CloseReason::DeviceLost(violation.to_string())
            }
            QueueEnd::Panicked => {
                tracing::error!(cpu, "an engine panicked; the queue is stopped");
                CloseReason::DeviceLost("an engine panicked".into())
            }
        };
        // After a panic nothing is sure: a second one must not keep the others from hearing of it.
        let closed = catch_unwind(AssertUnwindSafe(|| self.shard.borrow().close_all(&reason)));
        if closed.is_err() {
            tracing::error!(cpu, "closing the sockets panicked, too; some were not told");
        }
        for waiting in self.stopping.drain(..) {
            let _ = waiting.send(());
        }
        if end != QueueEnd::Stopped {
            self.watcher.do_send(QueueEnded {
                cpu,
                end: end.clone(),
            });
        }
        self.ended = Some(end);
    }
}

impl Actor for QueueActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

/// Starts the poll loop.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), std::io::Error>")]
pub struct StartReceiving;

impl Handler<StartReceiving> for QueueActor {
    type Result = Result<(), std::io::Error>;

    fn handle(&mut self, _: StartReceiving, ctx: &mut Self::Context) -> Self::Result {
        let poll = PollLoop::new(
            self.shard.clone(),
            self.pair.clone(),
            self.control.clone(),
            self.clock,
            self.settings.clone(),
        )?;
        self.started = true;
        let ended = wrap_future::<_, Self>(poll).map(|end, actor, _| actor.loop_ended(end));
        ctx.spawn(ended);
        Ok(())
    }
}

/// Stops receiving, sends what waits, and ends the poll loop; answers when that is done. The
/// sockets of the cpu are told that they are closed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StopQueue {
    /// How long the device may take to send what waits.
    pub drain: Duration,
    /// What the owners of sockets are told.
    pub reason: CloseReason,
}

impl Handler<StopQueue> for QueueActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, stop: StopQueue, _: &mut Self::Context) -> Self::Result {
        if self.ended.is_some() {
            return Box::pin(async {});
        }
        self.stop_reason = Some(stop.reason);
        if !self.started {
            // Start-up failed before there was a loop to wait for.
            self.loop_ended(QueueEnd::Stopped);
            return Box::pin(async {});
        }
        let (sender, ended) = tokio::sync::oneshot::channel();
        self.stopping.push(sender);
        self.control.stop(self.clock.now() + stop.drain);
        Box::pin(async move {
            let _ = ended.await;
        })
    }
}

/// Takes back all memory that the device held, and stops the actor. To be sent after the device
/// was reset. Answers how many frames were never sent.
#[derive(Debug, Message)]
#[rtype(result = "usize")]
pub struct ReleaseQueue;

impl Handler<ReleaseQueue> for QueueActor {
    type Result = usize;

    fn handle(&mut self, _: ReleaseQueue, ctx: &mut Self::Context) -> usize {
        ctx.stop();
        self.pair.borrow_mut().reclaim_after_reset()
    }
}

/// Asks a cpu for its counters.
#[derive(Debug, Message)]
#[rtype(result = "CpuStats")]
pub struct CollectStats;

/// Everything that one cpu counted, at one moment.
#[derive(Debug, Clone, Default, MessageResponse)]
pub struct CpuStats {
    /// The logical number of the cpu.
    pub cpu: u16,
    /// Frames received from the device.
    pub received_frames: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Received frames that were copied to the heap because the pool was low.
    pub copied_frames: u64,
    /// Frames handed to the device.
    pub sent_frames: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Slots in the pool.
    pub pool_size: usize,
    /// Slots that are free now.
    pub pool_free: usize,
    /// Counters of the shard and of the engines, with drops by reason.
    pub shard: ShardCounters,
    /// Counters of the poll loop.
    pub poll: PollCounters,
}

impl Handler<CollectStats> for QueueActor {
    type Result = CpuStats;

    fn handle(&mut self, _: CollectStats, _: &mut Self::Context) -> CpuStats {
        let mut pair = self.pair.borrow_mut();
        pair.pool().collect();
        let (receive, transmit) = (*pair.receive_counters(), *pair.transmit_counters());
        let (pool_size, pool_free) = pair.pool_level();
        let shard = self.shard.borrow();
        let mut counters = shard.counters();
        counters.drops += &transmit.drops;
        CpuStats {
            cpu: shard.cpu(),
            received_frames: receive.frames,
            received_bytes: receive.bytes,
            copied_frames: receive.copied,
            sent_frames: transmit.frames,
            sent_bytes: transmit.bytes,
            pool_size,
            pool_free,
            shard: counters,
            poll: self.control.counters.get(),
        }
    }
}

/// Runs a piece of code on the cpu of the actor, with its [`LocalStack`]: how application actors
/// get to their arbiter.
#[derive(Message)]
#[rtype(result = "()")]
pub struct RunLocal(pub Box<dyn FnOnce(LocalStack) + Send>);

impl Handler<RunLocal> for QueueActor {
    type Result = ();

    fn handle(&mut self, RunLocal(work): RunLocal, _: &mut Self::Context) {
        work(self.local());
    }
}

// ---- the same services by message, for actors on other arbiters ----

/// Binds a UDP socket for an actor on another arbiter. See [`LocalStack::bind_udp`].
///
/// The socket is closed by [`CloseUdp`], or when the next datagram finds that the receiver has
/// stopped.
#[derive(Message)]
#[rtype(result = "Result<(UdpSocketId, SocketAddr), BindError>")]
pub struct BindUdp {
    /// The address to bind.
    pub local: SocketAddr,
    /// Gets the datagrams.
    pub received: Recipient<UdpReceived>,
    /// Gets errors, room notices and the end.
    pub events: Option<Recipient<SocketEvent>>,
}

impl Handler<BindUdp> for QueueActor {
    type Result = Result<(UdpSocketId, SocketAddr), BindError>;

    fn handle(&mut self, bind: BindUdp, _: &mut Self::Context) -> Self::Result {
        let mut shard = self.shard.borrow();
        let id = shard.bind_udp(bind.local)?;
        shard.close_with_receiver(id);
        shard.deliver_udp(id, bind.received);
        if let Some(events) = bind.events {
            shard.events_udp(id, events);
        }
        let bound = shard.host().udp_local(id).unwrap_or(bind.local);
        Ok((id, bound))
    }
}

/// Sends a burst from a socket that [`BindUdp`] opened. Answers the outcome and what was
/// refused.
#[derive(Debug, Message)]
#[rtype(result = "(SendOutcome, Vec<UdpSend<Frame>>)")]
pub struct SendUdp {
    /// The socket.
    pub socket: UdpSocketId,
    /// The datagrams.
    pub burst: Vec<UdpSend<Frame>>,
}

impl Handler<SendUdp> for QueueActor {
    type Result = MessageResult<SendUdp>;

    fn handle(&mut self, mut send: SendUdp, _: &mut Self::Context) -> Self::Result {
        let outcome = self.shard.borrow().send_udp(send.socket, &mut send.burst);
        MessageResult((outcome, send.burst))
    }
}

/// Asks for one [`SocketEvent::TxReady`] for a socket that [`BindUdp`] opened.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct NotifyWhenReady(pub UdpSocketId);

impl Handler<NotifyWhenReady> for QueueActor {
    type Result = ();

    fn handle(&mut self, NotifyWhenReady(id): NotifyWhenReady, _: &mut Self::Context) {
        self.shard
            .borrow()
            .wait_for_room(crate::shard::Waiter::Socket(id));
    }
}

/// Closes a socket that [`BindUdp`] opened.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CloseUdp(pub UdpSocketId);

impl Handler<CloseUdp> for QueueActor {
    type Result = ();

    fn handle(&mut self, CloseUdp(id): CloseUdp, _: &mut Self::Context) {
        self.shard.borrow().close_udp(id);
    }
}

/// Subscribes an actor on another arbiter to frames. See [`LocalStack::subscribe`].
#[derive(Message)]
#[rtype(result = "SubscriptionId")]
pub struct Subscribe {
    /// Which frames.
    pub filter: Filter,
    /// What to do with them.
    pub capture: Capture,
    /// Gets them.
    pub received: Recipient<PacketsReceived>,
}

impl Handler<Subscribe> for QueueActor {
    type Result = MessageResult<Subscribe>;

    fn handle(&mut self, subscribe: Subscribe, _: &mut Self::Context) -> Self::Result {
        let Subscribe {
            filter,
            capture,
            received,
        } = subscribe;
        MessageResult(self.shard.borrow().subscribe(filter, capture, received))
    }
}

/// Ends a subscription that [`Subscribe`] made.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Unsubscribe(pub SubscriptionId);

impl Handler<Unsubscribe> for QueueActor {
    type Result = ();

    fn handle(&mut self, Unsubscribe(id): Unsubscribe, _: &mut Self::Context) {
        self.shard.borrow().unsubscribe(id);
    }
}

/// Sends whole Ethernet frames. Answers the outcome and what was refused.
#[derive(Debug, Message)]
#[rtype(result = "(SendOutcome, Vec<Frame>)")]
pub struct TransmitFrames(pub Vec<Frame>);

impl Handler<TransmitFrames> for QueueActor {
    type Result = MessageResult<TransmitFrames>;

    fn handle(
        &mut self,
        TransmitFrames(mut frames): TransmitFrames,
        _: &mut Self::Context,
    ) -> Self::Result {
        let outcome = self.shard.borrow().transmit_frames(&mut frames);
        MessageResult((outcome, frames))
    }
}

#[cfg(test)]
mod tests;
