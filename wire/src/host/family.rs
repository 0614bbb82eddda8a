//! What IPv4 and IPv6 do differently where a host is asked by an application, so that sockets,
//! routes and the way from a socket to the link are written once, for an address of either.

use std::fmt::Debug;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Host;
use super::common::Outbound;
use super::output::{Outgoing, Plan};
use super::random::Random;
use super::send::Local;
use super::sockets::Sockets;
use crate::buffer::{Allocator, Buffer};
use crate::checksum::Checksum;
use crate::drops::DropReason;
use crate::time::Instant;
use crate::{ipv4, ipv6};

/// An address family, as its addresses.
pub(super) trait Family: Copy + Eq + Ord + Hash + Debug + Into<IpAddr> {
    /// An address and a port.
    type Endpoint: Copy + Eq + Debug + Into<SocketAddr>;
    /// A prefix.
    type Net: Copy + Debug;

    /// Whether it is IPv6.
    const IS_IPV6: bool;
    /// No address, or any.
    const UNSPECIFIED: Self;
    /// Bytes in an IP header without options or extensions.
    const HEADER: usize;
    /// Bytes by which the headers of a fragment are longer.
    const FRAGMENT_HEADER: usize;
    /// Set in the names of its sockets.
    const SOCKET_MARK: u32;
    /// Whether a UDP checksum may be left out (RFC 768; not by RFC 8200, section 8.1).
    const MAY_LACK_CHECKSUM: bool;
    /// Whether devices cut its datagrams into fragments (UFO; virtio 1.3, section 5.1.6.2, has it
    /// for IPv4 only).
    const HAS_UFO: bool;

    /// The endpoint with this address and `port`.
    fn endpoint(self, port: u16) -> Self::Endpoint;
    /// Address and port of an endpoint.
    fn parts(endpoint: Self::Endpoint) -> (Self, u16);
    /// `address`, if it is of this family.
    fn of(address: IpAddr) -> Option<Self>;
    /// `net`, if it is of this family, and without host bits.
    fn of_net(net: IpNet) -> Option<Self::Net>;
    /// Whether `self` is in `net`.
    fn is_in(self, net: &Self::Net) -> bool;
    /// Bits of the prefix.
    fn prefix_length(net: &Self::Net) -> u8;
    /// A hash that is cheap, and that anyone can make collide.
    fn mix(self) -> u32;
    /// The checksum of the pseudo-header, for a transport packet of `length` bytes.
    fn pseudo_header(source: Self, destination: Self, protocol: u8, length: u16) -> Checksum;

    /// The sockets of this family.
    fn sockets<B: Buffer>(host: &Host<B>) -> &Sockets<B, Self>;
    /// The sockets of this family.
    fn sockets_mut<B: Buffer>(host: &mut Host<B>) -> &mut Sockets<B, Self>;
    /// The same, and what chooses among ports.
    fn sockets_and_random<B: Buffer>(host: &mut Host<B>) -> (&mut Sockets<B, Self>, &mut Random);
    /// Whether the address is ours.
    fn is_own<B: Buffer>(self, host: &Host<B>) -> bool;
    /// Whether a datagram that is to be sent from this address is sent from the usual one.
    fn is_no_source<B: Buffer>(self, host: &Host<B>) -> bool;
    /// How a packet gets to `destination`; see [`Host::plan`].
    fn plan<A: Allocator>(
        host: &mut Host<A::Buffer>,
        now: Instant,
        destination: Self,
        pool: &mut A,
    ) -> Result<Plan<Self>, DropReason>;
    /// Sends a transport packet in one IP packet; see [`Host::output`].
    fn output<B: Buffer>(
        host: &mut Host<B>,
        plan: &Plan<Self>,
        outgoing: &Outgoing<Self>,
        packet: B,
    );
    /// Sends the pieces of a transport packet; see [`Host::output_pieces`].
    fn output_pieces<B: Buffer>(host: &mut Host<B>, plan: &Plan<Self>, outgoing: &Outgoing<Self>);
    /// Writes the headers of the common kind; see [`Host::write_run`].
    fn write_run<B: Buffer, O: Outbound<B>>(
        host: &mut Host<B>,
        now: Instant,
        local: &Local<Self>,
        burst: &mut [O],
    ) -> usize;
}

impl Family for Ipv4Addr {
    type Endpoint = SocketAddrV4;
    type Net = Ipv4Net;

    const IS_IPV6: bool = false;
    const UNSPECIFIED: Self = Ipv4Addr::UNSPECIFIED;
    const HEADER: usize = ipv4::HEADER;
    const FRAGMENT_HEADER: usize = 0;
    const SOCKET_MARK: u32 = 0;
    const MAY_LACK_CHECKSUM: bool = true;
    const HAS_UFO: bool = true;

    fn endpoint(self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self, port)
    }

    #[inline(always)]
    fn parts(endpoint: SocketAddrV4) -> (Self, u16) {
        (*endpoint.ip(), endpoint.port())
    }

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }

    fn of_net(net: IpNet) -> Option<Ipv4Net> {
        match net {
            IpNet::V4(net) => Some(net.trunc()),
            IpNet::V6(_) => None,
        }
    }

    fn is_in(self, net: &Ipv4Net) -> bool {
        net.contains(&self)
    }

    fn prefix_length(net: &Ipv4Net) -> u8 {
        net.prefix_len()
    }

    #[inline(always)]
    fn mix(self) -> u32 {
        self.to_bits()
    }

    #[inline(always)]
    fn pseudo_header(source: Self, destination: Self, protocol: u8, length: u16) -> Checksum {
        Checksum::pseudo_header(source, destination, protocol, length)
    }

    #[inline(always)]
    fn sockets<B: Buffer>(host: &Host<B>) -> &Sockets<B, Self> {
        &host.sockets
    }

    #[inline(always)]
    fn sockets_mut<B: Buffer>(host: &mut Host<B>) -> &mut Sockets<B, Self> {
        &mut host.sockets
    }

    fn sockets_and_random<B: Buffer>(host: &mut Host<B>) -> (&mut Sockets<B, Self>, &mut Random) {
        (&mut host.sockets, &mut host.random)
    }

    #[inline(always)]
    fn is_own<B: Buffer>(self, host: &Host<B>) -> bool {
        host.addresses.is_own(self)
    }

    fn is_no_source<B: Buffer>(self, host: &Host<B>) -> bool {
        self.is_unspecified() || host.addresses.is_broadcast(self)
    }

    #[inline(always)]
    fn plan<A: Allocator>(
        host: &mut Host<A::Buffer>,
        now: Instant,
        destination: Self,
        pool: &mut A,
    ) -> Result<Plan<Self>, DropReason> {
        host.plan(now, destination, pool)
    }

    #[inline(always)]
    fn output<B: Buffer>(host: &mut Host<B>, plan: &Plan, outgoing: &Outgoing, packet: B) {
        host.output(plan, outgoing, packet);
    }

    fn output_pieces<B: Buffer>(host: &mut Host<B>, plan: &Plan, outgoing: &Outgoing) {
        host.output_pieces(plan, outgoing);
    }

    #[inline(always)]
    fn write_run<B: Buffer, O: Outbound<B>>(
        host: &mut Host<B>,
        now: Instant,
        local: &Local,
        burst: &mut [O],
    ) -> usize {
        host.write_run(now, local, burst)
    }
}

impl Family for Ipv6Addr {
    type Endpoint = SocketAddrV6;
    type Net = Ipv6Net;

    const IS_IPV6: bool = true;
    const UNSPECIFIED: Self = Ipv6Addr::UNSPECIFIED;
    const HEADER: usize = ipv6::HEADER;
    const FRAGMENT_HEADER: usize = ipv6::FRAGMENT_HEADER;
    const SOCKET_MARK: u32 = 1 << 31;
    const MAY_LACK_CHECKSUM: bool = false;
    const HAS_UFO: bool = false;

    fn endpoint(self, port: u16) -> SocketAddrV6 {
        SocketAddrV6::new(self, port, 0, 0)
    }

    fn parts(endpoint: SocketAddrV6) -> (Self, u16) {
        (*endpoint.ip(), endpoint.port())
    }

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        }
    }

    fn of_net(net: IpNet) -> Option<Ipv6Net> {
        match net {
            IpNet::V6(net) => Some(net.trunc()),
            IpNet::V4(_) => None,
        }
    }

    fn is_in(self, net: &Ipv6Net) -> bool {
        net.contains(&self)
    }

    fn prefix_length(net: &Ipv6Net) -> u8 {
        net.prefix_len()
    }

    #[inline]
    fn mix(self) -> u32 {
        let bits = self.to_bits();
        let half = (bits >> 64) as u64 ^ bits as u64;
        (half >> 32) as u32 ^ half as u32
    }

    fn pseudo_header(source: Self, destination: Self, protocol: u8, length: u16) -> Checksum {
        Checksum::pseudo_header_v6(source, destination, protocol, length.into())
    }

    fn sockets<B: Buffer>(host: &Host<B>) -> &Sockets<B, Self> {
        &host.v6.sockets
    }

    fn sockets_mut<B: Buffer>(host: &mut Host<B>) -> &mut Sockets<B, Self> {
        &mut host.v6.sockets
    }

    fn sockets_and_random<B: Buffer>(host: &mut Host<B>) -> (&mut Sockets<B, Self>, &mut Random) {
        (&mut host.v6.sockets, &mut host.random)
    }

    fn is_own<B: Buffer>(self, host: &Host<B>) -> bool {
        host.v6.addresses.is_own(self)
    }

    fn is_no_source<B: Buffer>(self, _: &Host<B>) -> bool {
        self.is_unspecified() || self.is_multicast()
    }

    fn plan<A: Allocator>(
        host: &mut Host<A::Buffer>,
        now: Instant,
        destination: Self,
        _: &mut A,
    ) -> Result<Plan<Self>, DropReason> {
        host.plan_v6(now, destination)
    }

    fn output<B: Buffer>(
        host: &mut Host<B>,
        plan: &Plan<Self>,
        outgoing: &Outgoing<Self>,
        packet: B,
    ) {
        host.output_v6(plan, outgoing, packet);
    }

    fn output_pieces<B: Buffer>(host: &mut Host<B>, plan: &Plan<Self>, outgoing: &Outgoing<Self>) {
        host.output_pieces_v6(plan, outgoing);
    }

    fn write_run<B: Buffer, O: Outbound<B>>(
        _: &mut Host<B>,
        _: Instant,
        _: &Local<Self>,
        _: &mut [O],
    ) -> usize {
        0
    }
}
