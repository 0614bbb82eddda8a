//! Which IPv4 addresses are ours, which are broadcast, and which can be a source.

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};

use super::config::HostError;

/// Our addresses, subnets and owned prefixes.
#[derive(Debug)]
pub(super) struct Addresses {
    /// Our addresses, each with its subnet.
    own: Vec<Ipv4Net>,
    /// The first and last address of each subnet up to /30, which are no host's.
    edges: Vec<[Ipv4Addr; 2]>,
    /// Prefixes of which every address is ours.
    owned: Vec<Ipv4Net>,
    /// `own` and `owned` for `is_own`, which every packet asks.
    masks: Vec<Masked>,
}

/// A prefix as the test for it wants it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Masked {
    mask: u32,
    network: u32,
}

impl Masked {
    /// No address.
    pub(super) const NONE: Masked = Masked {
        mask: 0,
        network: 1,
    };

    #[inline(always)]
    pub(super) fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask == self.network
    }
}

/// What a destination is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An address of ours.
    Own,
    /// Limited broadcast, or directed broadcast of a subnet of ours.
    Broadcast,
    /// A host that may be elsewhere.
    Other,
    /// No host: "this network", loopback, multicast or reserved.
    Invalid,
}

impl Addresses {
    /// Checks the IPv4 addresses of the settings.
    pub(super) fn new(addresses: &[IpNet], owned: &[IpNet]) -> Result<Self, HostError> {
        let own = addresses.iter().filter_map(ipv4_net).map(own_address);
        let own = own.collect::<Result<Vec<_>, _>>()?;
        let edges = own.iter().filter(|own| own.prefix_len() <= 30);
        let edges = edges.map(|own| [own.network(), own.broadcast()]).collect();
        let owned = owned.iter().filter_map(ipv4_net).map(owned_prefix);
        let owned: Vec<_> = owned.collect::<Result<_, _>>()?;
        let single = |own: &Ipv4Net| Masked {
            mask: u32::MAX,
            network: own.addr().to_bits(),
        };
        let whole = |owned: &Ipv4Net| Masked {
            mask: owned.netmask().to_bits(),
            network: owned.network().to_bits(),
        };
        let masks = own
            .iter()
            .map(single)
            .chain(owned.iter().map(whole))
            .collect();
        Ok(Addresses {
            own,
            edges,
            owned,
            masks,
        })
    }

    /// Whether `address` is ours.
    #[inline]
    pub(super) fn is_own(&self, address: Ipv4Addr) -> bool {
        self.masks.iter().any(|own| own.contains(address))
    }

    /// The prefix of ours that `address` is in, for [`is_own_like`](Self::is_own_like).
    #[inline]
    pub(super) fn owner(&self, address: Ipv4Addr) -> Option<Masked> {
        self.masks.iter().copied().find(|own| own.contains(address))
    }

    /// [`is_own`](Self::is_own), quickly if `owner` owns it.
    #[inline(always)]
    pub(super) fn is_own_like(&self, owner: Masked, address: Ipv4Addr) -> bool {
        owner.contains(address) || self.is_own(address)
    }

    /// What `address` is. An owned prefix wins over the broadcast address of a subnet.
    #[inline]
    pub(super) fn kind(&self, address: Ipv4Addr) -> Kind {
        if self.is_own(address) {
            Kind::Own
        } else if self.is_broadcast(address) {
            Kind::Broadcast
        } else if is_unicast(address) {
            Kind::Other
        } else {
            Kind::Invalid
        }
    }

    /// Whether `address` is the limited broadcast address, or that of a subnet of ours
    /// (RFC 1122, section 3.2.1.3). Subnets of /31 (RFC 3021) and /32 have none.
    pub(super) fn is_broadcast(&self, address: Ipv4Addr) -> bool {
        address == Ipv4Addr::BROADCAST || self.edges.iter().any(|[_, last]| *last == address)
    }

    /// Whether another host can have sent a packet from `address` (RFC 1122, section 3.2.1.3):
    /// unicast, not ours, not a subnet's first or last address.
    #[inline]
    pub(super) fn is_foreign_source(&self, address: Ipv4Addr) -> bool {
        is_unicast(address) && !self.is_own(address) && !self.is_subnet_edge(address)
    }

    /// The address that we send from towards `next_hop`: ours in its subnet, else our first.
    pub(super) fn source_for(&self, next_hop: Ipv4Addr) -> Option<Ipv4Addr> {
        self.own
            .iter()
            .filter(|own| own.contains(&next_hop))
            .max_by_key(|own| own.prefix_len())
            .or(self.own.first())
            .map(Ipv4Net::addr)
            .or_else(|| self.owned.first().map(Ipv4Net::network))
    }

    /// Whether we have no IPv4 address.
    pub(super) fn is_empty(&self) -> bool {
        self.masks.is_empty()
    }

    /// Our subnets.
    pub(super) fn subnets(&self) -> impl Iterator<Item = Ipv4Net> + '_ {
        self.own.iter().map(Ipv4Net::trunc)
    }

    #[inline]
    fn is_subnet_edge(&self, address: Ipv4Addr) -> bool {
        self.edges.iter().any(|edges| edges.contains(&address))
    }
}

/// Whether a host can have `address`: not 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/4 or 240.0.0.0/4.
#[inline]
pub(super) fn is_unicast(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first != 0 && first != 127 && first < 224
}

fn ipv4_net(net: &IpNet) -> Option<Ipv4Net> {
    match net {
        IpNet::V4(net) => Some(*net),
        IpNet::V6(_) => None,
    }
}

fn own_address(own: Ipv4Net) -> Result<Ipv4Net, HostError> {
    let is_edge =
        own.prefix_len() <= 30 && (own.addr() == own.network() || own.addr() == own.broadcast());
    if is_edge || !is_unicast(own.addr()) {
        return Err(HostError::Address(own.into()));
    }
    Ok(own)
}

fn owned_prefix(net: Ipv4Net) -> Result<Ipv4Net, HostError> {
    let owned = net.trunc();
    if !is_unicast(owned.network()) || !is_unicast(owned.broadcast()) {
        return Err(HostError::Address(net.into()));
    }
    // 100.0.0.0/2 and the like begin and end well but contain 127.0.0.0/8.
    if owned.contains(&Ipv4Addr::LOCALHOST) {
        return Err(HostError::Address(net.into()));
    }
    Ok(owned)
}
