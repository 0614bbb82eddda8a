//! Placement: which cpu owns a flow, and through which queue it sends.
//!
//! Two tables. *bucket -> cpu* ([`Buckets`]) says who owns a flow: the lowest bits of its hash
//! ([`toeplitz`]) are its bucket. *cpu -> queue* ([`Ties`]) says through which queue pair a cpu
//! sends, and who owns that queue. A device's own RSS table is their composition
//! ([`Placement::indirection_table`]). In front of the hash stand the [`Exceptions`]: sockets that
//! are not bound on every cpu.
//!
//! Everybody asks the same [`Placement`], so that a reply always returns to the cpu that it
//! answers:
//!
//! | who | asks |
//! |---|---|
//! | dispatch of received frames | [`Placement::place`], or [`Placement::place_reported`] with the hash from the device |
//! | reassembly, about the whole datagram | [`Placement::place_packet`] |
//! | connect | [`Placement::choose_source_port`] |
//! | whoever sends, and whoever is given a flow | [`Placement::owner`] of [`Flow::received_from`] |
//!
//! ```
//! use virtroupe_wire::placement::{Buckets, Flow, Placement, Ties, Toeplitz, Transport};
//!
//! // Two queue pairs for three cpus; the first cpu is given half as much as the others.
//! let (buckets, ties) = (Buckets::new(&[1, 2, 2])?, Ties::new(2, 3)?);
//! let placement = Placement::new(Toeplitz::from_seed(1), buckets, ties)?;
//!
//! let (peer, local) = ("10.0.0.2:4000".parse()?, "10.0.0.1:7".parse()?);
//! let flow = Flow::received_from(Transport::Udp, peer, local).expect("both are IPv4");
//! let cpu = placement.owner(&flow);
//! let queue = placement.ties().transmit_queue(cpu).expect("one of our cpus");
//! assert!(cpu < 3 && queue < 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod buckets;
mod class;
mod exceptions;
mod flow;
mod source_port;
mod ties;
pub mod toeplitz;

use std::net::SocketAddrV4;
use std::sync::Arc;

pub use buckets::{Buckets, LEAST_BUCKETS, MOST_BUCKETS};
pub use class::Class;
pub use exceptions::{Binding, Exceptions, MOST_BINDINGS, MOST_KEPT};
pub use flow::{Flow, Transport};
pub use source_port::{SourcePortError, SourcePortSearch};
pub use ties::Ties;
pub use toeplitz::Toeplitz;

use crate::{ethernet, ipv4};

/// Bytes of Ethernet and IPv4 headers, and the ports behind them.
const PLAIN: usize = ethernet::HEADER + ipv4::HEADER + 4;

/// Where in a frame the input of the hash begins: IPv4 addresses and ports, in this order.
const PLAIN_INPUT: usize = PLAIN - 12;

/// Why tables can not be made or changed as asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlacementError {
    /// There are no cpus.
    #[error("there are no cpus to own flows; name at least one")]
    NoCpus,
    /// There are more cpus than 16-bit numbers can tell apart.
    #[error("{0} cpus are too many; use at most 65535")]
    TooManyCpus(usize),
    /// There are no queue pairs.
    #[error("there are no queue pairs to send through; use at least one")]
    NoQueues,
    /// All weights are 0.
    #[error("every cpu has weight 0, so nobody would own a flow; give one a weight")]
    NoWeight,
    /// The number of buckets is not possible.
    #[error("{0} buckets are not possible; use a power of two from 128 to 32768")]
    BadCount(usize),
    /// A cpu is named that does not exist.
    #[error("there is no cpu {cpu}; use one below {cpus}")]
    UnknownCpu {
        /// The cpu that was named.
        cpu: u16,
        /// The number of cpus.
        cpus: u16,
    },
    /// The two tables are about different numbers of cpus.
    #[error("buckets are for {buckets} cpus, but ties for {ties}; make both for the same cpus")]
    CpusDiffer {
        /// The number of cpus in the table of buckets.
        buckets: u16,
        /// The number of cpus in the ties.
        ties: u16,
    },
    /// The limit of known bindings is reached.
    #[error("131072 local addresses and ports are bound; close some sockets")]
    TooManyBindings,
}

/// Where a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// To the cpu that owns its flow.
    Owner(u16),
    /// It is for many hosts (multicast, broadcast). This cpu owns it as a flow, if only one is to
    /// have it.
    Group(u16),
    /// It asks for a neighbour's address: one cpu must answer.
    NeighborSolicitation,
    /// It tells a neighbour's address: every cpu wants it.
    NeighborAdvertisement,
    /// It is of no flow: to [`Placement::unclassified`].
    Unclassified,
}

/// The tables and the exceptions of one shard. A clone shares the tables.
#[derive(Debug, Clone)]
pub struct Placement {
    toeplitz: Arc<Toeplitz>,
    buckets: Arc<Buckets>,
    ties: Ties,
    exceptions: Exceptions,
}

impl Placement {
    /// Placement by the two tables, with no exceptions yet.
    ///
    /// # Errors
    /// `CpusDiffer` if the tables are not about the same number of cpus.
    pub fn new(toeplitz: Toeplitz, buckets: Buckets, ties: Ties) -> Result<Self, PlacementError> {
        if buckets.cpus() != ties.cpus() {
            return Err(PlacementError::CpusDiffer {
                buckets: buckets.cpus(),
                ties: ties.cpus(),
            });
        }
        Ok(Placement {
            toeplitz: Arc::new(toeplitz),
            exceptions: Exceptions::new(buckets.cpus()),
            buckets: Arc::new(buckets),
            ties,
        })
    }

    /// The hash; a device with RSS or hash reporting is given its key.
    pub fn toeplitz(&self) -> &Toeplitz {
        &self.toeplitz
    }

    /// The table *bucket -> cpu*.
    pub fn buckets(&self) -> &Buckets {
        &self.buckets
    }

    /// The table *cpu -> queue*.
    pub fn ties(&self) -> Ties {
        self.ties
    }

    /// What comes before the hash.
    pub fn exceptions(&self) -> &Exceptions {
        &self.exceptions
    }

    /// What comes before the hash, to be told of sockets that are bound and closed.
    pub fn exceptions_mut(&mut self) -> &mut Exceptions {
        &mut self.exceptions
    }

    /// The cpu that gets what is of no flow: the owner of bucket 0, as what has no hash has hash 0.
    /// A device with RSS sends it to that cpu's queue (`unclassified_queue` in virtio 1.3, section
    /// 5.1.6.5.7.1).
    pub fn unclassified(&self) -> u16 {
        self.buckets.owner(0)
    }

    /// The cpu that owns `flow`: on which its packets are handled, and from which it is sent.
    pub fn owner(&self, flow: &Flow) -> u16 {
        self.owner_by(flow, flow.hash(&self.toeplitz))
    }

    /// The cpu that would own `flow` if it began now: as [`owner`](Placement::owner), without regard
    /// to what is [kept](Exceptions::keep).
    pub fn owner_of_new(&self, flow: &Flow) -> u16 {
        let hash = flow.hash(&self.toeplitz);
        let owner = self.buckets.owner(hash);
        flow.ports.map_or(owner, |ports| {
            let address = flow.local_address();
            let (transport, port) = (ports.transport, ports.local);
            self.exceptions
                .by_binding(transport, port, address, hash, owner)
        })
    }

    /// Where the received Ethernet frame `frame` goes. Of a chain, the first segment is enough if
    /// it holds the headers. On a host with one cpu there is nothing to ask.
    #[inline]
    pub fn place(&self, frame: &[u8]) -> Place {
        match frame
            .first_chunk::<PLAIN>()
            .and_then(|headers| self.place_plain(headers))
        {
            Some(cpu) => Place::Owner(cpu),
            None => self.place_other(frame),
        }
    }

    /// As [`place`](Placement::place), where the device reported the hash of `frame` over addresses
    /// and ports (hash types TCPv4, UDPv4, TCPv6 or UDPv6), made with the key of
    /// [`toeplitz`](Placement::toeplitz).
    ///
    /// For a frame whose ports do not count the reported hash is not used.
    pub fn place_reported(&self, frame: &[u8], hash: u32) -> Place {
        match Class::of_frame(frame) {
            Class::Flow(flow) if flow.has_ports() => Place::Owner(self.owner_by(&flow, hash)),
            class => self.place_class(class),
        }
    }

    /// Where the IPv4 or IPv6 packet `packet` goes, as when it was put together from fragments:
    /// they went by their addresses, but the whole goes by its ports.
    pub fn place_packet(&self, packet: &[u8]) -> Place {
        self.place_class(Class::of_packet(packet))
    }

    /// The queue for each value of the lowest bits of the hash: the indirection table of a device
    /// whose table has at most `most` entries (`rss_max_indirection_table_length`, virtio 1.3,
    /// section 5.1.4).
    ///
    /// It is as long as the table of buckets, so that every flow arrives on a queue of its owner,
    /// or on that to which its owner is tied. If that is too long, it is the longest power of two
    /// that fits, by the first buckets, and the others' flows have to be forwarded. The buckets
    /// of a cpu with several queues take turns. Empty if `most` is 0.
    pub fn indirection_table(&self, most: u16) -> Vec<u16> {
        let length = most.checked_ilog2().map_or(0, |bits| 1 << bits);
        let mut turns: Vec<_> = (0..self.ties.cpus())
            .map(|cpu| self.ties.owned_queues(cpu).cycle())
            .collect();
        let queue = |cpu: &u16| {
            let owned = turns.get_mut(usize::from(*cpu)).and_then(Iterator::next);
            owned.or_else(|| self.ties.transmit_queue(*cpu))
        };
        let owners = self.buckets.owners().iter().take(length);
        owners.filter_map(queue).collect()
    }

    /// Not inlined, so that the fast path saves no registers for it.
    #[inline(never)]
    fn place_other(&self, frame: &[u8]) -> Place {
        self.place_class(Class::of_frame(frame))
    }

    fn place_class(&self, class: Class) -> Place {
        match class {
            Class::Flow(flow) | Class::Error(flow) => Place::Owner(self.owner(&flow)),
            Class::Group(flow) => Place::Group(self.owner(&flow)),
            Class::NeighborSolicitation => Place::NeighborSolicitation,
            Class::NeighborAdvertisement => Place::NeighborAdvertisement,
            Class::Unclassified => Place::Unclassified,
        }
    }

    fn owner_by(&self, flow: &Flow, hash: u32) -> u16 {
        let owner = || self.buckets.owner(hash);
        match flow.ports {
            None => owner(),
            Some(ports) => {
                self.exceptions
                    .resolve(ports.transport, ports.local, || *flow, hash, owner)
            }
        }
    }

    /// The common case, read straight from the frame: UDP or TCP in a whole IPv4 packet without
    /// options, in a frame to one station and for one host. `None` for everything else.
    ///
    /// Property-tested to agree with [`Class::of_frame`].
    #[inline(always)]
    fn place_plain(&self, headers: &[u8; PLAIN]) -> Option<u16> {
        let (link, input) = headers.split_first_chunk::<PLAIN_INPUT>()?;
        let input = input.first_chunk::<12>()?;
        let kind = u32::from_be_bytes(*link.get(12..)?.first_chunk()?);
        let fragment_and_protocol = u32::from_be_bytes(*link.get(20..)?.first_chunk()?);
        let [group, ..] = *link;
        let [s0, s1, s2, s3, d0, d1, d2, d3, q0, q1, p0, p1] = *input;
        let transport = match fragment_and_protocol as u8 {
            ipv4::UDP => Transport::Udp,
            ipv4::TCP => Transport::Tcp,
            _ => return None,
        };
        let is_plain = group & 1 == 0
            // IPv4, version 4, no options; the last byte is the type of service.
            && kind >> 8 == 0x0008_0045
            // Of the flags, "don't fragment" and the reserved one do not matter.
            && fragment_and_protocol & 0x3fff_0000 == 0
            // Multicast, broadcast, and what lies between are left to the slow path.
            && d0 < 224;
        if !is_plain {
            return None;
        }
        let hash = self.toeplitz.hash(input);
        let port = u16::from_be_bytes([p0, p1]);
        let flow = || {
            let peer = SocketAddrV4::new([s0, s1, s2, s3].into(), u16::from_be_bytes([q0, q1]));
            let local = SocketAddrV4::new([d0, d1, d2, d3].into(), port);
            Flow::received_from_v4(transport, peer, local)
        };
        Some(
            self.exceptions
                .resolve(transport, port, flow, hash, || self.buckets.owner(hash)),
        )
    }
}

#[cfg(test)]
mod tests;
