//! IPv6 in a host (RFC 8200, 4291, 4443): what it needs besides the parts that serve both
//! families, which the module `family` ties to it.
//!
//! ```text
//! frame -> receive (header, extensions, fragments) -> icmp  -> neighbors (solicitations)
//!                                                  -> UDP, TCP: as over IPv4
//! datagram, segment -> output (route, static neighbour, header, fragments) -> transmit()
//! ```
//!
//! Neighbours are those of the settings: nobody is asked for an address, and no router is listened
//! to. Others find us, since solicitations for our addresses are answered.

mod addresses;
mod icmp;
mod neighbors;
mod output;
mod receive;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::Ipv6Net;

use super::config::{HostConfig, HostError, Neighbor};
use super::neighbors::{NeighborEntry, NeighborState};
use super::paths::PathCache;
use super::random::{KeyedHash, Random};
use super::routes::Routes;
use super::sockets::Sockets;
use crate::ipv6;
use crate::mac::MacAddr;
use addresses::Addresses;

pub(super) use receive::report_timeout;

/// What a host keeps for IPv6 alone.
#[derive(Debug)]
pub(super) struct Ipv6<B> {
    pub(super) addresses: Addresses,
    routes: Routes<Ipv6Addr>,
    /// Fixed from the start.
    neighbors: HashMap<Ipv6Addr, MacAddr, KeyedHash>,
    pub(super) paths: PathCache<Ipv6Addr>,
    pub(super) sockets: Sockets<B, Ipv6Addr>,
}

impl<B> Ipv6<B> {
    /// Checks what the settings say of IPv6.
    pub(super) fn new(config: &HostConfig, random: &mut Random) -> Result<Self, HostError> {
        let addresses = Addresses::new(&config.addresses, &config.owned)?;
        if !addresses.is_empty() && usize::from(config.mtu) < ipv6::MIN_MTU {
            return Err(HostError::Ipv6Mtu(config.mtu));
        }
        let routes = Routes::new(config, addresses.subnets(), Ipv6Net::default(), |address| {
            addresses.is_foreign_source(address)
        })?;
        let mut neighbors = HashMap::with_hasher(random.hasher());
        for Neighbor { address, mac } in &config.neighbors {
            let IpAddr::V6(ip) = *address else {
                continue;
            };
            if !mac.is_unicast() || !addresses.is_foreign_source(ip) {
                return Err(HostError::Neighbor {
                    address: *address,
                    mac: *mac,
                });
            }
            neighbors.insert(ip, *mac);
        }
        Ok(Ipv6 {
            addresses,
            routes,
            neighbors,
            paths: PathCache::new(),
            sockets: Sockets::new(&config.limits, random),
        })
    }

    /// Every neighbour, in no particular order.
    pub(super) fn neighbors(&self) -> impl Iterator<Item = NeighborEntry> + '_ {
        self.neighbors.iter().map(|(address, mac)| NeighborEntry {
            address: (*address).into(),
            mac: Some(*mac),
            state: NeighborState::Static,
        })
    }

    /// The address of ours from which packets to `destination` are sent, if they can be.
    pub(super) fn source_for(&self, destination: Ipv6Addr) -> Option<Ipv6Addr> {
        if self.addresses.is_own(destination) {
            return Some(destination);
        }
        if !ipv6::is_unicast(destination) {
            return None;
        }
        self.routes.next_hop(destination)?;
        self.addresses.source_for(destination)
    }
}
