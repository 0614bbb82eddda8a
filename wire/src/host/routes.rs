//! Where a packet goes next.

use std::net::IpAddr;

use super::config::{HostConfig, HostError};
use super::family::Family;

/// Routes of one address family, the longest prefix first.
#[derive(Debug)]
pub(super) struct Routes<F: Family> {
    routes: Vec<(F::Net, Option<F>)>,
}

impl<F: Family> Routes<F> {
    /// The routes of the settings and those to our subnets. `is_neighbor` says whether an address
    /// can be that of a neighbour, if it is on the link.
    pub(super) fn new(
        config: &HostConfig,
        subnets: impl Iterator<Item = F::Net>,
        everywhere: F::Net,
        is_neighbor: impl Fn(F) -> bool,
    ) -> Result<Self, HostError> {
        let mut routes: Vec<_> = subnets.map(|net| (net, None)).collect();
        for route in &config.routes {
            let Some(destination) = F::of_net(route.destination) else {
                continue;
            };
            let gateway = match route.gateway {
                None => None,
                Some(gateway) => Some(F::of(gateway).ok_or(HostError::Gateway(gateway))?),
            };
            routes.push((destination, gateway));
        }
        if let Some(gateway) = config.gateway.and_then(F::of) {
            routes.push((everywhere, Some(gateway)));
        }
        // Stable: of equal prefixes the one that was named first stays first.
        routes.sort_by_key(|(net, _)| std::cmp::Reverse(F::prefix_length(net)));
        let routes = Routes { routes };
        for gateway in routes.routes.iter().filter_map(|(_, gateway)| *gateway) {
            if !(is_neighbor(gateway) && routes.is_on_link(gateway)) {
                return Err(HostError::Gateway(Into::<IpAddr>::into(gateway)));
            }
        }
        Ok(routes)
    }

    /// The neighbour that a packet to `destination` is handed to: itself or a router.
    pub(super) fn next_hop(&self, destination: F) -> Option<F> {
        self.routes
            .iter()
            .find(|(net, _)| destination.is_in(net))
            .map(|(_, gateway)| gateway.unwrap_or(destination))
    }

    /// Whether `address` is reached on the link by a route without a router.
    pub(super) fn is_on_link(&self, address: F) -> bool {
        self.routes
            .iter()
            .any(|(net, gateway)| gateway.is_none() && address.is_in(net))
    }
}
