//! The port registry: which local addresses and ports are bound, over all cpus.
//!
//! It is touched on bind, connect and close only. The data path of each cpu asks its own shard.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use tokio::sync::watch;
use virtroupe_wire::placement::{Binding, Transport};

/// The bound addresses of one stack; clones share it.
#[derive(Debug, Clone, Default)]
pub struct PortRegistry {
    ports: Arc<DashMap<(Transport, u16), Vec<Entry>>>,
    /// The number of the next entry.
    next: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Entry {
    address: IpAddr,
    cpu: u16,
    sharing: Sharing,
    /// Tells this entry from others of the same address and cpu, that were closed before.
    id: u64,
    /// Ends when the entry does; there from when its socket was closed.
    closing: Option<watch::Receiver<()>>,
}

/// Why an address can not be reserved.
#[derive(Debug)]
pub struct Taken {
    /// Who has it.
    pub cpu: u16,
    /// If its socket was closed, and not every cpu knows that yet: ends when the address is free.
    pub closing: Option<watch::Receiver<()>>,
}

/// With whom a socket shares its local address and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// With nobody: this cpu gets every flow.
    Alone,
    /// With sockets of other cpus, one each: every cpu gets the flows that it owns.
    PerCpu,
    /// With nobody; only the flow from its peer is its own, and its port was chosen so that this
    /// cpu owns that flow.
    Connected,
    /// With other flows from the same port, to other peers; with no socket of another cpu that
    /// would get what arrives for it.
    Flow,
}

/// A bound address; dropping it frees the address.
#[derive(Debug)]
pub struct Reservation {
    registry: PortRegistry,
    binding: Binding,
    sharing: Sharing,
    id: u64,
    closing: Option<watch::Sender<()>>,
}

impl PortRegistry {
    /// Reserves `binding` for `cpu`.
    ///
    /// # Errors
    /// When the address is bound and not both share it per cpu, or when it is connected. A socket
    /// bound to one address and one bound to every address may share a port, unless one of them
    /// is connected: it would lose its flow to the other. A socket that is
    /// [closing](Reservation::start_closing) is in the way of other cpus only.
    pub fn reserve(
        &self,
        binding: Binding,
        cpu: u16,
        sharing: Sharing,
    ) -> Result<Reservation, Taken> {
        let mut entries = self
            .ports
            .entry((binding.transport, binding.port))
            .or_default();
        if let Some(other) = entries
            .iter()
            .find(|other| other.excludes(binding.address, cpu, sharing))
        {
            return Err(Taken {
                cpu: other.cpu,
                closing: other.closing.clone(),
            });
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        entries.push(Entry {
            address: binding.address,
            cpu,
            sharing,
            id,
            closing: None,
        });
        Ok(Reservation {
            registry: self.clone(),
            binding,
            sharing,
            id,
            closing: None,
        })
    }

    /// Whether anything is bound at the port.
    pub fn is_used(&self, transport: Transport, port: u16) -> bool {
        self.ports.contains_key(&(transport, port))
    }

    /// Whether another cpu than `cpu` has something at the port of `binding`.
    pub fn is_elsewhere(&self, binding: Binding, cpu: u16) -> bool {
        let entries = self.ports.get(&(binding.transport, binding.port));
        entries.is_some_and(|entries| entries.iter().any(|other| other.cpu != cpu))
    }

    /// Whether a flow of `cpu` can begin at `address` and `port`: no other cpu would get what
    /// arrives for it.
    pub fn admits_flow(&self, transport: Transport, port: u16, address: IpAddr, cpu: u16) -> bool {
        let entries = self.ports.get(&(transport, port));
        entries.is_none_or(|entries| {
            let mut others = entries.iter();
            !others.any(|other| other.excludes(address, cpu, Sharing::Flow))
        })
    }

    /// How many ports are in use.
    pub fn len(&self) -> usize {
        self.ports.len()
    }

    /// Whether none is bound.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }
}

impl Entry {
    fn excludes(&self, address: IpAddr, cpu: u16, sharing: Sharing) -> bool {
        if self.cpu == cpu && self.closing.is_some() {
            // All others hear of the close before they hear of what comes after it.
            return false;
        }
        let is_same_version = self.address.is_ipv4() == address.is_ipv4();
        let overlaps = self.address.is_unspecified() || address.is_unspecified();
        match (self.sharing, sharing) {
            (Sharing::Flow, Sharing::Flow) => return false,
            (Sharing::Flow, _) | (_, Sharing::Flow) => {
                let is_reached = self.address == address || (is_same_version && overlaps);
                return self.cpu != cpu && is_reached;
            }
            _ => {}
        }
        if self.address == address {
            let both_share = self.sharing == Sharing::PerCpu && sharing == Sharing::PerCpu;
            return !both_share || self.cpu == cpu;
        }
        let is_connected = self.sharing == Sharing::Connected || sharing == Sharing::Connected;
        is_same_version && overlaps && is_connected
    }
}

impl Reservation {
    /// What is reserved.
    pub fn binding(&self) -> Binding {
        self.binding
    }

    /// With whom.
    pub fn sharing(&self) -> Sharing {
        self.sharing
    }

    /// A socket is bound to the address again that [was closed](Self::start_closing), on the same
    /// cpu.
    pub fn reopen(&mut self) {
        self.closing = None;
        let key = (self.binding.transport, self.binding.port);
        if let Some(mut entries) = self.registry.ports.get_mut(&key)
            && let Some(entry) = entries.iter_mut().find(|entry| entry.id == self.id)
        {
            entry.closing = None;
        }
    }

    /// The socket was closed; the address stays reserved until this is dropped, when every cpu
    /// knows. From now on whoever wants it can wait for that, and its own cpu may have it again.
    pub fn start_closing(&mut self) {
        let (ends, closing) = watch::channel(());
        self.closing = Some(ends);
        let key = (self.binding.transport, self.binding.port);
        if let Some(mut entries) = self.registry.ports.get_mut(&key)
            && let Some(entry) = entries.iter_mut().find(|entry| entry.id == self.id)
        {
            entry.closing = Some(closing);
        }
    }
}

/// The last field to go is `closing`: who waits for it finds the entry gone.
impl Drop for Reservation {
    fn drop(&mut self) {
        let key = (self.binding.transport, self.binding.port);
        if let Some(mut entries) = self.registry.ports.get_mut(&key) {
            entries.retain(|entry| entry.id != self.id);
        }
        self.registry
            .ports
            .remove_if(&key, |_, entries| entries.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(address: &str) -> Binding {
        Binding {
            transport: Transport::Udp,
            port: 7,
            address: address.parse().expect("an address"),
        }
    }

    #[test]
    fn an_address_is_free_again_when_its_reservation_is_dropped() {
        let registry = PortRegistry::default();
        let local = binding("10.0.0.1");
        let first = registry.reserve(local, 3, Sharing::Alone).expect("free");
        let second = registry.clone().reserve(local, 4, Sharing::Alone);
        assert_eq!(second.err().map(|taken| taken.cpu), Some(3));
        drop(first);
        assert!(registry.is_empty());
        assert!(registry.reserve(local, 4, Sharing::Alone).is_ok());
    }

    #[test]
    fn each_cpu_may_have_one_of_the_sockets_that_share_an_address() {
        let registry = PortRegistry::default();
        let any = binding("0.0.0.0");
        let _first = registry.reserve(any, 0, Sharing::PerCpu).expect("free");
        let _second = registry.reserve(any, 1, Sharing::PerCpu).expect("shared");
        assert!(registry.reserve(any, 1, Sharing::PerCpu).is_err());
        assert!(registry.reserve(any, 2, Sharing::Alone).is_err());
        let specific = registry.reserve(binding("10.0.0.1"), 2, Sharing::Alone);
        assert!(specific.is_ok(), "one address and any may share a port");
    }

    #[test]
    fn a_connected_socket_shares_its_port_with_no_socket_that_would_get_its_flow() {
        let registry = PortRegistry::default();
        let local = binding("10.0.0.1");
        let _connected = registry
            .reserve(local, 0, Sharing::Connected)
            .expect("free");
        assert!(
            registry
                .reserve(binding("0.0.0.0"), 1, Sharing::PerCpu)
                .is_err()
        );
        assert!(registry.reserve(local, 1, Sharing::Connected).is_err());
        let other = registry.reserve(binding("10.0.0.2"), 1, Sharing::Alone);
        assert!(other.is_ok());
    }

    #[test]
    fn flows_share_a_port_but_not_with_who_would_get_their_packets_elsewhere() {
        let registry = PortRegistry::default();
        let local = binding("10.0.0.1");
        let _first = registry.reserve(local, 0, Sharing::Flow).expect("free");
        let _second = registry.reserve(local, 1, Sharing::Flow).expect("shared");
        let any = binding("0.0.0.0");
        assert!(registry.reserve(any, 2, Sharing::Alone).is_err());
        drop(_second);
        let _listener = registry
            .reserve(any, 0, Sharing::Alone)
            .expect("its own cpu");
        let address = local.address;
        assert!(registry.admits_flow(Transport::Udp, 7, address, 0));
        assert!(!registry.admits_flow(Transport::Udp, 7, address, 1));
        assert!(registry.admits_flow(Transport::Tcp, 7, address, 1));
    }

    #[actix::test]
    async fn who_wants_an_address_that_is_being_closed_can_wait_for_it() {
        let registry = PortRegistry::default();
        let local = binding("10.0.0.1");
        let mut first = registry.reserve(local, 3, Sharing::Alone).expect("free");
        let taken = registry.reserve(local, 4, Sharing::Alone).err();
        assert!(taken.expect("taken").closing.is_none());
        first.start_closing();
        let taken = registry.reserve(local, 4, Sharing::Alone).err();
        let mut closing = taken.and_then(|taken| taken.closing).expect("closing");
        drop(first);
        assert!(closing.changed().await.is_err(), "it has ended");
        assert!(registry.reserve(local, 4, Sharing::Alone).is_ok());
    }

    #[test]
    fn the_cpu_that_closes_an_address_has_it_at_once_and_keeps_it() {
        let registry = PortRegistry::default();
        let local = binding("10.0.0.1");
        let mut first = registry.reserve(local, 3, Sharing::Alone).expect("free");
        first.start_closing();
        let second = registry.reserve(local, 3, Sharing::Alone).expect("free");
        drop(first);
        assert!(registry.reserve(local, 4, Sharing::Alone).is_err());
        drop(second);
        assert!(registry.is_empty());
    }
}
