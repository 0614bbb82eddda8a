//! The two ends that segments run between.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Both ends of a connection, as seen from here. Scope and flow label of IPv6 are no part of it.
///
/// Every segment is looked up by its flow. So it is kept as bytes, which are compared and summed
/// alike whichever family they are of.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The local and the remote address, 16 bytes each: of IPv4 four, and zeros.
    addresses: [u8; 32],
    local_port: u16,
    remote_port: u16,
    is_ipv6: bool,
}

impl Flow {
    /// The flow of nothing.
    pub(crate) const NOBODY: Flow = Flow {
        addresses: [0; 32],
        local_port: 0,
        remote_port: 0,
        is_ipv6: false,
    };

    /// The flow between `local` and `remote`. Two addresses of different families are never the
    /// ends of one: their flow is one over IPv6, whose IPv4 end is mapped (RFC 4291, section
    /// 2.5.5.2).
    pub fn new(local: SocketAddr, remote: SocketAddr) -> Self {
        Self::between((local.ip(), local.port()), (remote.ip(), remote.port()))
    }

    /// [`new`](Self::new) of addresses and ports.
    #[inline]
    pub(crate) fn between(local: (IpAddr, u16), remote: (IpAddr, u16)) -> Self {
        let mut flow = Flow {
            local_port: local.1,
            remote_port: remote.1,
            ..Self::NOBODY
        };
        let (ours, theirs) = flow.addresses.split_at_mut(16);
        match (local.0, remote.0) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                ours[..4].copy_from_slice(&local.octets());
                theirs[..4].copy_from_slice(&remote.octets());
            }
            (local, remote) => {
                ours.copy_from_slice(&as_ipv6(local).octets());
                theirs.copy_from_slice(&as_ipv6(remote).octets());
                flow.is_ipv6 = true;
            }
        }
        flow
    }

    /// Our end.
    pub fn local(&self) -> SocketAddr {
        SocketAddr::new(self.addresses().0, self.local_port)
    }

    /// The other end.
    pub fn remote(&self) -> SocketAddr {
        SocketAddr::new(self.addresses().1, self.remote_port)
    }

    /// Our port.
    pub const fn local_port(&self) -> u16 {
        self.local_port
    }

    /// The other end's port.
    pub const fn remote_port(&self) -> u16 {
        self.remote_port
    }

    /// The local and the remote address.
    #[inline]
    pub fn addresses(&self) -> (IpAddr, IpAddr) {
        match self.addresses_v4() {
            Some((local, remote)) => (local.into(), remote.into()),
            None => {
                let [local, remote] = self.halves().map(Ipv6Addr::from);
                (local.into(), remote.into())
            }
        }
    }

    /// The local and the remote address, if they are of IPv4.
    #[inline]
    pub(crate) fn addresses_v4(&self) -> Option<(Ipv4Addr, Ipv4Addr)> {
        let [local, remote] = self
            .halves()
            .map(|[a, b, c, d, ..]| Ipv4Addr::new(a, b, c, d));
        (!self.is_ipv6).then_some((local, remote))
    }

    /// Both addresses as they are kept: their sum is that of the addresses.
    #[inline]
    pub(crate) const fn as_bytes(&self) -> &[u8; 32] {
        &self.addresses
    }

    /// Whether it runs over IPv6.
    pub const fn is_ipv6(&self) -> bool {
        self.is_ipv6
    }

    /// Bytes in an IP header without options or extensions.
    pub const fn ip_header(&self) -> usize {
        match self.is_ipv6 {
            false => 20,
            true => 40,
        }
    }

    #[inline]
    fn halves(&self) -> [[u8; 16]; 2] {
        let mut halves = [[0; 16]; 2];
        halves.as_flattened_mut().copy_from_slice(&self.addresses);
        halves
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Flow")
            .field("local", &self.local())
            .field("remote", &self.remote())
            .finish()
    }
}

fn as_ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_ends_of_a_flow_are_those_that_it_was_made_of(
            v4 in any::<[(Ipv4Addr, u16); 2]>(),
            v6 in any::<[(Ipv6Addr, u16); 2]>(),
        ) {
            let ends = [v4.map(SocketAddr::from), v6.map(SocketAddr::from)];
            for [local, remote] in ends {
                let flow = Flow::new(local, remote);
                prop_assert_eq!((flow.local(), flow.remote()), (local, remote));
                prop_assert_eq!(flow.addresses(), (local.ip(), remote.ip()));
                prop_assert_eq!((flow.local_port(), flow.remote_port()), (local.port(), remote.port()));
                prop_assert_eq!(flow.ip_header(), if local.is_ipv4() { 20 } else { 40 });
                prop_assert_eq!(flow == Flow::new(remote, local), local == remote);
            }
        }
    }

    #[test]
    fn families_are_told_apart_though_their_bytes_are_the_same() {
        let v4 = Flow::new(([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 2).into());
        let [local, remote] = [1, 2].map(|last| Ipv6Addr::new(0x0a00, last, 0, 0, 0, 0, 0, 0));
        let v6 = Flow::new((local, 1).into(), (remote, 2).into());
        assert_eq!(v4.as_bytes(), v6.as_bytes());
        assert_ne!(v4, v6);
    }
}
