//! Opening and closing sockets and subscriptions.

use std::net::SocketAddr;

use actix::Recipient;
use virtroupe_driver::Frame;
use virtroupe_wire::DropReason;
use virtroupe_wire::filter::Filter;
use virtroupe_wire::host::Host;
use virtroupe_wire::udp::UdpSocketId;

use super::{Capture, Shard, Socket, Subscription, Waiter};
use crate::burst::Burst;
use crate::messages::{BindError, PacketsReceived, SocketEvent, SubscriptionId, UdpReceived};
use crate::outlet::Outlet;

impl Shard {
    pub(crate) fn bind_udp(&mut self, local: SocketAddr) -> Result<UdpSocketId, BindError> {
        if self.closed.is_some() {
            return Err(BindError::Stopped);
        }
        let id = self.host.bind_udp(local)?;
        let bound = self.host.udp_local(id).unwrap_or(local);
        match self.registry.reserve(bound, self.cpu) {
            Ok(reservation) => {
                let socket = Socket {
                    outlet: None,
                    events: None,
                    is_remote: false,
                    _reservation: reservation,
                };
                self.sockets.insert(id, socket);
                Ok(id)
            }
            Err(cpu) => {
                self.host.close_udp(id);
                Err(BindError::InUseOnOtherCpu { local: bound, cpu })
            }
        }
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
        if let Some(socket) = self.sockets.remove(&id) {
            if let Some(mut outlet) = socket.outlet.filter(Outlet::is_parked) {
                self.unpark();
                self.lose(DropReason::SocketClosed, outlet.give_up());
            }
            self.waiters.retain(|waiter| *waiter != Waiter::Socket(id));
            self.host.close_udp(id);
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
