//! What a host is told at its start, and the errors of telling it wrong.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

use crate::mac::MacAddr;

/// The settings of a [`Host`](super::Host).
///
/// From a file, every field may be left out except `mac`; unknown fields are refused.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostConfig {
    /// Our Ethernet address: unicast. There is no useful default; all zero is refused.
    pub mac: MacAddr,
    /// The longest IP packet in bytes that the link carries: 68 to 65 535, and at least 1280 if
    /// there are IPv6 addresses. Default 1500.
    /// Longer datagrams are fragmented.
    pub mtu: u16,
    /// Our addresses of both families, each with the prefix length of its subnet: every address in
    /// the subnet is reached on the link, and its last address (IPv4, up to /30) is a broadcast
    /// address. No address is made up: an IPv6 link-local one is named like any other.
    pub addresses: Vec<IpNet>,
    /// Prefixes that we own: every address in one, the first and the last too, is a host of
    /// ours, answers ARP or neighbour solicitations and receives. They say nothing about who else
    /// is on the link.
    pub owned: Vec<IpNet>,
    /// The default router; must be on the link. `None`: only subnets and `routes` are reached. That
    /// of the other family is a route to `0.0.0.0/0` or `::/0`.
    pub gateway: Option<IpAddr>,
    /// Further routes; the longest prefix wins.
    pub routes: Vec<Route>,
    /// Neighbours whose Ethernet address is known and never asked for. Over IPv6 only these, and
    /// routers among them, are reached: neighbours are not discovered.
    pub neighbors: Vec<Neighbor>,
    /// The hops that a packet of ours may take, 1 to 255: TTL and hop limit. Default 64.
    pub ttl: u8,
    /// Bounds of every table.
    pub limits: Limits,
}

impl Default for HostConfig {
    fn default() -> Self {
        HostConfig {
            mac: MacAddr::default(),
            mtu: 1500,
            addresses: Vec::new(),
            owned: Vec::new(),
            gateway: None,
            routes: Vec::new(),
            neighbors: Vec::new(),
            ttl: 64,
            limits: Limits::default(),
        }
    }
}

/// A route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The destinations that it leads to.
    pub destination: IpNet,
    /// The router, which must be on the link; `None`: the destinations are on the link.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
}

/// A static neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neighbor {
    /// Its IP address.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub mac: MacAddr,
}

/// Bounds of the tables, and the times after which their entries change. All counts are at
/// least 1; times are seconds in a file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Neighbours that are not static. Default 1024. In a full table a new one evicts another;
    /// while neighbours are being resolved, at most half the table is used for that.
    pub neighbors: usize,
    /// Frames that wait for one neighbour to answer. Default 64: a datagram of the greatest
    /// length, in fragments of 1500 bytes. A train counts as its datagrams.
    pub neighbor_queue: usize,
    /// Requests sent to a neighbour before it counts as unreachable. Default 3.
    pub neighbor_attempts: u32,
    /// Time between two requests. Default 1 s (RFC 1122, section 2.3.2.1: not more often).
    #[serde(with = "seconds")]
    pub neighbor_interval: Duration,
    /// Time for which an answer is believed; each is drawn between half and one and a half of
    /// it (RFC 4861, section 6.3.2). Default 30 s. Then the next packet asks again, while the
    /// old address is still used.
    #[serde(with = "seconds")]
    pub neighbor_reachable: Duration,
    /// Time for which an unreachable neighbour is not asked again. Default 3 s.
    #[serde(with = "seconds")]
    pub neighbor_unreachable: Duration,
    /// Memory in bytes that fragments may hold. Default 4 MiB. Beyond it the oldest datagram
    /// is given up.
    pub reassembly_memory: usize,
    /// Incomplete datagrams. Default 256. Beyond it the oldest is given up.
    pub reassembly_datagrams: usize,
    /// Incomplete datagrams of one source. Default 16. Beyond it its oldest is given up.
    pub reassembly_per_source: usize,
    /// Fragments of one datagram. Default 256, enough for the longest over any link of 300
    /// bytes or more. A datagram in more pieces is given up.
    pub reassembly_fragments: usize,
    /// Time from a datagram's first fragment until it is given up. Default 60 s, the least
    /// that RFC 1122 section 3.3.2 recommends: less to hold for an attacker.
    #[serde(with = "seconds")]
    pub reassembly_timeout: Duration,
    /// ICMP errors sent per second in the long run. Default 100.
    pub icmp_errors_per_second: u32,
    /// ICMP errors sent at once after a quiet time. Default 50.
    pub icmp_errors_burst: u32,
    /// Destinations whose path MTU is remembered. Default 256.
    pub path_mtus: usize,
    /// UDP sockets of each family. Default 65 536.
    pub sockets: usize,
    /// Datagrams that wait in one socket to be taken. Default 4096.
    pub socket_queue: usize,
    /// Packets from the host to itself that wait to be handled. Default 256.
    pub loopback: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            neighbors: 1024,
            neighbor_queue: 64,
            neighbor_attempts: 3,
            neighbor_interval: Duration::from_secs(1),
            neighbor_reachable: Duration::from_secs(30),
            neighbor_unreachable: Duration::from_secs(3),
            reassembly_memory: 4 << 20,
            reassembly_datagrams: 256,
            reassembly_per_source: 16,
            reassembly_fragments: 256,
            reassembly_timeout: Duration::from_secs(60),
            icmp_errors_per_second: 100,
            icmp_errors_burst: 50,
            path_mtus: 256,
            sockets: 65_536,
            socket_queue: 4096,
            loopback: 256,
        }
    }
}

impl Limits {
    /// The name of a setting that is zero.
    pub(super) fn zero(&self) -> Option<&'static str> {
        let Limits {
            neighbors,
            neighbor_queue,
            neighbor_attempts,
            neighbor_interval,
            neighbor_reachable,
            neighbor_unreachable: _,
            reassembly_memory,
            reassembly_datagrams,
            reassembly_per_source,
            reassembly_fragments,
            reassembly_timeout,
            icmp_errors_per_second,
            icmp_errors_burst,
            path_mtus,
            sockets,
            socket_queue,
            loopback,
        } = self;
        [
            ("neighbors", *neighbors == 0),
            ("neighbor_queue", *neighbor_queue == 0),
            ("neighbor_attempts", *neighbor_attempts == 0),
            ("neighbor_interval", neighbor_interval.is_zero()),
            ("neighbor_reachable", neighbor_reachable.is_zero()),
            ("reassembly_memory", *reassembly_memory == 0),
            ("reassembly_datagrams", *reassembly_datagrams == 0),
            ("reassembly_per_source", *reassembly_per_source == 0),
            ("reassembly_fragments", *reassembly_fragments == 0),
            ("reassembly_timeout", reassembly_timeout.is_zero()),
            ("icmp_errors_per_second", *icmp_errors_per_second == 0),
            ("icmp_errors_burst", *icmp_errors_burst == 0),
            ("path_mtus", *path_mtus == 0),
            ("sockets", *sockets == 0),
            ("socket_queue", *socket_queue == 0),
            ("loopback", *loopback == 0),
        ]
        .into_iter()
        .find_map(|(name, is_zero)| is_zero.then_some(name))
    }
}

/// Why a host can not be made from its settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// `mac` is zero or a group address.
    #[error(
        "mac {0} is not the address of one station; use a unicast one such as 02:00:00:00:00:01"
    )]
    Mac(MacAddr),
    /// `mtu` is below 68.
    #[error("mtu {0} is below 68, the least that IPv4 allows (RFC 791); 1500 is usual")]
    Mtu(u16),
    /// Neither `addresses` nor `owned` holds an address.
    #[error("the host has no address; set addresses, for example [\"10.0.0.2/24\"]")]
    NoAddress,
    /// An address or prefix can not belong to a host.
    #[error(
        "{0} can not be the address of a host; use a unicast address and, up to /30, neither the first nor the last of its subnet"
    )]
    Address(IpNet),
    /// An IPv6 address or prefix can not belong to a host.
    #[error(
        "{0} can not be the address of a host; use a unicast IPv6 address and, up to /126, not the first of its subnet, which is that of its routers"
    )]
    Ipv6Address(IpNet),
    /// `mtu` is below 1280, and there are IPv6 addresses.
    #[error(
        "mtu {0} is below 1280, the least that IPv6 allows (RFC 8200); raise it, or use IPv4 addresses only"
    )]
    Ipv6Mtu(u16),
    /// A gateway is not in a subnet of ours, or is ourselves.
    #[error(
        "gateway {0} is not on the link; it must be another host in the subnet of one of addresses"
    )]
    Gateway(IpAddr),
    /// A static neighbour's address is ours or its Ethernet address is not unicast.
    #[error(
        "neighbor {address} = {mac} can not be; it must be another host with a unicast Ethernet address"
    )]
    Neighbor {
        /// The IP address.
        address: IpAddr,
        /// The Ethernet address.
        mac: MacAddr,
    },
    /// `ttl` is 0.
    #[error("ttl 0 would let no packet leave; use 1 to 255, 64 is usual")]
    Ttl,
    /// A limit is 0.
    #[error("limits.{0} is 0; use at least 1")]
    ZeroLimit(&'static str),
}

/// Durations as seconds in files.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, de::Error};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(source: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(source)?)
            .map_err(|_| D::Error::custom("not a time in seconds, such as 0.5"))
    }
}
