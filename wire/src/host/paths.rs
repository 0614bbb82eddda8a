//! What is remembered per destination: path MTUs, and a small cache in front of routes and
//! neighbours.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::family::Family;
use super::random::{KeyedHash, Random};
use crate::mac::MacAddr;
use crate::time::Instant;
use crate::{ethernet, ipv4, ipv6};

/// A reported path MTU is forgotten after this time, so that a larger one is found again: RFC
/// 1191, section 6.3, asks for 5 minutes at least and suggests 10. It is less than the 10 minutes
/// after which a TCP connection tries a longer segment, which would be refused here otherwise.
const PATH_MTU_LIFETIME: Duration = Duration::from_secs(540);

/// No path MTU below this is believed: a forged report could make us send tiny fragments. If a
/// path is really narrower, packets go there without "don't fragment" and its routers fragment.
const LEAST_PATH_MTU: usize = 552;

/// MTUs of common links, for reports that name none (RFC 1191, section 7.1).
const PLATEAUS: [usize; 9] = [32_000, 17_914, 8166, 4352, 2002, 1492, 1006, 576, 552];

/// The MTU of the most common link that does not take a packet of `length` bytes.
pub(super) fn plateau_below(length: usize) -> Option<usize> {
    PLATEAUS.iter().copied().find(|plateau| *plateau < length)
}

/// How long a packet to some destination may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PathMtu {
    /// Bytes in an IP packet.
    pub(super) mtu: usize,
    /// Whether routers must report, rather than fragment, what is too long for them.
    pub(super) dont_fragment: bool,
}

/// Path MTUs that routers reported.
#[derive(Debug)]
pub(super) struct PathMtus {
    reports: HashMap<IpAddr, (PathMtu, Instant), KeyedHash>,
    most: usize,
    link: usize,
}

impl PathMtus {
    pub(super) fn new(most: usize, link: usize, random: &mut Random) -> Self {
        PathMtus {
            reports: HashMap::with_hasher(random.hasher()),
            most,
            link,
        }
    }

    /// The path MTU to `destination`, and when that is forgotten.
    pub(super) fn get(&self, now: Instant, destination: IpAddr) -> (PathMtu, Instant) {
        let link = PathMtu {
            mtu: self.link,
            dont_fragment: true,
        };
        let forever = Instant::from_nanos(u64::MAX);
        if self.reports.is_empty() {
            return (link, forever);
        }
        match self.reports.get(&destination) {
            Some((path, until)) if now < *until => (*path, *until),
            _ => (link, forever),
        }
    }

    /// A router reported that a packet of `length` bytes to `destination` is longer than a link
    /// of `reported` bytes (0: it did not say). Returns the path MTU if that lowers it.
    ///
    /// A report that does not fit the packet that it cites is not believed.
    pub(super) fn report(
        &mut self,
        now: Instant,
        destination: IpAddr,
        length: usize,
        reported: usize,
    ) -> Option<usize> {
        let (current, _) = self.get(now, destination);
        // What every link carries, and what we go down to. Less than IPv6 asks of every link is
        // not believed (RFC 8201, section 4), and no report leaves its MTU out.
        let (possible, least) = match destination {
            IpAddr::V4(_) => (ipv4::MIN_MTU, LEAST_PATH_MTU),
            IpAddr::V6(_) => (ipv6::MIN_MTU, ipv6::MIN_MTU),
        };
        let reported = match reported {
            0 if destination.is_ipv4() => plateau_below(length)?,
            reported => reported,
        };
        let is_plausible = reported >= possible
            && reported < length
            && length <= current.mtu
            && current.dont_fragment;
        if !is_plausible {
            return None;
        }
        let path = PathMtu {
            mtu: reported.max(least).min(current.mtu),
            dont_fragment: reported >= least,
        };
        if self.reports.len() >= self.most && !self.reports.contains_key(&destination) {
            self.evict();
        }
        self.reports
            .insert(destination, (path, now + PATH_MTU_LIFETIME));
        Some(path.mtu)
    }

    /// Forgets the report that would be forgotten first.
    fn evict(&mut self) {
        let oldest = self
            .reports
            .iter()
            .min_by_key(|(address, (_, until))| (*until, **address));
        if let Some(oldest) = oldest.map(|(address, _)| *address) {
            self.reports.remove(&oldest);
        }
    }
}

/// Everything that a packet to one destination needs, found before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path<F = Ipv4Addr> {
    pub(super) destination: F,
    /// Our address on the route.
    pub(super) source: F,
    /// The Ethernet address of the neighbour on it.
    pub(super) mac: MacAddr,
    /// The Ethernet header of a packet to it, and two bytes more, so that it is copied at once.
    pub(super) link: [u8; ethernet::HEADER + 2],
    pub(super) mtu: PathMtu,
    /// When this must be looked up again.
    pub(super) until: Instant,
    /// The generation of the neighbour table in which it was looked up.
    pub(super) generation: u64,
}

/// Paths that the cache holds. A power of two.
const PATHS: usize = 64;

/// A direct-mapped cache of paths: who makes destinations collide only makes them slower.
#[derive(Debug)]
pub(super) struct PathCache<F = Ipv4Addr> {
    paths: [Option<Path<F>>; PATHS],
}

impl<F: Family> PathCache<F> {
    pub(super) const fn new() -> Self {
        PathCache {
            paths: [None; PATHS],
        }
    }

    /// The path to `destination`, if it still holds.
    #[inline]
    pub(super) fn get(&self, now: Instant, destination: F, generation: u64) -> Option<&Path<F>> {
        let path = self.paths.get(slot(destination))?.as_ref()?;
        (path.destination == destination && path.generation == generation && now < path.until)
            .then_some(path)
    }

    pub(super) fn insert(&mut self, path: Path<F>) {
        if let Some(entry) = self.paths.get_mut(slot(path.destination)) {
            *entry = Some(path);
        }
    }

    pub(super) fn remove(&mut self, destination: F) {
        if let Some(entry) = self.paths.get_mut(slot(destination)) {
            *entry = None;
        }
    }
}

/// Fibonacci hashing: the top bits of a product.
#[inline]
fn slot<F: Family>(destination: F) -> usize {
    (destination.mix().wrapping_mul(0x9e37_79b1) >> (32 - PATHS.trailing_zeros())) as usize
}
