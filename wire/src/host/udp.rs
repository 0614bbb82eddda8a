//! The UDP sockets of a host, of either family, as its caller sees them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Host;
use super::addresses::Kind;
use super::family::Family;
use super::send::is_ipv6;
use super::sockets::{BindError, ConnectError, Socket};
use crate::buffer::Buffer;
use crate::drops::DropReason;
use crate::ipv6;
use crate::udp::{UdpDatagram, UdpError, UdpSocketId};

impl<B: Buffer> Host<B> {
    /// Makes a UDP socket bound to `local`. The unspecified address means any address of ours of
    /// its family and, of IPv4, broadcasts; port 0 means an ephemeral port, chosen at random (RFC
    /// 6056).
    ///
    /// A socket is of one family: one bound to `[::]` gets and sends IPv6 only, as with
    /// `IPV6_V6ONLY`, so that both families may use a port. Scope and flow label are not looked at.
    ///
    /// A socket bound to one address and one bound to any may share a port: the one bound to
    /// the address gets what is sent to it.
    ///
    /// # Errors
    /// Why the socket can not be bound there.
    pub fn bind_udp(&mut self, local: SocketAddr) -> Result<UdpSocketId, BindError> {
        match local.ip() {
            IpAddr::V4(address) => self.bind_to(address, local),
            IpAddr::V6(address) => self.bind_to(address, local),
        }
    }

    fn bind_to<F: Family>(
        &mut self,
        address: F,
        local: SocketAddr,
    ) -> Result<UdpSocketId, BindError> {
        let address = match address {
            any if any == F::UNSPECIFIED => None,
            own if own.is_own(self) => Some(own),
            _ => return Err(BindError::AddressNotOurs(local)),
        };
        let (sockets, random) = F::sockets_and_random(self);
        sockets.bind(address, local.port(), random)
    }

    /// Connects a socket: from now on it receives only from `peer`. It still sends wherever
    /// each datagram says.
    ///
    /// # Errors
    /// The socket is closed or of the other family, or `peer` is not the address and port of one
    /// host.
    pub fn connect_udp(&mut self, id: UdpSocketId, peer: SocketAddr) -> Result<(), ConnectError> {
        let is_host = match peer.ip() {
            IpAddr::V4(ip) => matches!(self.addresses.kind(ip), Kind::Own | Kind::Other),
            IpAddr::V6(ip) => ipv6::is_unicast(ip),
        };
        if peer.port() == 0 || !is_host {
            return Err(ConnectError::BadPeer(peer));
        }
        match is_ipv6(id) {
            false => self.connect_to::<Ipv4Addr>(id, peer),
            true => self.connect_to::<Ipv6Addr>(id, peer),
        }
    }

    fn connect_to<F: Family>(
        &mut self,
        id: UdpSocketId,
        peer: SocketAddr,
    ) -> Result<(), ConnectError> {
        let socket = F::sockets_mut(self).get_mut(id);
        let socket = socket.ok_or(ConnectError::Closed)?;
        let ip = F::of(peer.ip()).ok_or(ConnectError::FamiliesDiffer(peer))?;
        socket.peer = Some(ip.endpoint(peer.port()));
        Ok(())
    }

    /// The address and port that a socket is bound to; `None` if it is closed.
    pub fn udp_local(&self, id: UdpSocketId) -> Option<SocketAddr> {
        match is_ipv6(id) {
            false => self.sockets.get(id).map(local),
            true => self.v6.sockets.get(id).map(local),
        }
    }

    /// The peer that a socket is connected to.
    pub fn udp_peer(&self, id: UdpSocketId) -> Option<SocketAddr> {
        match is_ipv6(id) {
            false => self.sockets.get(id)?.peer.map(SocketAddr::from),
            true => self.v6.sockets.get(id)?.peer.map(SocketAddr::from),
        }
    }

    /// Closes a socket. Datagrams that wait in it are dropped as `SocketClosed`.
    pub fn close_udp(&mut self, id: UdpSocketId) {
        let pending = match is_ipv6(id) {
            false => self.sockets.close(id),
            true => self.v6.sockets.close(id),
        };
        self.counters.closed += pending as u64;
        self.drops.add(DropReason::SocketClosed, pending as u64);
    }

    /// The next socket in which datagrams or errors wait. Each is named once; it is named again
    /// when more arrives.
    #[inline]
    pub fn take_ready_udp(&mut self) -> Option<UdpSocketId> {
        let ready = self.sockets.take_ready();
        ready.or_else(|| self.v6.sockets.take_ready())
    }

    /// The datagrams that wait in a socket, oldest first; the caller drains them. `None` if the
    /// socket is closed.
    #[inline]
    pub fn udp_received(&mut self, id: UdpSocketId) -> Option<&mut Vec<UdpDatagram<B>>> {
        match is_ipv6(id) {
            false => self.sockets.get_mut(id).map(|socket| &mut socket.received),
            true => self
                .v6
                .sockets
                .get_mut(id)
                .map(|socket| &mut socket.received),
        }
    }

    /// The errors that wait in a socket, oldest first; the caller drains them. `None` if the
    /// socket is closed.
    #[inline]
    pub fn udp_errors(&mut self, id: UdpSocketId) -> Option<&mut Vec<UdpError>> {
        match is_ipv6(id) {
            false => self.sockets.get_mut(id).map(|socket| &mut socket.errors),
            true => self.v6.sockets.get_mut(id).map(|socket| &mut socket.errors),
        }
    }

    /// Puts an error into a socket's list; false if that is full or the socket closed.
    pub(super) fn deliver_error(&mut self, id: UdpSocketId, error: UdpError) -> bool {
        match is_ipv6(id) {
            false => self.sockets.deliver_error(id, error),
            true => self.v6.sockets.deliver_error(id, error),
        }
    }
}

fn local<B, F: Family>(socket: &Socket<B, F>) -> SocketAddr {
    let ip = socket.address.unwrap_or(F::UNSPECIFIED);
    ip.endpoint(socket.port).into()
}
