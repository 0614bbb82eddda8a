//! The port registry: which local UDP addresses are bound, over all cpus.
//!
//! It is touched on bind and close only. The data path of each cpu asks its own shard.

use std::net::SocketAddr;
use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

/// The bound addresses of one stack; clones share it.
#[derive(Debug, Clone, Default)]
pub struct PortRegistry {
    udp: Arc<DashMap<SocketAddr, u16>>,
}

/// A bound address; dropping it frees the address.
#[derive(Debug)]
pub struct Reservation {
    registry: PortRegistry,
    local: SocketAddr,
}

impl PortRegistry {
    /// Reserves `local` for `cpu`; gives the cpu that has it if it is taken.
    pub fn reserve(&self, local: SocketAddr, cpu: u16) -> Result<Reservation, u16> {
        match self.udp.entry(local) {
            Entry::Occupied(entry) => Err(*entry.get()),
            Entry::Vacant(entry) => {
                entry.insert(cpu);
                Ok(Reservation {
                    registry: self.clone(),
                    local,
                })
            }
        }
    }

    /// How many addresses are bound.
    pub fn len(&self) -> usize {
        self.udp.len()
    }

    /// Whether none is bound.
    pub fn is_empty(&self) -> bool {
        self.udp.is_empty()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.registry.udp.remove(&self.local);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_free_again_when_its_reservation_is_dropped() {
        let registry = PortRegistry::default();
        let local = "10.0.0.1:7".parse().expect("an address");
        let first = registry.reserve(local, 3).expect("free");
        assert_eq!(registry.clone().reserve(local, 4).err(), Some(3));
        drop(first);
        assert!(registry.reserve(local, 4).is_ok());
    }
}
