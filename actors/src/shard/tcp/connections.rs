//! Opening and closing connections, and their options.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use virtroupe_wire::Instant;
use virtroupe_wire::placement::{Flow, SourcePortError, Transport};
use virtroupe_wire::tcp::{self, ConnectionId, ConnectionStats, Keepalive, TcpOptions, TcpState};

use super::listeners::binding;
use super::{Delivery, Kept, Tcp, TcpSocket};
use crate::messages::CloseReason;
use crate::registry::{Reservation, Sharing};
use crate::shard::Shard;
use crate::shard::sockets::CONNECT_ATTEMPTS;
use crate::tcp::{StackClosed, TcpAccepted, TcpConnectError, io_error};

/// How an application lets go of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// At once: whoever has a handle finds it gone.
    Close,
    /// With the next turn, as nobody has a handle.
    Drop,
    Reset,
}

impl Shard {
    /// Resets a connection that was accepted and that nobody wants.
    pub(crate) fn abort_unclaimed(&mut self, accepted: TcpAccepted) {
        self.abort_tcp(accepted.into_connection());
    }

    /// Asks `peer` for a connection, from a port whose replies this cpu owns.
    pub(crate) fn connect_tcp(
        &mut self,
        local: Option<IpAddr>,
        peer: SocketAddr,
        options: &TcpOptions,
    ) -> Result<ConnectionId, TcpConnectError> {
        if let Some(reason) = &self.closed {
            return Err(StackClosed(reason.clone()).into());
        }
        if self.is_draining_tcp() {
            return Err(StackClosed(CloseReason::Shutdown).into());
        }
        if !self.tcp.is_enabled {
            return Err(TcpConnectError::Disabled);
        }
        let source = match local {
            Some(own) if self.host.is_own_address(own) => own,
            Some(other) => return Err(TcpConnectError::NotOurs(other)),
            None => self
                .host
                .source_for(peer.ip())
                .ok_or(TcpConnectError::NoRoute(peer))?,
        };
        let mut attempts = CONNECT_ATTEMPTS;
        let (id, reservation) = loop {
            attempts -= 1;
            let id = self.attempt(source, peer, options)?;
            match self.reserve_flow(id) {
                Ok(reservation) => break (id, reservation),
                // Taken by another cpu since we looked. Nothing was sent yet.
                Err(_) if attempts > 0 => self.tcp.engine.abort(self.now(), id),
                Err(port) => {
                    self.tcp.engine.abort(self.now(), id);
                    return Err(port.into());
                }
            }
        };
        let kept = Kept {
            reservation,
            ..Kept::default()
        };
        self.tcp.insert_socket(id, kept);
        self.wake();
        Ok(id)
    }

    /// Has the engine choose a port and begin.
    fn attempt(
        &mut self,
        source: IpAddr,
        peer: SocketAddr,
        options: &TcpOptions,
    ) -> Result<ConnectionId, TcpConnectError> {
        let now = self.now();
        let ports = self.ports.clone();
        let ports = ports.borrow();
        let placement = ports.crossings.as_ref().map(|it| &it.placement);
        let (cpu, registry) = (self.cpu, &self.registry);
        if placement.is_some_and(|it| !it.buckets().owners().contains(&cpu)) {
            return Err(SourcePortError::NoBucket(cpu).into());
        }
        let comes_home = |port| {
            let local = SocketAddr::new(source, port);
            let Some(placement) = placement else {
                return true;
            };
            let replies = Flow::received_from(Transport::Tcp, peer, local);
            replies.is_some_and(|flow| placement.owner(&flow) == cpu)
                && registry.admits_flow(Transport::Tcp, port, source, cpu)
        };
        let local = SocketAddr::new(source, 0);
        let engine = &mut self.tcp.engine;
        let connected = engine.connect(now, local, peer, options.clone(), comes_home);
        connected.map_err(|error| match error {
            tcp::TcpConnectError::NoPort if placement.is_some() => {
                let (first, last) = self.tcp.ephemeral_ports;
                SourcePortError::NoPort { cpu, first, last }.into()
            }
            error => error.into(),
        })
    }

    /// Reserves the port of a flow that begins, if there are other cpus.
    fn reserve_flow(&self, id: ConnectionId) -> Result<Option<Box<Reservation>>, SourcePortError> {
        let Some(local) = self.tcp.engine.flow(id).map(|flow| flow.local()) else {
            return Ok(None);
        };
        if !self.is_sharded() {
            return Ok(None);
        }
        let binding = binding(local);
        let reserved = self.registry.reserve(binding, self.cpu, Sharing::Flow);
        match reserved {
            Ok(reservation) => Ok(Some(Box::new(reservation))),
            Err(_) => {
                let (first, last) = self.tcp.ephemeral_ports;
                let cpu = self.cpu;
                Err(SourcePortError::NoPort { cpu, first, last })
            }
        }
    }

    /// Whether there are other cpus.
    pub(super) fn is_sharded(&self) -> bool {
        self.ports.borrow().crossings.is_some()
    }

    /// Whether an attempt to connect has succeeded or failed.
    pub(crate) fn poll_connected(
        &mut self,
        id: ConnectionId,
        cx: &Context<'_>,
    ) -> Poll<Result<(), TcpConnectError>> {
        if let Some(reason) = &self.closed {
            return Poll::Ready(Err(StackClosed(reason.clone()).into()));
        }
        let engine = &self.tcp.engine;
        let peer = engine.flow(id).map(|flow| flow.remote());
        match (engine.state(id), peer, self.tcp.sockets.get_mut(&id)) {
            (Some(TcpState::SynSent | TcpState::SynReceived), _, Some(socket)) => {
                keep(&mut socket.writer, cx.waker());
                Poll::Pending
            }
            (Some(TcpState::Closed), Some(peer), _) => {
                let error = engine.error(id).unwrap_or(tcp::TcpError::Aborted);
                Poll::Ready(Err(match self.is_draining_tcp() {
                    true => self.stack_closed().into(),
                    false => TcpConnectError::Failed { peer, error },
                }))
            }
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Lets go of a connection by its name: gracefully, unless something was not read.
    pub(crate) fn close_tcp(&mut self, id: ConnectionId) {
        self.end_tcp(id, End::Close);
    }

    /// As [`close_tcp`](Self::close_tcp), of one whose last handle is gone.
    pub(crate) fn drop_tcp(&mut self, id: ConnectionId) {
        self.end_tcp(id, End::Drop);
    }

    /// Resets a connection and lets go of it.
    pub(crate) fn abort_tcp(&mut self, id: ConnectionId) {
        self.end_tcp(id, End::Reset);
    }

    fn end_tcp(&mut self, id: ConnectionId, end: End) {
        let Some(mut socket) = self.tcp.sockets.remove(&id) else {
            return;
        };
        // Ended by name, while a task waits for it.
        self.wakes.take_from(&mut socket.reader);
        self.wakes.take_from(&mut socket.writer);
        self.tcp.deliveries -= usize::from(socket.delivery.is_some());
        let parked = socket.delivery.and_then(|delivery| delivery.parked);
        if self.closed.is_some() {
            return;
        }
        if !socket.flags.is_finished
            && let Some(drain) = &mut self.tcp.drain
        {
            drain.finished();
        }
        socket.kept.flow = self.kept_flow(id).map(Box::new);
        if !socket.kept.is_empty() {
            self.tcp.closing.insert(id, socket.kept);
        }
        let now = match end {
            End::Close => self.exact_now(),
            End::Drop | End::Reset => self.now(),
        };
        match (self.tcp.engine.state(id), end) {
            _ if end == End::Reset || parked.is_some() => self.tcp.engine.abort(now, id),
            // Where it is not open, nothing is waited for.
            (Some(TcpState::SynSent | TcpState::Closed), _) | (_, End::Close) => {
                self.tcp.engine.close(now, id);
            }
            _ => self.tcp.dropped.push(id),
        }
        self.wake();
    }

    /// Closes what was dropped since the last turn of the loop, before anything more arrives.
    #[inline]
    pub(in crate::shard) fn close_dropped(&mut self, now: Instant) {
        let Tcp {
            engine, dropped, ..
        } = &mut self.tcp;
        dropped.drain(..).for_each(|id| engine.close(now, id));
    }

    /// Takes over a connection that was accepted for a message. False if it is not of this cpu of
    /// this stack: another's connections have the same names.
    pub(crate) fn claim_tcp(&mut self, accepted: &mut TcpAccepted) -> bool {
        let is_ours = accepted.unclaimed.is_some() && accepted.unclaimed == self.tcp.unclaimed;
        if is_ours {
            accepted.unclaimed = None;
        }
        is_ours
    }

    /// Both ends of a connection: ours and the peer's.
    pub(crate) fn tcp_ends(&self, id: ConnectionId) -> Option<(SocketAddr, SocketAddr)> {
        let flow = self.tcp.engine.flow(id)?;
        Some((flow.local(), flow.remote()))
    }

    /// Why a connection has failed, if it has.
    pub(crate) fn tcp_error(&self, id: ConnectionId) -> Option<io::Error> {
        match self.tcp.engine.error(id) {
            Some(tcp::TcpError::Aborted) if self.is_draining_tcp() => {
                Some(self.stack_closed().into())
            }
            Some(error) => Some(io_error(error)),
            None => self.closed.clone().map(|reason| StackClosed(reason).into()),
        }
    }

    /// As [`tcp_error`](Self::tcp_error), of a connection that has ended: without an error of its own
    /// it was aborted by name.
    pub(super) fn end_error(&self, id: ConnectionId) -> io::Error {
        let error = self.tcp_error(id);
        error.unwrap_or_else(|| io_error(tcp::TcpError::Aborted))
    }

    /// Why the stack has ended, or is about to.
    pub(crate) fn stack_closed(&self) -> StackClosed {
        StackClosed(self.closed.clone().unwrap_or(CloseReason::Shutdown))
    }

    /// Whether the peer has acknowledged everything, or the connection is over.
    pub(crate) fn poll_finished(
        &mut self,
        id: ConnectionId,
        cx: &Context<'_>,
    ) -> Poll<io::Result<()>> {
        let has_failed = self.tcp.engine.error(id).is_some();
        let is_closed = self.closed.is_some();
        match self.tcp.sockets.get_mut(&id) {
            // Also if the stack has ended since.
            Some(socket) if socket.flags.is_finished && !has_failed => Poll::Ready(Ok(())),
            Some(socket) if !has_failed && !is_closed => {
                keep(&mut socket.writer, cx.waker());
                Poll::Pending
            }
            _ => Poll::Ready(Err(self.end_error(id))),
        }
    }

    pub(crate) fn tcp_stats(&self, id: ConnectionId) -> Option<ConnectionStats> {
        self.tcp.engine.stats(id)
    }

    /// How long a closed connection waits for a peer that takes nothing.
    pub(crate) fn close_timeout_tcp(&self, id: ConnectionId) -> Duration {
        self.tcp.engine.close_timeout(id).unwrap_or_default()
    }

    pub(crate) fn finish_tcp(&mut self, id: ConnectionId) {
        self.tcp.engine.finish(self.now(), id);
        self.wake();
    }

    pub(crate) fn set_nodelay(&mut self, id: ConnectionId, nodelay: bool) {
        let now = self.now();
        self.tcp.engine.set_nodelay(now, id, nodelay);
        self.wake();
    }

    pub(crate) fn set_keepalive(&mut self, id: ConnectionId, keepalive: Option<Keepalive>) {
        let now = self.exact_now();
        self.tcp.engine.set_keepalive(now, id, keepalive);
        self.wake();
    }

    pub(crate) fn set_dscp(&mut self, id: ConnectionId, dscp: u8) {
        self.tcp.engine.set_dscp(self.now(), id, dscp);
    }

    pub(crate) fn set_user_timeout(&mut self, id: ConnectionId, limit: Duration) {
        let now = self.exact_now();
        self.tcp.engine.set_user_timeout(now, id, limit);
        self.wake();
    }
}

impl Tcp {
    /// A connection that an application has from now on.
    pub(super) fn insert_socket(&mut self, id: ConnectionId, kept: Kept) {
        let socket = TcpSocket {
            kept,
            ..TcpSocket::default()
        };
        self.sockets.insert(id, socket);
    }

    /// Where the bytes and events of a connection go, to be set.
    pub(super) fn delivery_mut(&mut self, id: ConnectionId) -> Option<&mut Delivery> {
        let socket = self.sockets.get_mut(&id)?;
        self.deliveries += usize::from(socket.delivery.is_none());
        Some(socket.delivery.get_or_insert_default())
    }
}

/// Keeps the waker of a task, without cloning one that is there already.
pub(super) fn keep(place: &mut Option<Waker>, waker: &Waker) {
    match place {
        Some(kept) => kept.clone_from(waker),
        None => *place = Some(waker.clone()),
    }
}
