//! UDP sockets: who gets a datagram, and what waits for them.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use super::config::Limits;
use super::family::Family;
use super::random::{KeyedHash, Random};
use crate::udp::{UdpDatagram, UdpError, UdpSocketId};

/// Ephemeral ports (RFC 6335, section 6).
const EPHEMERAL: std::ops::RangeInclusive<u16> = 49_152..=65_535;

/// Errors that wait in one socket; further ones are dropped, as the peer may send many.
const ERRORS: usize = 64;

/// Why a socket can not be bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another socket is bound to the same address and port.
    #[error("{0} is in use; close the other socket or choose another port (0: any)")]
    AddressInUse(SocketAddr),
    /// The address is not one of this host.
    #[error(
        "{0} is not an address of this host; use one of its addresses, or 0.0.0.0 or [::] for any"
    )]
    AddressNotOurs(SocketAddr),
    /// Every ephemeral port is in use.
    #[error("no ephemeral port is free; close sockets or choose a port below 49152")]
    NoPorts,
    /// The limit of sockets is reached.
    #[error("the host has as many sockets as limits.sockets allows; close some or raise it")]
    TooManySockets,
}

/// Why a socket can not be connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The socket is closed.
    #[error("the socket is closed")]
    Closed,
    /// The peer's address or port is not one that a host can have.
    #[error("{0} can not be a peer; use the unicast address and the port of a host")]
    BadPeer(SocketAddr),
    /// The socket is bound to an address of the other family.
    #[error("{0} is of another IP version than the socket; bind one to 0.0.0.0 or [::] as needed")]
    FamiliesDiffer(SocketAddr),
}

#[derive(Debug)]
pub(super) struct Socket<B, F: Family> {
    generation: u32,
    /// `None`: any address of ours.
    pub(super) address: Option<F>,
    pub(super) port: u16,
    pub(super) peer: Option<F::Endpoint>,
    pub(super) received: Vec<UdpDatagram<B>>,
    pub(super) errors: Vec<UdpError>,
    /// Whether the socket is in the ready list.
    is_ready: bool,
    is_open: bool,
}

/// The sockets at one port.
#[derive(Debug, Clone, Copy, Default)]
struct Port {
    /// The socket bound to any address, by slot + 1; 0: none.
    any: u32,
    /// How many sockets are bound to one address each.
    specific: u32,
}

/// Ports in one page of the port table.
const PAGE: usize = 256;

/// All sockets of one address family.
#[derive(Debug)]
pub(super) struct Sockets<B, F: Family> {
    sockets: Vec<Socket<B, F>>,
    free: Vec<u32>,
    /// The port table, in pages that are made when a port in them is first bound: a lookup is two
    /// loads, and nothing that an attacker can make collide.
    pages: Vec<Option<Box<[Port; PAGE]>>>,
    specific: HashMap<(F, u16), u32, KeyedHash>,
    /// The last specific socket that was found.
    last: Option<((F, u16), u32)>,
    ready: VecDeque<UdpSocketId>,
    most: usize,
    pub(super) queue: usize,
}

impl<B, F: Family> Sockets<B, F> {
    pub(super) fn new(limits: &Limits, random: &mut Random) -> Self {
        Sockets {
            sockets: Vec::new(),
            free: Vec::new(),
            pages: (0..=usize::from(u16::MAX) / PAGE).map(|_| None).collect(),
            specific: HashMap::with_hasher(random.hasher()),
            last: None,
            ready: VecDeque::new(),
            most: limits.sockets,
            queue: limits.socket_queue,
        }
    }

    /// Makes a socket. `port` 0 means an ephemeral port, chosen at random (RFC 6056, section
    /// 3.3.1).
    pub(super) fn bind(
        &mut self,
        address: Option<F>,
        port: u16,
        random: &mut Random,
    ) -> Result<UdpSocketId, BindError> {
        if self.sockets.len() - self.free.len() >= self.most {
            return Err(BindError::TooManySockets);
        }
        let port = match port {
            0 => self.ephemeral(random).ok_or(BindError::NoPorts)?,
            port => port,
        };
        let is_taken = match address {
            None => self.port(port).any != 0,
            Some(address) => self.specific.contains_key(&(address, port)),
        };
        if is_taken {
            let ip = address.unwrap_or(F::UNSPECIFIED);
            return Err(BindError::AddressInUse(ip.endpoint(port).into()));
        }
        let slot = self.insert(address, port);
        let entry = self.port_mut(port);
        match address {
            None => entry.any = slot + 1,
            Some(address) => {
                entry.specific += 1;
                self.specific.insert((address, port), slot);
            }
        }
        Ok(self.id(slot))
    }

    /// Closes a socket. Returns how many datagrams waited in it.
    pub(super) fn close(&mut self, id: UdpSocketId) -> usize {
        let Some(socket) = self.get_mut(id) else {
            return 0;
        };
        let (address, port) = (socket.address, socket.port);
        let pending = socket.received.len();
        socket.is_open = false;
        socket.is_ready = false;
        socket.generation = socket.generation.wrapping_add(1);
        socket.peer = None;
        socket.received = Vec::new();
        socket.errors = Vec::new();
        self.free.push(Self::index(id) as u32);
        self.last = None;
        let entry = self.port_mut(port);
        match address {
            None => entry.any = 0,
            Some(address) => {
                entry.specific = entry.specific.saturating_sub(1);
                self.specific.remove(&(address, port));
            }
        }
        pending
    }

    /// The socket that a datagram from `source` to `destination` is for: a connected one whose
    /// peer is `source`, else one bound to the address, else one bound to any. A connected
    /// socket gets nothing from others. `is_broadcast`: only sockets bound to any get it.
    #[inline(always)]
    pub(super) fn find(
        &mut self,
        source: F::Endpoint,
        destination: F::Endpoint,
        is_broadcast: bool,
    ) -> Option<UdpSocketId> {
        let (address, number) = F::parts(destination);
        let port = self.port(number);
        let any = port
            .any
            .checked_sub(1)
            .and_then(|slot| self.accepts(slot, source));
        if port.specific == 0 || is_broadcast {
            return any.map(|(slot, _)| self.id(slot));
        }
        let specific = self
            .find_specific(address, number)
            .and_then(|slot| self.accepts(slot, source));
        let found = match (specific, any) {
            (Some((_, false)), Some((slot, true)))
            | (Some((slot, _)), _)
            | (None, Some((slot, _))) => slot,
            (None, None) => return None,
        };
        Some(self.id(found))
    }

    /// Whether the socket in `slot` takes what `source` sends, and if so whether because it is
    /// connected to it.
    #[inline]
    fn accepts(&self, slot: u32, source: F::Endpoint) -> Option<(u32, bool)> {
        match self.sockets.get(slot as usize)?.peer {
            None => Some((slot, false)),
            Some(peer) => (peer == source).then_some((slot, true)),
        }
    }

    #[inline(never)]
    fn find_specific(&mut self, address: F, port: u16) -> Option<u32> {
        let key = (address, port);
        if let Some((_, slot)) = self.last.filter(|(last, _)| *last == key) {
            return Some(slot);
        }
        let slot = *self.specific.get(&key)?;
        self.last = Some((key, slot));
        Some(slot)
    }

    /// Puts a datagram into a socket's queue; gives it back if that is full.
    #[inline]
    pub(super) fn deliver(
        &mut self,
        id: UdpSocketId,
        datagram: UdpDatagram<B>,
    ) -> Result<(), UdpDatagram<B>> {
        let socket = self.sockets.get_mut(Self::index(id));
        match socket.filter(|socket| socket.generation == id.generation && socket.is_open) {
            Some(socket) if socket.received.len() < self.queue => {
                socket.received.push(datagram);
                if !socket.is_ready {
                    socket.is_ready = true;
                    self.ready.push_back(id);
                }
                Ok(())
            }
            _ => Err(datagram),
        }
    }

    /// Whether the socket `id` gets whatever is sent to `port` of ours, from whomever: it is bound
    /// to any address, not connected, and the only one at the port.
    #[inline]
    pub(super) fn takes_all(&self, id: UdpSocketId, port: u16) -> bool {
        let is_free = self.get(id).is_some_and(|socket| socket.peer.is_none());
        is_free && self.port(port).specific == 0
    }

    /// The queue of the socket `id`, for at least one datagram more and at most as many as is
    /// said behind it; the socket is then ready. `None` if the queue is full.
    #[inline]
    pub(super) fn open_queue(
        &mut self,
        id: UdpSocketId,
    ) -> Option<(&mut Vec<UdpDatagram<B>>, usize)> {
        let queue = self.queue;
        let room = queue.saturating_sub(self.get(id)?.received.len());
        if room == 0 {
            return None;
        }
        self.make_ready(id);
        self.get_mut(id).map(|socket| (&mut socket.received, room))
    }

    /// Puts an error into a socket's list; false if that is full or the socket closed.
    pub(super) fn deliver_error(&mut self, id: UdpSocketId, error: UdpError) -> bool {
        match self.get_mut(id) {
            Some(socket) if socket.errors.len() < ERRORS => {
                socket.errors.push(error);
                self.make_ready(id);
                true
            }
            _ => false,
        }
    }

    /// The next socket in which something waits; each is named once until it gets more.
    pub(super) fn take_ready(&mut self) -> Option<UdpSocketId> {
        loop {
            let id = self.ready.pop_front()?;
            if let Some(socket) = self.get_mut(id) {
                socket.is_ready = false;
                return Some(id);
            }
        }
    }

    #[inline]
    pub(super) fn get(&self, id: UdpSocketId) -> Option<&Socket<B, F>> {
        self.sockets
            .get(Self::index(id))
            .filter(|socket| socket.generation == id.generation && socket.is_open)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: UdpSocketId) -> Option<&mut Socket<B, F>> {
        self.sockets
            .get_mut(Self::index(id))
            .filter(|socket| socket.generation == id.generation && socket.is_open)
    }

    #[inline]
    fn make_ready(&mut self, id: UdpSocketId) {
        if let Some(socket) = self.get_mut(id)
            && !socket.is_ready
        {
            socket.is_ready = true;
            self.ready.push_back(id);
        }
    }

    #[inline]
    fn id(&self, slot: u32) -> UdpSocketId {
        let generation = self
            .sockets
            .get(slot as usize)
            .map_or(0, |socket| socket.generation);
        UdpSocketId {
            slot: slot | F::SOCKET_MARK,
            generation,
        }
    }

    /// Where the socket is that `id` names; nowhere if it is of another family.
    #[inline(always)]
    fn index(id: UdpSocketId) -> usize {
        (id.slot ^ F::SOCKET_MARK) as usize
    }

    fn insert(&mut self, address: Option<F>, port: u16) -> u32 {
        let mut socket = Socket {
            generation: 0,
            address,
            port,
            peer: None,
            received: Vec::new(),
            errors: Vec::new(),
            is_ready: false,
            is_open: true,
        };
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => self.sockets.len() as u32,
        };
        match self.sockets.get_mut(slot as usize) {
            Some(free) => {
                socket.generation = free.generation;
                *free = socket;
            }
            None => self.sockets.push(socket),
        }
        slot
    }

    fn ephemeral(&self, random: &mut Random) -> Option<u16> {
        let (first, last) = EPHEMERAL.into_inner();
        let count = u32::from(last - first) + 1;
        let start = random.below(count);
        (0..count)
            .map(|step| first + ((start + step) % count) as u16)
            .find(|port| {
                let port = self.port(*port);
                port.any == 0 && port.specific == 0
            })
    }

    #[inline]
    fn port(&self, port: u16) -> Port {
        match self.pages.get(usize::from(port) / PAGE) {
            Some(Some(page)) => page
                .get(usize::from(port) % PAGE)
                .copied()
                .unwrap_or_default(),
            _ => Port::default(),
        }
    }

    fn port_mut(&mut self, port: u16) -> &mut Port {
        let index = usize::from(port);
        let page =
            self.pages[index / PAGE].get_or_insert_with(|| Box::new([Port::default(); PAGE]));
        &mut page[index % PAGE]
    }
}
