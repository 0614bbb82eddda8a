//! Opening, accepting and closing connections and listeners.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use actix::Recipient;
use tokio::time::timeout;
use virtroupe_wire::host;
use virtroupe_wire::placement::{Binding, Flow, SourcePortError, Transport};
use virtroupe_wire::tcp::{
    self, ConnectionId, ConnectionStats, Keepalive, ListenError, ListenOptions, ListenerId,
    TcpOptions, TcpState,
};

use super::{Bound, Kept, Listener, TcpSocket};
use crate::messages::{BindError, CloseReason};
use crate::peers::ACKNOWLEDGE;
use crate::registry::{Reservation, Sharing, Taken};
use crate::shard::sockets::{CONNECT_ATTEMPTS, Unbound};
use crate::shard::{Shard, ShardCell};
use crate::tcp::{StackClosed, TcpAccepted, TcpConnectError, io_error};

/// Listens on the cpu of `shard`; done when all other cpus know of it. Waits for an address whose
/// socket on another cpu was just closed.
pub(crate) async fn listen_tcp(
    shard: &ShardCell,
    local: SocketAddr,
    options: ListenOptions,
    sharing: Sharing,
) -> Result<ListenerId, BindError> {
    loop {
        let listening = shard.borrow().listen_tcp(local, options.clone(), sharing);
        let unbound = match listening {
            Ok((id, known)) => {
                // Closed again if the others do not take note, or nobody waits any more.
                let guard = CloseUnlessKnown(shard, id);
                known.await?;
                std::mem::forget(guard);
                return Ok(id);
            }
            Err(unbound) => unbound,
        };
        let Some(mut closing) = unbound.closing else {
            return Err(unbound.error);
        };
        if timeout(ACKNOWLEDGE, closing.changed()).await.is_err() {
            return Err(unbound.error);
        }
    }
}

struct CloseUnlessKnown<'a>(&'a ShardCell, ListenerId);

impl Drop for CloseUnlessKnown<'_> {
    fn drop(&mut self) {
        self.0.try_with(|shard| shard.close_listener(self.1));
    }
}

impl Shard {
    /// Begins to listen on this cpu. The second result is done when all other cpus know of it.
    fn listen_tcp(
        &mut self,
        local: SocketAddr,
        options: ListenOptions,
        sharing: Sharing,
    ) -> Result<
        (
            ListenerId,
            impl Future<Output = Result<(), BindError>> + use<>,
        ),
        Unbound,
    > {
        self.check_listen(local)?;
        let (id, binding) = match local.port() {
            0 => self.listen_ephemeral(local, &options, sharing)?,
            _ => self.listen_at(local, &options, sharing)?,
        };
        if !self.change_binding(binding, self.cpu, true) {
            // Nor would it be to the others, who know of as many.
            self.close_listener(id);
            return Err(BindError::TooManyBindings.into());
        }
        Ok((id, self.peers.announce(binding, self.cpu)))
    }

    fn check_listen(&self, local: SocketAddr) -> Result<(), BindError> {
        if self.closed.is_some() || self.is_draining_tcp() {
            return Err(BindError::Stopped);
        }
        if !self.tcp.is_enabled {
            return Err(BindError::TcpDisabled);
        }
        if local.is_ipv6() {
            return Err(host::BindError::Unsupported(local).into());
        }
        if !local.ip().is_unspecified() && !self.host.is_own_address(local.ip()) {
            return Err(host::BindError::AddressNotOurs(local).into());
        }
        Ok(())
    }

    /// Listens in the engine, and reserves the address for this cpu if there are others.
    fn listen_at(
        &mut self,
        local: SocketAddr,
        options: &ListenOptions,
        sharing: Sharing,
    ) -> Result<(ListenerId, Binding), Unbound> {
        let binding = Binding {
            transport: Transport::Tcp,
            port: local.port(),
            address: local.ip(),
        };
        let engine = &mut self.tcp.engine;
        let listening = engine.listen(local, options.clone());
        let id = listening.map_err(BindError::from)?;
        if let Err(Taken { cpu, closing }) = self.reserve_binding(binding, sharing) {
            let now = self.clock.now();
            self.tcp.engine.close_listener(now, id);
            let error = BindError::InUseOnOtherCpu { local, cpu };
            return Err(Unbound { error, closing });
        }
        let listener = Listener {
            local,
            acceptor: None,
            recipient: None,
            parked: None,
            is_full: false,
            is_remote: false,
            is_ended: false,
        };
        self.tcp.listeners.insert(id, listener);
        Ok((id, binding))
    }

    /// Reserves what a listener is bound to, or takes it over from one that was closed and whose
    /// connections still need it.
    fn reserve_binding(&mut self, binding: Binding, sharing: Sharing) -> Result<(), Taken> {
        if !self.is_sharded() {
            return Ok(());
        }
        if let Some(bound) = self.tcp.bindings.get_mut(&binding)
            && bound.reservation.sharing() == sharing
        {
            bound.reservation.reopen();
            bound.has_listener = true;
            return Ok(());
        }
        let reservation = self.registry.reserve(binding, self.cpu, sharing)?;
        let bound = Bound {
            reservation,
            has_listener: true,
            connections: 0,
        };
        if let Some(old) = self.tcp.bindings.insert(binding, bound)
            && let Some(bound) = self.tcp.bindings.get_mut(&binding)
        {
            // It was shared otherwise; what it was kept for goes on.
            bound.connections = old.connections;
        }
        Ok(())
    }

    /// As `listen_at`, at the first free ephemeral port from a random one on (RFC 6056, section
    /// 3.3.1).
    fn listen_ephemeral(
        &mut self,
        local: SocketAddr,
        options: &ListenOptions,
        sharing: Sharing,
    ) -> Result<(ListenerId, Binding), Unbound> {
        let (first, last) = self.tcp.ephemeral_ports;
        let count = u32::from(last.saturating_sub(first)) + 1;
        let start = u32::from(self.host.random_port_offset()) % count;
        for step in 0..count {
            let port = first.saturating_add(((start + step) % count) as u16);
            if port == 0 || self.registry.is_used(Transport::Tcp, port) {
                continue;
            }
            match self.listen_at(SocketAddr::new(local.ip(), port), options, sharing) {
                // Taken by another cpu since we looked, or by ourselves.
                Err(Unbound {
                    error:
                        BindError::InUseOnOtherCpu { .. } | BindError::Listen(ListenError::InUse(_)),
                    ..
                }) => {}
                outcome => return outcome,
            }
        }
        Err(BindError::from(host::BindError::NoPorts).into())
    }

    /// Ends a listener. Connections that were not accepted are reset.
    pub(crate) fn close_listener(&mut self, id: ListenerId) {
        self.end_listener(id);
        self.tcp.listeners.remove(&id);
    }

    /// Ends a listener, whose handle may learn that it has ended.
    pub(super) fn end_listener(&mut self, id: ListenerId) {
        let now = self.clock.now();
        let Some(listener) = self.tcp.listeners.get_mut(&id) else {
            return;
        };
        let local = listener.local;
        if let Some(parked) = listener.parked.take() {
            self.abort_unclaimed(parked);
        }
        if let Some(listener) = self.tcp.listeners.get_mut(&id) {
            super::deliver::wake(&self.wakes, &mut listener.acceptor);
            if std::mem::replace(&mut listener.is_ended, true) {
                return;
            }
        }
        self.tcp.engine.close_listener(now, id);
        let binding = Binding {
            transport: Transport::Tcp,
            port: local.port(),
            address: local.ip(),
        };
        if let Some(bound) = self.tcp.bindings.get_mut(&binding) {
            bound.has_listener = false;
            if bound.connections > 0 {
                bound.reservation.start_closing();
            } else {
                self.unbind_tcp(binding);
            }
        }
        self.wake();
    }

    /// A binding is needed no more.
    fn unbind_tcp(&mut self, binding: Binding) {
        if let Some(bound) = self.tcp.bindings.remove(&binding) {
            self.change_binding(binding, self.cpu, false);
            self.peers.retract(bound.reservation, self.cpu);
        }
    }

    /// The address that a listener is bound to.
    pub(crate) fn listener_local(&self, id: ListenerId) -> Option<SocketAddr> {
        self.tcp.listeners.get(&id).map(|listener| listener.local)
    }

    /// The next connection of a listener, or the end if there will be none.
    pub(crate) fn poll_accept(
        &mut self,
        id: ListenerId,
        waker: &Waker,
    ) -> Poll<Option<ConnectionId>> {
        if let Some(connection) = self.accept_tcp(id) {
            return Poll::Ready(Some(connection));
        }
        let is_closed = self.closed.is_some();
        match self.tcp.listeners.get_mut(&id) {
            Some(listener) if !is_closed && !listener.is_ended => {
                keep(&mut listener.acceptor, waker);
                Poll::Pending
            }
            _ => Poll::Ready(None),
        }
    }

    /// Takes the next connection of a listener.
    pub(super) fn accept_tcp(&mut self, id: ListenerId) -> Option<ConnectionId> {
        if self.closed.is_some() {
            return None;
        }
        let now = self.clock.now();
        let local = self.tcp.listeners.get(&id)?.local;
        let connection = self.tcp.engine.accept(now, id)?;
        let binding = Binding {
            transport: Transport::Tcp,
            port: local.port(),
            address: local.ip(),
        };
        let bound = self.tcp.bindings.get_mut(&binding);
        let kept = Kept {
            binding: bound.map(|bound| {
                bound.connections += 1;
                binding
            }),
            reservation: None,
        };
        self.insert_socket(connection, kept);
        Some(connection)
    }

    fn insert_socket(&mut self, id: ConnectionId, kept: Kept) {
        let socket = TcpSocket {
            kept,
            ..TcpSocket::default()
        };
        self.tcp.sockets.insert(id, socket);
    }

    /// Sets who gets the connections of a listener.
    pub(crate) fn deliver_accepted_to(
        &mut self,
        id: ListenerId,
        recipient: Recipient<TcpAccepted>,
        is_remote: bool,
    ) {
        if let Some(listener) = self.tcp.listeners.get_mut(&id) {
            listener.recipient = Some(recipient);
            listener.is_remote = is_remote;
            self.deliver_accepted(id);
            self.wake();
        }
    }

    /// Resets a connection that was accepted and that nobody wants.
    pub(crate) fn abort_unclaimed(&mut self, mut accepted: TcpAccepted) {
        accepted.unclaimed = None;
        self.abort_tcp(accepted.connection);
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
                Err(_) if attempts > 0 => self.tcp.engine.abort(self.clock.now(), id),
                Err(port) => {
                    self.tcp.engine.abort(self.clock.now(), id);
                    return Err(port.into());
                }
            }
        };
        let kept = Kept {
            binding: None,
            reservation,
        };
        self.insert_socket(id, kept);
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
        let now = self.clock.now();
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
        let binding = Binding {
            transport: Transport::Tcp,
            port: local.port(),
            address: local.ip(),
        };
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
    fn is_sharded(&self) -> bool {
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

    /// Lets go of a connection: gracefully, unless something was not read.
    pub(crate) fn close_tcp(&mut self, id: ConnectionId) {
        self.end_tcp(id, false);
    }

    /// Resets a connection and lets go of it.
    pub(crate) fn abort_tcp(&mut self, id: ConnectionId) {
        self.end_tcp(id, true);
    }

    fn end_tcp(&mut self, id: ConnectionId, must_reset: bool) {
        let Some(socket) = self.tcp.sockets.remove(&id) else {
            return;
        };
        let parked = socket.delivery.and_then(|delivery| delivery.parked);
        let now = self.clock.now();
        if self.closed.is_some() {
            return;
        }
        if !socket.flags.is_finished
            && let Some(drain) = &mut self.tcp.drain
        {
            drain.finished();
        }
        let Kept {
            binding,
            reservation,
        } = &socket.kept;
        if binding.is_some() || reservation.is_some() {
            self.tcp.closing.insert(id, socket.kept);
        }
        match must_reset || parked.is_some() {
            true => self.tcp.engine.abort(now, id),
            false => self.tcp.engine.close(now, id),
        }
        self.wake();
    }

    /// A connection that was closed is over.
    pub(super) fn release_closed(&mut self, id: ConnectionId) {
        let Some(Kept { binding, .. }) = self.tcp.closing.remove(&id) else {
            return;
        };
        let Some(binding) = binding else {
            return;
        };
        if let Some(bound) = self.tcp.bindings.get_mut(&binding) {
            bound.connections = bound.connections.saturating_sub(1);
            if bound.connections == 0 && !bound.has_listener {
                self.unbind_tcp(binding);
            }
        }
    }

    /// Takes over a connection that was accepted for a message. False if it is not of this cpu.
    pub(crate) fn claim_tcp(&mut self, accepted: &mut TcpAccepted) -> bool {
        let is_ours = accepted.cpu == self.cpu && accepted.unclaimed.is_some();
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
        if let Some(error) = self.tcp_error(id) {
            return Poll::Ready(Err(error));
        }
        match self.tcp.sockets.get_mut(&id) {
            Some(socket) if !socket.flags.is_finished => {
                keep(&mut socket.writer, cx.waker());
                Poll::Pending
            }
            _ => Poll::Ready(Ok(())),
        }
    }

    pub(crate) fn tcp_stats(&self, id: ConnectionId) -> Option<ConnectionStats> {
        self.tcp.engine.stats(id)
    }

    pub(crate) fn finish_tcp(&mut self, id: ConnectionId) {
        self.tcp.engine.finish(self.clock.now(), id);
        self.wake();
    }

    pub(crate) fn set_nodelay(&mut self, id: ConnectionId, nodelay: bool) {
        let now = self.clock.now();
        self.tcp.engine.set_nodelay(now, id, nodelay);
        self.wake();
    }

    pub(crate) fn set_keepalive(&mut self, id: ConnectionId, keepalive: Option<Keepalive>) {
        let now = self.clock.now();
        self.tcp.engine.set_keepalive(now, id, keepalive);
        self.wake();
    }

    pub(crate) fn set_dscp(&mut self, id: ConnectionId, dscp: u8) {
        self.tcp.engine.set_dscp(self.clock.now(), id, dscp);
    }

    pub(crate) fn set_user_timeout(&mut self, id: ConnectionId, limit: Duration) {
        let now = self.clock.now();
        self.tcp.engine.set_user_timeout(now, id, limit);
        self.wake();
    }
}

/// Keeps the waker of a task, without cloning one that is there already.
pub(super) fn keep(place: &mut Option<Waker>, waker: &Waker) {
    match place {
        Some(kept) => kept.clone_from(waker),
        None => *place = Some(waker.clone()),
    }
}
