//! Where a packet goes next.

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};

use super::addresses::{Addresses, ipv4, is_unicast};
use super::config::{HostConfig, HostError};

/// Routes, the longest prefix first.
#[derive(Debug)]
pub(super) struct Routes {
    routes: Vec<(Ipv4Net, Option<Ipv4Addr>)>,
}

impl Routes {
    /// The routes of the settings and those to our subnets.
    pub(super) fn new(config: &HostConfig, addresses: &Addresses) -> Result<Self, HostError> {
        let mut routes: Vec<_> = addresses.subnets().map(|net| (net, None)).collect();
        for route in &config.routes {
            let IpNet::V4(destination) = route.destination else {
                return Err(HostError::Ipv6(route.destination.addr()));
            };
            routes.push((destination.trunc(), route.gateway.map(ipv4).transpose()?));
        }
        if let Some(gateway) = config.gateway {
            routes.push((Ipv4Net::default(), Some(ipv4(gateway)?)));
        }
        // Stable: of equal prefixes the one that was named first stays first.
        routes.sort_by_key(|(net, _)| std::cmp::Reverse(net.prefix_len()));
        let routes = Routes { routes };
        for gateway in routes.routes.iter().filter_map(|(_, gateway)| *gateway) {
            if !routes.is_on_link(gateway, addresses) {
                return Err(HostError::Gateway(gateway.into()));
            }
        }
        Ok(routes)
    }

    /// The neighbour that a packet to `destination` is handed to: itself or a router.
    pub(super) fn next_hop(&self, destination: Ipv4Addr) -> Option<Ipv4Addr> {
        self.routes
            .iter()
            .find(|(net, _)| net.contains(&destination))
            .map(|(_, gateway)| gateway.unwrap_or(destination))
    }

    /// Whether `address` can be a neighbour: reached on the link, and not ours.
    pub(super) fn is_on_link(&self, address: Ipv4Addr, addresses: &Addresses) -> bool {
        is_unicast(address)
            && addresses.is_foreign_source(address)
            && (addresses.is_on_link(address)
                || self
                    .routes
                    .iter()
                    .any(|(net, gateway)| gateway.is_none() && net.contains(&address)))
    }
}
