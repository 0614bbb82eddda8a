//! What tells one flow from another.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::toeplitz::Toeplitz;

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// UDP (RFC 768).
    Udp,
    /// TCP (RFC 9293).
    Tcp,
}

/// The packets that this host receives from one peer, by their addresses and, if they count, by
/// protocol and ports.
///
/// The hash is not symmetric: the two directions between the same ends have different hashes.
/// So a `Flow` always is the direction *towards us*. Who is about to send asks for the replies:
/// [`Flow::received_from`] takes the peer to send to first, then the local end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    pub(super) addresses: Addresses,
    pub(super) ports: Option<Ports>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Addresses {
    V4 { peer: Ipv4Addr, local: Ipv4Addr },
    V6 { peer: Ipv6Addr, local: Ipv6Addr },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    pub(super) transport: Transport,
    pub(super) peer: u16,
    pub(super) local: u16,
}

impl Flow {
    /// The packets that the socket address `local`, of this host, receives from `peer`; `None` if
    /// one is IPv4 and the other IPv6.
    pub fn received_from(
        transport: Transport,
        peer: SocketAddr,
        local: SocketAddr,
    ) -> Option<Flow> {
        match (peer, local) {
            (SocketAddr::V4(peer), SocketAddr::V4(local)) => {
                Some(Flow::received_from_v4(transport, peer, local))
            }
            (SocketAddr::V6(peer), SocketAddr::V6(local)) => {
                Some(Flow::received_from_v6(transport, peer, local))
            }
            _ => None,
        }
    }

    /// As [`received_from`](Flow::received_from), of IPv4.
    #[inline]
    pub fn received_from_v4(transport: Transport, peer: SocketAddrV4, local: SocketAddrV4) -> Flow {
        Flow {
            addresses: Addresses::V4 {
                peer: *peer.ip(),
                local: *local.ip(),
            },
            ports: Some(Ports {
                transport,
                peer: peer.port(),
                local: local.port(),
            }),
        }
    }

    /// As [`received_from`](Flow::received_from), of IPv6. Scope and flow label do not count.
    #[inline]
    pub fn received_from_v6(transport: Transport, peer: SocketAddrV6, local: SocketAddrV6) -> Flow {
        Flow {
            addresses: Addresses::V6 {
                peer: *peer.ip(),
                local: *local.ip(),
            },
            ports: Some(Ports {
                transport,
                peer: peer.port(),
                local: local.port(),
            }),
        }
    }

    /// The packets without ports (other protocols, and fragments) that the address `local`, of
    /// this host, receives from `peer`; `None` if one is IPv4 and the other IPv6.
    pub fn received_from_address(peer: IpAddr, local: IpAddr) -> Option<Flow> {
        let addresses = match (peer, local) {
            (IpAddr::V4(peer), IpAddr::V4(local)) => Addresses::V4 { peer, local },
            (IpAddr::V6(peer), IpAddr::V6(local)) => Addresses::V6 { peer, local },
            _ => return None,
        };
        Some(Flow {
            addresses,
            ports: None,
        })
    }

    /// Our address.
    pub fn local_address(&self) -> IpAddr {
        match self.addresses {
            Addresses::V4 { local, .. } => local.into(),
            Addresses::V6 { local, .. } => local.into(),
        }
    }

    /// Whether it is of IPv6.
    #[inline]
    pub fn is_ipv6(&self) -> bool {
        matches!(self.addresses, Addresses::V6 { .. })
    }

    /// Protocol and local port, and whether it is of IPv6; `None` if ports do not count.
    pub(super) fn local_end(&self) -> Option<(Transport, u16, bool)> {
        let Ports {
            transport, local, ..
        } = self.ports?;
        Some((transport, local, self.is_ipv6()))
    }

    /// The local port, if ports count.
    pub fn local_port(&self) -> Option<u16> {
        self.ports.map(|ports| ports.local)
    }

    /// Whether protocol and ports count.
    pub fn has_ports(&self) -> bool {
        self.ports.is_some()
    }

    /// The hash that a device reports for a packet of this flow: over source and destination
    /// address, and source and destination port if they count (virtio 1.3, section
    /// 5.1.6.4.3.1). UDP and TCP have the same.
    #[inline]
    pub fn hash(&self, toeplitz: &Toeplitz) -> u32 {
        let ports = self
            .ports
            .map(|ports| (ports.peer.to_be_bytes(), ports.local.to_be_bytes()));
        match self.addresses {
            Addresses::V4 { peer, local } => {
                toeplitz.hash_part::<0, 4>(&peer.octets())
                    ^ toeplitz.hash_part::<4, 4>(&local.octets())
                    ^ ports.map_or(0, |(peer, local)| {
                        toeplitz.hash_part::<8, 2>(&peer) ^ toeplitz.hash_part::<10, 2>(&local)
                    })
            }
            Addresses::V6 { peer, local } => {
                toeplitz.hash_part::<0, 16>(&peer.octets())
                    ^ toeplitz.hash_part::<16, 16>(&local.octets())
                    ^ ports.map_or(0, |(peer, local)| {
                        toeplitz.hash_part::<32, 2>(&peer) ^ toeplitz.hash_part::<34, 2>(&local)
                    })
            }
        }
    }
}
