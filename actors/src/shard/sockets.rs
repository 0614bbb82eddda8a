//! Opening and closing sockets and subscriptions.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use actix::Recipient;
use virtroupe_driver::Frame;
use virtroupe_wire::DropReason;
use virtroupe_wire::filter::Filter;
use virtroupe_wire::host::Host;
use virtroupe_wire::placement::{Binding, SourcePortSearch, Transport};
use virtroupe_wire::udp::UdpSocketId;

use super::{Capture, Shard, Socket, Subscription, Waiter};
use crate::burst::Burst;
use crate::messages::{
    BindError, ConnectError, PacketsReceived, SocketEvent, SubscriptionId, UdpReceived,
};
use crate::outlet::Outlet;
use crate::peers::{Peer, Peers};
use crate::registry::{Reservation, Sharing};

/// Ephemeral ports (RFC 6335, section 6).
const EPHEMERAL_PORTS: RangeInclusive<u16> = 49_152..=65_535;

/// How often another ephemeral port is tried when the one found was taken by another cpu.
const EPHEMERAL_ATTEMPTS: usize = 64;

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
        BindError,
    > {
        let (id, reservation) = self.reserve_udp(local, sharing)?;
        let binding = reservation.binding();
        self.add_socket(id, reservation);
        // A socket that only hears its peer needs no exception: its flow comes here by its hash.
        let peers = match sharing {
            Sharing::Alone | Sharing::PerCpu => {
                self.change_binding(binding, self.cpu, true);
                self.peers.clone()
            }
            Sharing::Connected => Peers::default(),
        };
        Ok((id, peers.announce(binding, self.cpu)))
    }

    /// Binds in the engine and reserves the address for this cpu.
    fn reserve_udp(
        &mut self,
        local: SocketAddr,
        sharing: Sharing,
    ) -> Result<(UdpSocketId, Reservation), BindError> {
        if self.closed.is_some() {
            return Err(BindError::Stopped);
        }
        let mut attempts = EPHEMERAL_ATTEMPTS;
        loop {
            let id = self.host.bind_udp(local)?;
            let bound = self.host.udp_local(id).unwrap_or(local);
            let binding = Binding {
                transport: Transport::Udp,
                port: bound.port(),
                address: bound.ip(),
            };
            match self.registry.reserve(binding, self.cpu, sharing) {
                Ok(reservation) => return Ok((id, reservation)),
                Err(cpu) => {
                    self.host.close_udp(id);
                    attempts -= 1;
                    // The engine chose a port that another cpu has: let it choose again.
                    if local.port() != 0 || attempts == 0 {
                        return Err(BindError::InUseOnOtherCpu { local: bound, cpu });
                    }
                }
            }
        }
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
        let mut attempts = EPHEMERAL_ATTEMPTS;
        loop {
            let port = self.source_port(source, peer)?;
            attempts -= 1;
            match self.reserve_udp(SocketAddr::new(source, port), Sharing::Connected) {
                // Taken by another cpu since we looked.
                Err(BindError::InUseOnOtherCpu { .. }) if attempts > 0 => {}
                Err(error) => return Err(error.into()),
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

    /// Takes note of a socket that was bound or closed on a cpu.
    pub(crate) fn change_binding(&mut self, binding: Binding, cpu: u16, is_bound: bool) {
        let mut ports = self.ports.borrow_mut();
        let Some(crossings) = &mut ports.crossings else {
            return;
        };
        let exceptions = crossings.placement.exceptions_mut();
        if !is_bound {
            exceptions.unbind(binding, cpu);
        } else if let Err(error) = exceptions.bind(binding, cpu) {
            tracing::warn!(%error, ?binding, cpu, "a binding is not known to cpu {}", self.cpu);
        }
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
            self.waiters.retain(|waiter| *waiter != Waiter::Socket(id));
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
    ) -> SubscriptionId {
        let id = SubscriptionId(self.next_subscription);
        self.next_subscription += 1;
        self.subscriptions.push(Subscription {
            id,
            filter,
            capture,
            outlet: Outlet::new(recipient),
            events: None,
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
            self.waiters
                .retain(|waiter| *waiter != Waiter::Subscription(id));
        }
    }
}
