//! The actors that run a cpu: [`QueueActor`] and [`ProxyActor`].
//!
//! They differ only in where frames come from and go to, which their `Ports` hide, so they are one
//! actor with two names. Each runs a poll loop; the shard behind it belongs to the cpu, so an
//! application can not tell which of the two serves it.
//!
//! A cpu that owns several queue pairs has a queue actor for each. The first one sends for the
//! cpu and runs its timers; the others only bring what they receive into the same shard.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use actix::dev::{MessageResponse, ToEnvelope};
use actix::fut::wrap_future;
use actix::prelude::*;
use virtroupe_driver::QueuePair;
use virtroupe_wire::DropReason;

use crate::clock::Clock;
use crate::local::LocalStack;
use crate::messages::CloseReason;
use crate::peers::{ChangeBinding, FlowsEnded, FlowsKept, NeighborHeard, Peer};
use crate::poll::{Control, PollLoop, PollSettings, QueueEnd};
use crate::ports::PortsCell;
use crate::shard::ShardCell;
use crate::stats::CpuStats;

/// Messages that the mailbox of a cpu's actor holds. While the loop is busy, messages from
/// other threads are seen only every 31 turns, so the default of 16 would refuse.
const MAILBOX: usize = 160;

/// Which kind of cpu an actor runs.
pub trait Role: Unpin + 'static {
    /// The role, as statistics and messages name it.
    const ROLE: CpuRole;
}

/// How a cpu is tied to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CpuRole {
    /// It owns a queue pair.
    #[default]
    Queue,
    /// It receives and sends through the queue pair of another cpu.
    Proxy,
}

/// The role of a [`QueueActor`].
#[derive(Debug)]
pub enum Queue {}

/// The role of a [`ProxyActor`].
#[derive(Debug)]
pub enum Proxy {}

impl Role for Queue {
    const ROLE: CpuRole = CpuRole::Queue;
}

impl Role for Proxy {
    const ROLE: CpuRole = CpuRole::Proxy;
}

/// Polls one queue pair and serves the applications of its cpu.
pub type QueueActor = CpuActor<Queue>;

/// Serves the applications of a cpu without a queue: frames come from and go through the cpu
/// that owns one.
pub type ProxyActor = CpuActor<Proxy>;

/// The actor behind [`QueueActor`] and [`ProxyActor`].
pub struct CpuActor<R: Role> {
    pub(crate) shard: ShardCell,
    pub(crate) ports: PortsCell,
    /// The pair of a queue actor that is not the first of its cpu.
    further: Option<Rc<RefCell<QueuePair>>>,
    pub(crate) control: Rc<Control>,
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
    role: PhantomData<R>,
}

/// The poll loop of a cpu has ended, or its actor has.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct QueueEnded {
    /// Whose.
    pub cpu: u16,
    /// What the cpu is to the device.
    pub role: CpuRole,
    /// And why.
    pub end: QueueEnd,
    /// What the cpu had counted then, if its actor is gone and can not be asked any more.
    pub last: Option<Box<CpuStats>>,
}

/// What an actor of a cpu is made of.
pub(crate) struct CpuActorParts {
    pub(crate) shard: ShardCell,
    pub(crate) ports: PortsCell,
    pub(crate) further: Option<Rc<RefCell<QueuePair>>>,
    pub(crate) clock: Clock,
    pub(crate) settings: PollSettings,
    pub(crate) watcher: Recipient<QueueEnded>,
}

impl<R: Role> CpuActor<R> {
    pub(crate) fn new(parts: CpuActorParts) -> Self {
        CpuActor {
            shard: parts.shard,
            ports: parts.ports,
            further: parts.further,
            control: Control::new(),
            clock: parts.clock,
            settings: parts.settings,
            started: false,
            ended: None,
            stop_reason: None,
            watcher: parts.watcher,
            stopping: Vec::new(),
            role: PhantomData,
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
                tracing::error!(cpu, "an engine panicked; the cpu is stopped");
                self.lost("an engine panicked")
            }
            QueueEnd::Killed => {
                tracing::error!(cpu, "the actor of the cpu was dropped; the cpu is stopped");
                self.lost("the actor of the cpu was dropped")
            }
        };
        self.close(&reason);
        for waiting in self.stopping.drain(..) {
            let _ = waiting.send(());
        }
        if end != QueueEnd::Stopped {
            self.watcher.do_send(QueueEnded {
                cpu,
                role: R::ROLE,
                end: end.clone(),
                last: (end == QueueEnd::Killed)
                    .then(|| self.last_stats())
                    .flatten(),
            });
        }
        self.ended = Some(end);
    }

    /// What is lost with this cpu: for all others the device, if it has a queue of it.
    fn lost(&self, how: &str) -> CloseReason {
        match R::ROLE {
            CpuRole::Queue => CloseReason::DeviceLost(how.into()),
            CpuRole::Proxy => CloseReason::CpuLost(how.into()),
        }
    }

    /// What the cpu has counted; `None` if it ended in the middle of something.
    fn last_stats(&self) -> Option<Box<CpuStats>> {
        let mut ports = self.ports.try_borrow_mut().ok()?;
        let mut stats = None;
        self.shard.try_with(|shard| {
            let poll = self.control.counters.get();
            stats = Some(CpuStats::collect(R::ROLE, shard, &mut ports, poll));
        });
        stats.map(Box::new)
    }

    /// Tells the sockets, and lets go of the lanes.
    fn close(&self, reason: &CloseReason) {
        let drop_reason = DropReason::from(reason);
        // After a panic nothing is sure: a second one must not keep the others from hearing of it.
        let closed = catch_unwind(AssertUnwindSafe(|| {
            self.shard.try_with(|shard| shard.close_all(reason));
            let ports = self.ports.try_borrow_mut();
            let unsent = ports.map_or(0, |mut ports| ports.close(drop_reason));
            self.shard
                .try_with(|shard| shard.lose_unsent(drop_reason, unsent));
        }));
        if closed.is_err() {
            tracing::error!("closing the sockets of a cpu panicked, too; some were not told");
        }
    }
}

impl<R: Role> Actor for CpuActor<R> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

/// An actor that is dropped without having been stopped was killed: by a panic in one of its
/// handlers, or with its arbiter.
impl<R: Role> Drop for CpuActor<R> {
    fn drop(&mut self) {
        if self.started && self.ended.is_none() {
            self.loop_ended(QueueEnd::Killed);
        }
    }
}

/// Starts the poll loop.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), std::io::Error>")]
pub struct StartReceiving {
    /// The other cpus of the stack.
    pub peers: Vec<Peer>,
}

impl<R: Role> Handler<StartReceiving> for CpuActor<R> {
    type Result = Result<(), std::io::Error>;

    fn handle(&mut self, start: StartReceiving, ctx: &mut Self::Context) -> Self::Result {
        {
            let mut shard = self.shard.borrow();
            shard.set_peers(start.peers);
            if self.further.is_none() {
                shard.set_unclaimed(ctx.address().recipient());
            }
        }
        let poll = PollLoop::new(
            self.shard.clone(),
            self.ports.clone(),
            self.further.clone(),
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

/// Closes the TCP listeners of the cpu and finishes its connections; answers when the peers have
/// acknowledged that, or when the time is over, and the rest is reset. To be sent before
/// [`StopQueue`], to all cpus.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct DrainTcp {
    /// How long the peers may take.
    pub limit: Duration,
}

impl<R: Role> Handler<DrainTcp> for CpuActor<R> {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, drain: DrainTcp, _: &mut Self::Context) -> Self::Result {
        if self.ended.is_some() || !self.started {
            return Box::pin(async {});
        }
        let shard = self.shard.clone();
        let drained = shard.borrow().drain_tcp();
        Box::pin(async move {
            let _ = tokio::time::timeout(drain.limit, drained).await;
            shard.borrow().reset_tcp();
        })
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

impl<R: Role> Handler<StopQueue> for CpuActor<R> {
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

impl<R: Role> Handler<ReleaseQueue> for CpuActor<R> {
    type Result = usize;

    fn handle(&mut self, _: ReleaseQueue, ctx: &mut Self::Context) -> usize {
        ctx.stop();
        if let Some(further) = &self.further {
            return further.borrow_mut().reclaim_after_reset();
        }
        let mut ports = self.ports.borrow_mut();
        ports
            .egress
            .pair()
            .map_or(0, QueuePair::reclaim_after_reset)
    }
}

/// Answers when the other cpus know of the connections of this one that the change would have taken
/// away.
impl<R: Role> Handler<ChangeBinding> for CpuActor<R> {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, change: ChangeBinding, _: &mut Self::Context) -> Self::Result {
        let is_bound = change.closed.is_none();
        let mut shard = self.shard.borrow();
        if !shard.change_binding(change.binding, change.cpu, is_bound) {
            tracing::warn!(binding = ?change.binding, "too many bindings: not known to a cpu");
        }
        let known = shard.keep_connections(change.binding);
        Box::pin(async move {
            if let Some(known) = known {
                known.await;
            }
        })
    }
}

impl<R: Role> Handler<FlowsKept> for CpuActor<R> {
    type Result = ();

    fn handle(&mut self, FlowsKept { keep, noted }: FlowsKept, _: &mut Self::Context) {
        self.shard.borrow().note_kept(&keep);
        drop(noted);
    }
}

impl<R: Role> Handler<FlowsEnded> for CpuActor<R> {
    type Result = ();

    fn handle(&mut self, FlowsEnded { cpu, flows }: FlowsEnded, _: &mut Self::Context) {
        self.shard.borrow().note_ended(cpu, &flows);
    }
}

impl<R: Role> Handler<NeighborHeard> for CpuActor<R> {
    type Result = ();

    fn handle(&mut self, NeighborHeard(frame): NeighborHeard, _: &mut Self::Context) {
        let now = self.clock.now();
        self.shard.borrow().hear_neighbor(now, &frame);
    }
}

/// The address of a cpu's actor, whichever it is.
#[derive(Debug, Clone)]
pub enum CpuAddr {
    /// It owns a queue.
    Queue(Addr<QueueActor>),
    /// It does not.
    Proxy(Addr<ProxyActor>),
}

impl CpuAddr {
    /// What the cpu is to the device.
    pub fn role(&self) -> CpuRole {
        match self {
            CpuAddr::Queue(_) => CpuRole::Queue,
            CpuAddr::Proxy(_) => CpuRole::Proxy,
        }
    }

    /// Sends a message that both kinds handle, and gives the answer.
    ///
    /// # Errors
    /// When the actor has ended.
    pub async fn send<M>(&self, message: M) -> Result<M::Result, MailboxError>
    where
        M: Message<Result: Send> + Send + 'static,
        QueueActor: Handler<M>,
        ProxyActor: Handler<M>,
        <QueueActor as Handler<M>>::Result: MessageResponse<QueueActor, M>,
        <ProxyActor as Handler<M>>::Result: MessageResponse<ProxyActor, M>,
    {
        match self {
            CpuAddr::Queue(queue) => queue.send(message).await,
            CpuAddr::Proxy(proxy) => proxy.send(message).await,
        }
    }

    /// Its address as a recipient of one kind of message.
    pub fn recipient<M>(&self) -> Recipient<M>
    where
        M: Message<Result: Send> + Send + 'static,
        QueueActor: Handler<M>,
        ProxyActor: Handler<M>,
        <QueueActor as Actor>::Context: ToEnvelope<QueueActor, M>,
        <ProxyActor as Actor>::Context: ToEnvelope<ProxyActor, M>,
    {
        match self {
            CpuAddr::Queue(queue) => queue.clone().recipient(),
            CpuAddr::Proxy(proxy) => proxy.clone().recipient(),
        }
    }

    /// This cpu, as its peers know it.
    pub fn as_peer(&self, cpu: u16) -> Peer {
        Peer {
            cpu,
            bindings: self.recipient(),
            kept: self.recipient(),
            ended: self.recipient(),
            neighbors: self.recipient(),
        }
    }
}

#[cfg(test)]
mod tests;
