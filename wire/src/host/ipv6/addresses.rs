//! Which IPv6 addresses are ours, which groups we are in, and which address we send from.

use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv6Net};

use super::super::config::HostError;
use crate::{ipv6, ndp};

/// The link-local prefix, which is on every link (RFC 4291, section 2.5.6).
const LINK_LOCAL: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 64);

/// The bits of an address that its solicited-node group holds.
const GROUP_BITS: u128 = 0xff_ffff;

/// Our addresses, subnets and owned prefixes.
#[derive(Debug)]
pub(in crate::host) struct Addresses {
    /// Our addresses, each with its subnet.
    own: Vec<Ipv6Net>,
    /// Prefixes of which every address is ours.
    owned: Vec<Ipv6Net>,
}

impl Addresses {
    /// Checks the IPv6 addresses of the settings.
    pub(super) fn new(addresses: &[IpNet], owned: &[IpNet]) -> Result<Self, HostError> {
        let own = addresses.iter().filter_map(ipv6_net).map(own_address);
        let owned = owned.iter().filter_map(ipv6_net).map(owned_prefix);
        Ok(Addresses {
            own: own.collect::<Result<_, _>>()?,
            owned: owned.collect::<Result<_, _>>()?,
        })
    }

    /// Whether we have no IPv6 address.
    pub(in crate::host) fn is_empty(&self) -> bool {
        self.own.is_empty() && self.owned.is_empty()
    }

    /// Whether `address` is ours.
    #[inline]
    pub(in crate::host) fn is_own(&self, address: Ipv6Addr) -> bool {
        self.own.iter().any(|own| own.addr() == address)
            || self.owned.iter().any(|owned| owned.contains(&address))
    }

    /// Whether we are in the group `address`: all nodes, or the solicited-node group of an address
    /// of ours (RFC 4291, section 2.8).
    pub(super) fn is_in_group(&self, address: Ipv6Addr) -> bool {
        if address == ndp::ALL_NODES {
            return !self.is_empty();
        }
        if ndp::solicited_node(address) != address {
            return false;
        }
        let differs = |net: &Ipv6Net, mask: u128| {
            (net.addr().to_bits() ^ address.to_bits()) & mask & GROUP_BITS != 0
        };
        self.own.iter().any(|own| !differs(own, u128::MAX))
            || self
                .owned
                .iter()
                .any(|owned| !differs(owned, owned.netmask().to_bits()))
    }

    /// Whether another host can have sent a packet from `address`.
    pub(super) fn is_foreign_source(&self, address: Ipv6Addr) -> bool {
        ipv6::is_unicast(address) && !self.is_own(address)
    }

    /// The address that we send from to `destination`: of the same scope, then the one that has
    /// most in common with it, then the first (RFC 6724, section 5, rules 2 and 8).
    pub(super) fn source_for(&self, destination: Ipv6Addr) -> Option<Ipv6Addr> {
        let is_local = |address: Ipv6Addr| LINK_LOCAL.contains(&address);
        let rank = |own: &&Ipv6Net| {
            let address = own.addr();
            let common = (address.to_bits() ^ destination.to_bits()).leading_zeros();
            (is_local(address) == is_local(destination), common)
        };
        // Of equal ones the last is taken.
        let best = self.own.iter().rev().max_by_key(rank);
        best.map(Ipv6Net::addr)
            .or_else(|| self.owned.first().map(Ipv6Net::network))
    }

    /// The subnets on our link.
    pub(super) fn subnets(&self) -> impl Iterator<Item = Ipv6Net> + '_ {
        let link_local = (!self.is_empty()).then_some(LINK_LOCAL);
        self.own.iter().map(Ipv6Net::trunc).chain(link_local)
    }
}

fn ipv6_net(net: &IpNet) -> Option<Ipv6Net> {
    match net {
        IpNet::V6(net) => Some(*net),
        IpNet::V4(_) => None,
    }
}

/// The first address of a subnet is that of its routers (RFC 4291, section 2.6.1; not of a /127,
/// RFC 6164).
fn own_address(own: Ipv6Net) -> Result<Ipv6Net, HostError> {
    let is_routers = own.prefix_len() < 127 && own.addr() == own.network();
    if is_routers || !ipv6::is_unicast(own.addr()) {
        return Err(HostError::Ipv6Address(own.into()));
    }
    Ok(own)
}

/// A prefix in which every address can be a host's: nothing near ::/8 or ff00::/8.
fn owned_prefix(net: Ipv6Net) -> Result<Ipv6Net, HostError> {
    let owned = net.trunc();
    let [first, ..] = owned.network().octets();
    let [last, ..] = owned.broadcast().octets();
    if first == 0 || last == 0xff {
        return Err(HostError::Ipv6Address(net.into()));
    }
    Ok(owned)
}
