//! Opening and closing sockets and subscriptions.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use actix::Recipient;
use tokio::sync::watch;
use tokio::time::timeout;
use virtroupe_driver::Frame;
use virtroupe_wire::DropReason;
use virtroupe_wire::filter::Filter;
use virtroupe_wire::host::{self, Host};
use virtroupe_wire::placement::{Binding, SourcePortSearch, Transport};
use virtroupe_wire::udp::UdpSocketId;

use super::{Capture, Shard, ShardCell, Socket, Subscription, Waiter};
use crate::burst::Burst;
use crate::messages::{
    BindError, ConnectError, PacketsReceived, SocketEvent, SubscriptionId, UdpReceived,
};
use crate::outlet::Outlet;
use crate::peers::{ACKNOWLEDGE, Peer, Peers};
use crate::registry::{Reservation, Sharing, Taken};

/// Ephemeral ports (RFC 6335, section 6).
const EPHEMERAL_PORTS: RangeInclusive<u16> = 49_152..=65_535;

/// How often connecting tries another port when the one found was taken by another cpu meanwhile.
pub(super) const CONNECT_ATTEMPTS: usize = 64;

/// Why a socket was not bound.
#[derive(Debug)]
pub(crate) struct Unbound {
    pub(super) error: BindError,
    /// If a closed socket is in the way of which not every cpu knows yet: ends when it is not.
    pub(super) closing: Option<watch::Receiver<()>>,
}

impl From<BindError> for Unbound {
    fn from(error: BindError) -> Self {
        Unbound {
            error,
            closing: None,
        }
    }
}

/// Binds a socket on the cpu of `shard`; done when all other cpus know of it.
pub(crate) async fn bind_udp(
    shard: &ShardCell,
    local: SocketAddr,
    sharing: Sharing,
) -> Result<UdpSocketId, BindError> {
    let bind = |shard: &mut Shard| shard.bind_udp(local, sharing);
    bind_on_all(shard, bind, Shard::close_udp).await
}

/// Binds by `bind`, whose second result is done when all other cpus know of it. Closes by `close`
/// if they do not take note, or nobody waits any more. Waits for an address whose socket on
/// another cpu was just closed.
pub(super) async fn bind_on_all<Id: Copy, Known>(
    shard: &ShardCell,
    bind: impl Fn(&mut Shard) -> Result<(Id, Known), Unbound>,
    close: fn(&mut Shard, Id),
) -> Result<Id, BindError>
where
    Known: Future<Output = Result<(), BindError>>,
{
    loop {
        let bound = bind(&mut shard.borrow());
        let unbound = match bound {
            Ok((id, known)) => {
                let guard = CloseUnlessKnown { shard, id, close };
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

struct CloseUnlessKnown<'a, Id: Copy> {
    shard: &'a ShardCell,
    id: Id,
    close: fn(&mut Shard, Id),
}

impl<Id: Copy> Drop for CloseUnlessKnown<'_, Id> {
    fn drop(&mut self) {
        self.shard.try_with(|shard| (self.close)(shard, self.id));
    }
}

impl Shard {
    /// Binds a socket on this cpu. The second result is done when all other cpus know of it.
    pub(crate) fn bind_udp(
        &mut self,
        local: SocketAddr,
        sharing: Sharing,
    ) -> Result<
        (
            UdpSocketId,
            impl Future<Output = Result<(), BindError>> + use<>,
        ),
        Unbound,
    > {
        let (id, reservation) = match local.port() {
            0 => self.reserve_ephemeral(local, sharing)?,
            _ => self.reserve_udp(local, sharing)?,
        };
        let binding = reservation.binding();
        self.add_socket(id, reservation);
        if !self.change_binding(binding, self.cpu, true) {
            // Nor would it be to the others, who know of as many.
            self.close_udp(id);
            return Err(BindError::TooManyBindings.into());
        }
        Ok((id, self.peers.announce(binding, self.cpu)))
    }

    /// Binds in the engine and reserves the address for this cpu.
    fn reserve_udp(
        &mut self,
        local: SocketAddr,
        sharing: Sharing,
    ) -> Result<(UdpSocketId, Reservation), Unbound> {
        if self.closed.is_some() {
            return Err(BindError::Stopped.into());
        }
        let id = self.host.bind_udp(local).map_err(BindError::from)?;
        let bound = self.host.udp_local(id).unwrap_or(local);
        let binding = Binding {
            transport: Transport::Udp,
            port: bound.port(),
            address: bound.ip(),
        };
        match self.registry.reserve(binding, self.cpu, sharing) {
            Ok(reservation) => Ok((id, reservation)),
            Err(Taken { cpu, closing }) => {
                self.host.close_udp(id);
                let error = BindError::InUseOnOtherCpu { local: bound, cpu };
                Err(Unbound { error, closing })
            }
        }
    }

    /// As `reserve_udp`, at the first free ephemeral port from a random one on (RFC 6056, section
    /// 3.3.1): the engine knows only the ports of this cpu.
    fn reserve_ephemeral(
        &mut self,
        local: SocketAddr,
        sharing: Sharing,
    ) -> Result<(UdpSocketId, Reservation), Unbound> {
        let (first, last) = EPHEMERAL_PORTS.into_inner();
        let start = first + self.host.random_port_offset() % (last - first + 1);
        for port in (start..=last).chain(first..start) {
            if self.registry.is_used(Transport::Udp, port) {
                continue;
            }
            match self.reserve_udp(SocketAddr::new(local.ip(), port), sharing) {
                // Taken by another cpu since we looked.
                Err(Unbound {
                    error: BindError::InUseOnOtherCpu { .. },
                    ..
                }) => {}
                outcome => return outcome,
            }
        }
        Err(BindError::from(host::BindError::NoPorts).into())
    }

    fn add_socket(&mut self, id: UdpSocketId, reservation: Reservation) {
        let socket = Socket {
            outlet: None,
            events: None,
            is_remote: false,
            reservation,
        };
        self.sockets.insert(id, socket);
    }

    /// Makes a socket that is connected to `peer`, on a port whose replies this cpu owns.
    pub(crate) fn connect_udp(&mut self, peer: SocketAddr) -> Result<UdpSocketId, ConnectError> {
        let source = self.host.source_for(peer.ip());
        let source = source.ok_or(ConnectError::NoRoute(peer))?;
        let mut attempts = CONNECT_ATTEMPTS;
        loop {
            let port = self.source_port(source, peer)?;
            attempts -= 1;
            match self.reserve_udp(SocketAddr::new(source, port), Sharing::Connected) {
                // Taken by another cpu since we looked.
                Err(Unbound {
                    error: BindError::InUseOnOtherCpu { .. },
                    ..
                }) if attempts > 0 => {}
                Err(unbound) => return Err(unbound.error.into()),
                Ok((id, reservation)) => {
                    if let Err(error) = self.host.connect_udp(id, peer) {
                        self.host.close_udp(id);
                        return Err(error.into());
                    }
                    self.add_socket(id, reservation);
                    return Ok(id);
                }
            }
        }
    }

    /// A port from which to talk to `peer`; 0, any, if there is only one cpu.
    fn source_port(&mut self, local: IpAddr, peer: SocketAddr) -> Result<u16, ConnectError> {
        let ports = self.ports.clone();
        let ports = ports.borrow();
        let Some(crossings) = &ports.crossings else {
            return Ok(0);
        };
        let search = SourcePortSearch {
            transport: Transport::Udp,
            local,
            peer,
            range: EPHEMERAL_PORTS,
            start: self.host.random_port_offset(),
        };
        let registry = &self.registry;
        let is_used = |port| registry.is_used(Transport::Udp, port);
        let placement = &crossings.placement;
        Ok(placement.choose_source_port(self.cpu, &search, is_used)?)
    }

    /// Takes note of a socket that was bound or closed on a cpu. Returns false if there is no room
    /// for more.
    pub(crate) fn change_binding(&mut self, binding: Binding, cpu: u16, is_bound: bool) -> bool {
        let now = self.clock.now();
        let mut ports = self.ports.borrow_mut();
        let Some(crossings) = &mut ports.crossings else {
            return true;
        };
        // What is on its way to a cpu that gives flows up, is for the others now.
        let is_closed_here = cpu == self.cpu && !is_bound;
        if is_closed_here || binding.transport == Transport::Tcp {
            crossings.settle(now);
        }
        let exceptions = crossings.placement.exceptions_mut();
        if is_bound {
            return exceptions.bind(binding, cpu).is_ok();
        }
        exceptions.unbind(binding, cpu);
        true
    }

    /// Sets the other cpus, to be told of bindings and neighbours.
    pub(crate) fn set_peers(&mut self, peers: Vec<Peer>) {
        self.peers = Peers::new(peers);
    }

    pub(crate) fn host(&mut self) -> &mut Host<Frame> {
        &mut self.host
    }

    pub(crate) fn deliver_udp(&mut self, id: UdpSocketId, recipient: Recipient<UdpReceived>) {
        if let Some(socket) = self.sockets.get_mut(&id) {
            if let Some(mut old) = socket.outlet.replace(Outlet::new(recipient))
                && old.is_parked()
            {
                self.unpark();
                self.lose(DropReason::ReceiverGone, old.give_up());
            }
            // What came before there was a recipient. If it is parked, the actor must not sleep.
            self.dispatch_socket(id);
            self.wake();
        }
    }

    /// Closes a socket when it finds its receiver gone: for receivers on other arbiters.
    pub(crate) fn close_with_receiver(&mut self, id: UdpSocketId) {
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.is_remote = true;
        }
    }

    pub(crate) fn events_udp(&mut self, id: UdpSocketId, recipient: Recipient<SocketEvent>) {
        if let Some(reason) = &self.closed {
            recipient.do_send(SocketEvent::Closed(reason.clone()));
        } else if let Some(socket) = self.sockets.get_mut(&id) {
            socket.events = Some(recipient);
        }
    }

    pub(crate) fn close_udp(&mut self, id: UdpSocketId) {
        if let Some(mut socket) = self.sockets.remove(&id) {
            if let Some(mut outlet) = socket.outlet.take_if(|outlet| outlet.is_parked()) {
                self.unpark();
                self.lose(DropReason::SocketClosed, outlet.give_up());
            }
            self.line.leave(Waiter::Socket(id));
            self.host.close_udp(id);
            let binding = socket.reservation.binding();
            self.change_binding(binding, self.cpu, false);
            self.peers.retract(socket.reservation, self.cpu);
        }
    }

    pub(crate) fn subscribe(
        &mut self,
        filter: Filter,
        capture: Capture,
        recipient: Recipient<PacketsReceived>,
        is_remote: bool,
    ) -> SubscriptionId {
        let id = SubscriptionId(self.next_subscription);
        self.next_subscription += 1;
        self.subscriptions.push(Subscription {
            id,
            filter,
            capture,
            outlet: Outlet::new(recipient),
            events: None,
            is_remote,
            pending: Burst::new(),
        });
        id
    }

    pub(crate) fn events_subscription(
        &mut self,
        id: SubscriptionId,
        recipient: Recipient<SocketEvent>,
    ) {
        if let Some(reason) = &self.closed {
            recipient.do_send(SocketEvent::Closed(reason.clone()));
        } else if let Some(open) = self.subscriptions.iter_mut().find(|open| open.id == id) {
            open.events = Some(recipient);
        }
    }

    pub(crate) fn unsubscribe(&mut self, id: SubscriptionId) {
        if let Some(at) = self.subscriptions.iter().position(|open| open.id == id) {
            let mut subscription = self.subscriptions.remove(at);
            if subscription.outlet.is_parked() {
                self.unpark();
            }
            let lost = subscription.outlet.give_up() + subscription.pending.len() as u64;
            self.lose(DropReason::SocketClosed, lost);
            self.line.leave(Waiter::Subscription(id));
        }
    }
}
