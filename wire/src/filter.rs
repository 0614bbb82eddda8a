//! Which raw frames someone wants to see.

use std::net::IpAddr;

use crate::{ethernet, ipv4, ipv6};

/// Bytes in a VLAN tag: its control information and the EtherType behind it.
const TAG: usize = 4;

/// VLAN tags that are looked through; a frame with more matches by its outermost ones.
const TAGS: usize = 2;

/// Protocol numbers of IPv6 extension headers that are looked through (RFC 8200, section 4):
/// hop-by-hop options, routing, destination options.
const EXTENSIONS: [u8; 3] = [ipv6::HOP_BY_HOP, ipv6::ROUTING, ipv6::DESTINATION_OPTIONS];

/// A condition on a raw Ethernet frame.
///
/// It is total: every sequence of bytes either matches or does not, and what is too short for a
/// field does not match a condition on it. Up to two VLAN tags (802.1Q, 802.1ad) are looked
/// through. Checksums are not looked at.
///
/// ```
/// use virtroupe_wire::Filter;
/// let dns = Filter::Port(53).and(Filter::Host("10.0.0.1".parse().expect("an address")));
/// assert!(!dns.matches(b"too short"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Filter {
    /// Every frame.
    All,
    /// The EtherType behind any VLAN tags, or that of a tag itself.
    EtherType(u16),
    /// The IP protocol (over IPv4, or over IPv6 behind extension headers).
    Protocol(u8),
    /// The source or destination port of UDP or TCP. Fragments after the first have none.
    Port(u16),
    /// The source port of UDP or TCP.
    SourcePort(u16),
    /// The destination port of UDP or TCP.
    DestinationPort(u16),
    /// The source or destination address of IP, or the sender or target address of ARP.
    Host(IpAddr),
    /// What every one of these matches; of none: every frame.
    And(Vec<Filter>),
    /// What one of these matches at least; of none: no frame.
    Or(Vec<Filter>),
    /// What this does not match.
    Not(Box<Filter>),
}

impl Filter {
    /// What `self` and `other` match.
    #[must_use]
    pub fn and(self, other: Filter) -> Filter {
        Filter::And(vec![self, other])
    }

    /// What `self` or `other` matches.
    #[must_use]
    pub fn or(self, other: Filter) -> Filter {
        Filter::Or(vec![self, other])
    }

    /// What `self` does not match.
    #[must_use]
    pub fn negate(self) -> Filter {
        Filter::Not(Box::new(self))
    }

    /// Whether the Ethernet frame `frame` matches. Of a chain, its first segment is enough.
    pub fn matches(&self, frame: &[u8]) -> bool {
        match self {
            Filter::All => true,
            filter => filter.matches_fields(&Fields::parse(frame)),
        }
    }

    fn matches_fields(&self, fields: &Fields) -> bool {
        match self {
            Filter::All => true,
            Filter::EtherType(ethertype) => fields.ethertypes.contains(&Some(*ethertype)),
            Filter::Protocol(protocol) => fields.protocol == Some(*protocol),
            Filter::Port(port) => fields
                .ports
                .is_some_and(|(from, to)| from == *port || to == *port),
            Filter::SourcePort(port) => fields.ports.is_some_and(|(from, _)| from == *port),
            Filter::DestinationPort(port) => fields.ports.is_some_and(|(_, to)| to == *port),
            Filter::Host(host) => fields
                .hosts
                .is_some_and(|(from, to)| from == *host || to == *host),
            Filter::And(filters) => filters.iter().all(|filter| filter.matches_fields(fields)),
            Filter::Or(filters) => filters.iter().any(|filter| filter.matches_fields(fields)),
            Filter::Not(filter) => !filter.matches_fields(fields),
        }
    }
}

/// What conditions look at, as far as the frame has it.
#[derive(Debug, Clone, Copy, Default)]
struct Fields {
    /// Those of the tags, and the one behind them.
    ethertypes: [Option<u16>; TAGS + 1],
    protocol: Option<u8>,
    ports: Option<(u16, u16)>,
    hosts: Option<(IpAddr, IpAddr)>,
}

impl Fields {
    fn parse(frame: &[u8]) -> Self {
        let mut fields = Fields::default();
        let mut rest = frame.get(ethernet::HEADER - 2..).unwrap_or_default();
        let mut last = None;
        for field in &mut fields.ethertypes {
            let Some(([high, low], behind)) = rest.split_first_chunk::<2>() else {
                return fields;
            };
            let ethertype = u16::from_be_bytes([*high, *low]);
            *field = Some(ethertype);
            last = Some(ethertype);
            if !matches!(ethertype, ethernet::VLAN | ethernet::SERVICE_VLAN) {
                rest = behind;
                break;
            }
            // The tag's control information is skipped; the next EtherType follows it.
            rest = behind.get(TAG - 2..).unwrap_or_default();
        }
        match last {
            Some(ethernet::IPV4) => fields.parse_ipv4(rest),
            Some(ethernet::IPV6) => fields.parse_ipv6(rest),
            Some(ethernet::ARP) => {
                fields.hosts = crate::arp::ArpPacket::parse(rest)
                    .map(|packet| (packet.sender.into(), packet.target.into()));
            }
            _ => {}
        }
        fields
    }

    fn parse_ipv4(&mut self, packet: &[u8]) {
        let Some(header) = packet.first_chunk::<{ ipv4::HEADER }>() else {
            return;
        };
        let [
            first,
            _,
            _,
            _,
            _,
            _,
            f0,
            f1,
            _,
            protocol,
            _,
            _,
            addresses @ ..,
        ] = header;
        let [s0, s1, s2, s3, d0, d1, d2, d3] = *addresses;
        let header_length = usize::from(first & 0x0f) * 4;
        if first >> 4 != 4 || header_length < ipv4::HEADER {
            return;
        }
        self.protocol = Some(*protocol);
        self.hosts = Some((
            IpAddr::from([s0, s1, s2, s3]),
            IpAddr::from([d0, d1, d2, d3]),
        ));
        if f0 & 0x1f == 0 && *f1 == 0 {
            self.parse_ports(packet.get(header_length..).unwrap_or_default());
        }
    }

    fn parse_ipv6(&mut self, packet: &[u8]) {
        let Some((header, rest)) = packet.split_first_chunk::<8>() else {
            return;
        };
        let Some((source, rest)) = rest.split_first_chunk::<16>() else {
            return;
        };
        let Some((destination, mut rest)) = rest.split_first_chunk::<16>() else {
            return;
        };
        let [first, _, _, _, _, _, mut protocol, _] = *header;
        if first >> 4 != 6 {
            return;
        }
        self.hosts = Some((IpAddr::from(*source), IpAddr::from(*destination)));
        for _ in 0..ipv6::MOST_EXTENSIONS {
            let is_first = match (protocol, rest) {
                (ipv6::FRAGMENT, [_, _, o0, o1, ..]) => *o0 == 0 && o1 & 0xf8 == 0,
                _ => true,
            };
            let length = match (protocol, rest) {
                (ipv6::FRAGMENT, _) => 8,
                (kind, [_, length, ..]) if EXTENSIONS.contains(&kind) => {
                    (usize::from(*length) + 1) * 8
                }
                _ => break,
            };
            let Some(next) = rest.first() else { break };
            protocol = *next;
            rest = rest.get(length..).unwrap_or_default();
            if !is_first {
                rest = &[];
                break;
            }
        }
        self.protocol = Some(protocol);
        self.parse_ports(rest);
    }

    fn parse_ports(&mut self, segment: &[u8]) {
        if let (Some(ipv4::UDP | ipv4::TCP), [s0, s1, d0, d1, ..]) = (self.protocol, segment) {
            self.ports = Some((
                u16::from_be_bytes([*s0, *s1]),
                u16::from_be_bytes([*d0, *d1]),
            ));
        }
    }
}

#[cfg(test)]
mod tests;
