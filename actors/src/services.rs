//! What a cpu does on request of an actor on another arbiter: the services of
//! [`LocalStack`] by message, its counters, and a piece of code that is to run there.

use std::net::SocketAddr;

use actix::prelude::*;
use virtroupe_driver::Frame;
use virtroupe_wire::filter::Filter;
use virtroupe_wire::udp::{UdpSend, UdpSocketId};

use crate::cpu_actor::{CpuActor, Role};
use crate::local::LocalStack;
use crate::messages::{
    BindError, PacketsReceived, SendOutcome, SocketEvent, SubscriptionId, UdpReceived,
};
use crate::registry::Sharing;
use crate::shard::{Capture, bind_udp};
use crate::stats::CpuStats;

/// Asks a cpu for its counters.
#[derive(Debug, Message)]
#[rtype(result = "CpuStats")]
pub struct CollectStats;

impl<R: Role> Handler<CollectStats> for CpuActor<R> {
    type Result = CpuStats;

    fn handle(&mut self, _: CollectStats, _: &mut Self::Context) -> CpuStats {
        let mut ports = self.ports.borrow_mut();
        let shard = self.shard.borrow();
        CpuStats::collect(R::ROLE, &shard, &mut ports, self.control.counters.get())
    }
}

/// Runs a piece of code on the cpu of the actor, with its [`LocalStack`]: how application actors
/// get to their arbiter.
#[derive(Message)]
#[rtype(result = "()")]
pub struct RunLocal(pub Box<dyn FnOnce(LocalStack) + Send>);

impl<R: Role> Handler<RunLocal> for CpuActor<R> {
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

impl<R: Role> Handler<BindUdp> for CpuActor<R> {
    type Result = ResponseFuture<Result<(UdpSocketId, SocketAddr), BindError>>;

    fn handle(&mut self, bind: BindUdp, _: &mut Self::Context) -> Self::Result {
        let shard = self.shard.clone();
        Box::pin(async move {
            let id = bind_udp(&shard, bind.local, Sharing::Alone).await?;
            let mut shard = shard.borrow();
            shard.close_with_receiver(id);
            shard.deliver_udp(id, bind.received);
            if let Some(events) = bind.events {
                shard.events_udp(id, events);
            }
            let local = shard.host().udp_local(id).unwrap_or(bind.local);
            Ok((id, local))
        })
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

impl<R: Role> Handler<SendUdp> for CpuActor<R> {
    type Result = MessageResult<SendUdp>;

    fn handle(&mut self, mut send: SendUdp, _: &mut Self::Context) -> Self::Result {
        let outcome = self.shard.borrow().send_udp(send.socket, &mut send.burst);
        MessageResult((outcome, send.burst))
    }
}

/// Asks for one [`SocketEvent::TxReady`] for a socket that [`BindUdp`] opened. Answers whether it
/// will come; see [`UdpSocket::notify_when_ready`](crate::UdpSocket::notify_when_ready).
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub struct NotifyWhenReady(pub UdpSocketId);

impl<R: Role> Handler<NotifyWhenReady> for CpuActor<R> {
    type Result = bool;

    fn handle(&mut self, NotifyWhenReady(id): NotifyWhenReady, _: &mut Self::Context) -> bool {
        self.shard
            .borrow()
            .wait_for_room(crate::shard::Waiter::Socket(id))
    }
}

/// Closes a socket that [`BindUdp`] opened. When it is answered, nothing is put into the mailbox of
/// the receiver any more; what lies there already is still handled.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CloseUdp(pub UdpSocketId);

impl<R: Role> Handler<CloseUdp> for CpuActor<R> {
    type Result = ();

    fn handle(&mut self, CloseUdp(id): CloseUdp, _: &mut Self::Context) {
        self.shard.borrow().close_udp(id);
    }
}

/// Subscribes an actor on another arbiter to frames. See [`LocalStack::subscribe`].
///
/// The subscription is ended by [`Unsubscribe`], or when the next frames find that the receiver has
/// stopped.
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

impl<R: Role> Handler<Subscribe> for CpuActor<R> {
    type Result = MessageResult<Subscribe>;

    fn handle(&mut self, subscribe: Subscribe, _: &mut Self::Context) -> Self::Result {
        let Subscribe {
            filter,
            capture,
            received,
        } = subscribe;
        let mut shard = self.shard.borrow();
        MessageResult(shard.subscribe(filter, capture, received, true))
    }
}

/// Ends a subscription that [`Subscribe`] made.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Unsubscribe(pub SubscriptionId);

impl<R: Role> Handler<Unsubscribe> for CpuActor<R> {
    type Result = ();

    fn handle(&mut self, Unsubscribe(id): Unsubscribe, _: &mut Self::Context) {
        self.shard.borrow().unsubscribe(id);
    }
}

/// Sends whole Ethernet frames. Answers the outcome and what was refused.
#[derive(Debug, Message)]
#[rtype(result = "(SendOutcome, Vec<Frame>)")]
pub struct TransmitFrames(pub Vec<Frame>);

impl<R: Role> Handler<TransmitFrames> for CpuActor<R> {
    type Result = MessageResult<TransmitFrames>;

    fn handle(
        &mut self,
        TransmitFrames(mut frames): TransmitFrames,
        _: &mut Self::Context,
    ) -> Self::Result {
        let outcome = self.shard.borrow().transmit_frames(None, &mut frames);
        MessageResult((outcome, frames))
    }
}
