//! Who waits for connections.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::config::{ListenOptions, TcpOptions};
use super::segment::Flow;
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
}

/// All listeners, by address and port. Few are made and removed, by the application only, so
/// the standard table will do.
#[derive(Debug)]
pub(crate) struct Listeners {
    slab: Slab<Listener>,
    places: HashMap<(IpAddr, u16), u32>,
}

impl Listeners {
    pub(crate) fn new() -> Self {
        Listeners {
            slab: Slab::new(),
            places: HashMap::new(),
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
        let place = (local.ip(), local.port());
        if self.places.contains_key(&place) {
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
        self.places.insert(place, key.index);
        Ok(key)
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<Listener> {
        self.slab.get(key)?;
        let listener = self.slab.remove(key.index)?;
        self.places
            .remove(&(listener.local.ip(), listener.local.port()));
        Some(listener)
    }

    /// The index of the listener for a flow: the one on its address, or on any of its family.
    pub(crate) fn find(&self, flow: &Flow) -> Option<u32> {
        let local = flow.local();
        let any: IpAddr = match local {
            SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let exact = self.places.get(&(local.ip(), local.port()));
        exact
            .or_else(|| self.places.get(&(any, local.port())))
            .copied()
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
