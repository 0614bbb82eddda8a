//! TCP by message, for actors on other arbiters than the connection's: each message crosses
//! threads. See [`LocalStack`] and [`TcpStream`](super::TcpStream) for what each does.

use std::net::SocketAddr;

use actix::prelude::*;
use virtroupe_wire::tcp::{ConnectionId, ListenOptions, ListenerId, TcpOptions};

use super::TcpConnectError;
use super::messages::{TcpAccepted, TcpEvent, TcpPayload, TcpReceived, TcpSendOutcome, Unclaimed};
use crate::cpu_actor::{CpuActor, Role};
use crate::local::LocalStack;
use crate::messages::BindError;
use crate::registry::Sharing;
use crate::shard::{ShardCell, listen_tcp};

/// Listens on the cpu of the actor. See [`LocalStack::listen_tcp`].
///
/// The listener is closed by [`CloseListener`], or when the next connection finds that the
/// receiver has stopped.
#[derive(Message)]
#[rtype(result = "Result<(ListenerId, SocketAddr), BindError>")]
pub struct ListenTcp {
    /// The address to listen at.
    pub local: SocketAddr,
    /// Backlog, and settings of the connections.
    pub options: ListenOptions,
    /// Gets the connections.
    pub accepted: Recipient<TcpAccepted>,
}

impl<R: Role> Handler<ListenTcp> for CpuActor<R> {
    type Result = ResponseFuture<Result<(ListenerId, SocketAddr), BindError>>;

    fn handle(&mut self, listen: ListenTcp, _: &mut Self::Context) -> Self::Result {
        let shard = self.shard.clone();
        Box::pin(async move {
            let ListenTcp {
                local,
                options,
                accepted,
            } = listen;
            let id = listen_tcp(&shard, local, options, Sharing::Alone).await?;
            let mut shard = shard.borrow();
            shard.deliver_accepted_to(id, accepted, true);
            Ok((id, shard.listener_local(id).unwrap_or(local)))
        })
    }
}

/// Closes a listener that [`ListenTcp`] opened.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CloseListener(pub ListenerId);

impl<R: Role> Handler<CloseListener> for CpuActor<R> {
    type Result = ();

    fn handle(&mut self, CloseListener(id): CloseListener, _: &mut Self::Context) {
        self.shard.borrow().close_listener(id);
    }
}

/// The actors that serve a connection.
#[derive(Clone)]
pub struct TcpReceivers {
    /// Gets the bytes. The connection is reset when they find that it has stopped.
    pub received: Recipient<TcpReceived>,
    /// Gets room notices and the end.
    pub events: Option<Recipient<TcpEvent>>,
}

impl TcpReceivers {
    fn attach(self, shard: &ShardCell, id: ConnectionId) {
        let mut shard = shard.borrow();
        shard.close_tcp_with_receiver(id);
        if let Some(events) = self.events {
            shard.tcp_events_to(id, events);
        }
        shard.deliver_tcp_to(id, self.received);
    }
}

/// Connects from the cpu of the actor. See [`LocalStack::connect_tcp`]. Answers, when the
/// connection is open, its name and our end.
///
/// The connection is closed by [`CloseTcp`].
#[derive(Message)]
#[rtype(result = "Result<(ConnectionId, SocketAddr), TcpConnectError>")]
pub struct ConnectTcp {
    /// Whom to reach.
    pub peer: SocketAddr,
    /// Settings of the connection.
    pub options: TcpOptions,
    /// Who gets what.
    pub receivers: TcpReceivers,
}

impl<R: Role> Handler<ConnectTcp> for CpuActor<R> {
    type Result = ResponseFuture<Result<(ConnectionId, SocketAddr), TcpConnectError>>;

    fn handle(&mut self, connect: ConnectTcp, _: &mut Self::Context) -> Self::Result {
        let shard = self.shard.clone();
        let stream = LocalStack::new(shard.clone()).connect_tcp(connect.peer, connect.options);
        Box::pin(async move {
            let (id, ends) = stream.await?.into_remote();
            let (local, _) = ends.ok_or_else(|| shard.borrow().stack_closed())?;
            connect.receivers.attach(&shard, id);
            Ok((id, local))
        })
    }
}

/// Claims a connection that [`ListenTcp`] accepted, on its cpu. See [`LocalStack::claim_tcp`].
#[derive(Message)]
#[rtype(result = "Result<ConnectionId, TcpAccepted>")]
pub struct ClaimTcp {
    /// The connection.
    pub accepted: TcpAccepted,
    /// Who gets what.
    pub receivers: TcpReceivers,
}

impl<R: Role> Handler<ClaimTcp> for CpuActor<R> {
    type Result = Result<ConnectionId, TcpAccepted>;

    fn handle(&mut self, claim: ClaimTcp, _: &mut Self::Context) -> Self::Result {
        let stream = self.local().claim_tcp(claim.accepted)?;
        let (id, _) = stream.into_remote();
        claim.receivers.attach(&self.shard, id);
        Ok(id)
    }
}

/// Sends bytes. See [`TcpStream::send`](super::TcpStream::send).
#[derive(Debug, Message)]
#[rtype(result = "TcpSendOutcome")]
pub struct SendTcp {
    /// The connection.
    pub connection: ConnectionId,
    /// The bytes.
    pub payload: TcpPayload,
}

impl<R: Role> Handler<SendTcp> for CpuActor<R> {
    type Result = MessageResult<SendTcp>;

    fn handle(&mut self, send: SendTcp, _: &mut Self::Context) -> Self::Result {
        let outcome = self.shard.borrow().send_tcp(send.connection, send.payload);
        MessageResult(outcome)
    }
}

/// Asks for one [`TcpEventKind::TxReady`](super::TcpEventKind::TxReady). Answers whether it will
/// come.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub struct NotifyTcpWhenReady(pub ConnectionId);

impl<R: Role> Handler<NotifyTcpWhenReady> for CpuActor<R> {
    type Result = bool;

    fn handle(
        &mut self,
        NotifyTcpWhenReady(id): NotifyTcpWhenReady,
        _: &mut Self::Context,
    ) -> bool {
        self.shard.borrow().notify_tcp(id)
    }
}

/// Finishes this side. See [`TcpStream::finish`](super::TcpStream::finish).
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FinishTcp(pub ConnectionId);

impl<R: Role> Handler<FinishTcp> for CpuActor<R> {
    type Result = ();

    fn handle(&mut self, FinishTcp(id): FinishTcp, _: &mut Self::Context) {
        self.shard.borrow().finish_tcp(id);
    }
}

/// Closes a connection that [`ConnectTcp`] or [`ClaimTcp`] opened, as dropping a
/// [`TcpStream`](super::TcpStream) does.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CloseTcp(pub ConnectionId);

impl<R: Role> Handler<CloseTcp> for CpuActor<R> {
    type Result = ();

    fn handle(&mut self, CloseTcp(id): CloseTcp, _: &mut Self::Context) {
        self.shard.borrow().close_tcp(id);
    }
}

/// Resets a connection. See [`TcpStream::abort`](super::TcpStream::abort).
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct AbortTcp(pub ConnectionId);

impl<R: Role> Handler<AbortTcp> for CpuActor<R> {
    type Result = ();

    fn handle(&mut self, AbortTcp(id): AbortTcp, _: &mut Self::Context) {
        self.shard.borrow().abort_tcp(id);
    }
}

impl<R: Role> Handler<Unclaimed> for CpuActor<R> {
    type Result = ();

    fn handle(&mut self, Unclaimed(id): Unclaimed, _: &mut Self::Context) {
        self.shard.borrow().abort_tcp(id);
    }
}
