//! Who waits for connections.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use hashbrown::HashTable;

use super::config::{ListenOptions, TcpOptions};
use super::flow::Flow;
use super::slab::{Key, Slab};
use super::state::ListenError;
use crate::time::Instant;

/// One listener.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) local: SocketAddr,
    pub(crate) backlog: usize,
    pub(crate) options: Arc<TcpOptions>,
    /// Connections that were not accepted yet, oldest first.
    pub(crate) ready: VecDeque<Key>,
    /// Whether it is in the event list.
    pub(crate) is_told: bool,
    /// Whether segments of no connection wait for it to be released.
    pub(crate) is_held: bool,
    /// When it last sent a SYN cookie: only then one may come back.
    pub(crate) cookie_sent: Option<Instant>,
}

impl Listener {
    pub(crate) fn is_full(&self) -> bool {
        self.ready.len() >= self.backlog
    }

    /// Whether a flow is one of those that it listens for.
    pub(crate) fn serves(&self, flow: &Flow) -> bool {
        let (ours, theirs) = (self.local, flow.local());
        let is_any = ours.ip().is_unspecified() && ours.is_ipv4() == theirs.is_ipv4();
        ours.port() == theirs.port() && (is_any || ours.ip() == theirs.ip())
    }
}

/// All listeners, by address and port. What peers ask for is looked up under a hash without a key:
/// only the application makes the entries, so peers can not make it slow.
#[derive(Debug)]
pub(crate) struct Listeners {
    slab: Slab<Listener>,
    places: HashTable<u32>,
}

/// 2^64 divided by the golden ratio: spreads neighbouring numbers (Knuth, volume 3, section 6.4).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

fn hash(address: IpAddr, port: u16) -> u64 {
    let bits = match address {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            (bits >> 64) as u64 ^ (bits as u64).rotate_left(1)
        }
    };
    let product = (bits ^ u64::from(port) << 40).wrapping_mul(SPREAD);
    product ^ product >> 32
}

impl Listeners {
    pub(crate) fn new() -> Self {
        Listeners {
            slab: Slab::new(),
            places: HashTable::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(crate) fn insert(
        &mut self,
        local: SocketAddr,
        options: ListenOptions,
    ) -> Result<Key, ListenError> {
        if local.port() == 0 {
            return Err(ListenError::NoPort);
        }
        let (address, port) = (local.ip(), local.port());
        if self.at_place(address, port).is_some() {
            return Err(ListenError::InUse(local));
        }
        let key = self.slab.insert(Listener {
            local,
            backlog: options.backlog.max(1),
            options: Arc::new(options.connection),
            ready: VecDeque::new(),
            is_told: false,
            is_held: false,
            cookie_sent: None,
        });
        let Listeners { slab, places } = self;
        places.insert_unique(hash(address, port), key.index, |index| {
            slab.at(*index)
                .map_or(0, |it| hash(it.local.ip(), it.local.port()))
        });
        Ok(key)
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<Listener> {
        self.slab.get(key)?;
        let listener = self.slab.remove(key.index)?;
        let hash = hash(listener.local.ip(), listener.local.port());
        if let Ok(entry) = self.places.find_entry(hash, |index| *index == key.index) {
            entry.remove();
        }
        Some(listener)
    }

    /// The index of the listener for a flow: the one on its address, or on any of its family.
    pub(crate) fn find(&self, flow: &Flow) -> Option<u32> {
        let local = flow.local();
        let any: IpAddr = match local {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        self.at_place(local.ip(), local.port())
            .or_else(|| self.at_place(any, local.port()))
    }

    /// The index of the listener at an address and port.
    fn at_place(&self, address: IpAddr, port: u16) -> Option<u32> {
        let is_there = |index: &u32| {
            let listener = self.slab.at(*index);
            listener.is_some_and(|it| it.local.port() == port && it.local.ip() == address)
        };
        self.places.find(hash(address, port), is_there).copied()
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut Listener> {
        self.slab.get_mut(key)
    }

    pub(crate) fn at_mut(&mut self, index: u32) -> Option<&mut Listener> {
        self.slab.at_mut(index)
    }

    pub(crate) fn at(&self, index: u32) -> Option<&Listener> {
        self.slab.at(index)
    }

    pub(crate) fn key(&self, index: u32) -> Option<Key> {
        self.slab.key(index)
    }
}
