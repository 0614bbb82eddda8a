//! Reassembly of fragmented datagrams (RFC 791, section 3.2; RFC 8200, section 4.5), without
//! copying. The limits are for both families together.
//!
//! Limits: memory (as [`Buffer::memory`] charges it, whole slots), datagrams, datagrams of one
//! source, fragments of one datagram, and time. Where a limit is exceeded the *oldest* datagram
//! (of that source, for its limit) is given up: a flood of fragments that never become whole then
//! costs itself most, while datagrams whose fragments arrive together get through.
//!
//! A fragment that overlaps another poisons its datagram (RFC 5722, section 4; applied to IPv4 too):
//! what is there is dropped, and so is what still comes, until its time is over. An exact
//! duplicate is ignored.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use super::config::Limits;
use super::random::{KeyedHash, Random};
use crate::buffer::Buffer;
use crate::checksum;
use crate::drops::DropReason;
use crate::ipv4::{self, Ipv4Header};
use crate::ipv6;
use crate::time::Instant;

/// A fragment, as its headers describe it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    pub(super) id: u32,
    /// Where in the datagram it begins, in bytes.
    pub(super) offset: usize,
    /// Whether a further fragment follows.
    pub(super) more: bool,
    /// Bytes of headers. Those of IPv6 end with the fragment header.
    pub(super) header_length: usize,
    /// Bytes behind them.
    pub(super) length: usize,
}

impl From<&Ipv4Header> for Piece {
    fn from(header: &Ipv4Header) -> Self {
        Piece {
            source: header.source.into(),
            destination: header.destination.into(),
            protocol: header.protocol,
            id: header.id.into(),
            offset: header.fragment_offset,
            more: header.more_fragments,
            header_length: header.header_length,
            length: header.payload_length(),
        }
    }
}

/// What tells the fragments of one datagram from those of another (RFC 791, section 3.2; RFC 8200,
/// section 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    id: u32,
}

#[derive(Debug)]
struct Part<B> {
    /// Where in the datagram the payload begins and ends.
    start: usize,
    end: usize,
    /// Bytes of IP header that are still in front of the payload: only in the first part.
    header: usize,
    buffer: B,
}

#[derive(Debug)]
struct Datagram<B> {
    /// The key in `order`.
    serial: u64,
    deadline: Instant,
    /// In order of `start`; empty if the datagram is poisoned.
    parts: Vec<Part<B>>,
    /// Length of the whole payload, known from the last fragment.
    total: Option<usize>,
    /// Payload bytes in `parts`.
    have: usize,
    memory: usize,
    is_poisoned: bool,
}

/// What became of a fragment.
#[derive(Debug)]
pub(super) enum Outcome<B> {
    /// It waits for others.
    Held,
    /// It is there already.
    Duplicate,
    /// It was the last one missing: the packet, headers of its first fragment included, as if
    /// it had never been fragmented (of IPv6 as an atomic fragment, RFC 6946), and the number of
    /// its fragments.
    Whole(B, u64),
    /// It was dropped, and with it `fragments` - 1 that were held.
    Dropped { reason: DropReason, fragments: u64 },
}

/// A datagram whose time is over.
#[derive(Debug)]
pub(super) struct Expired<B> {
    /// Fragments that were held.
    pub(super) fragments: u64,
    /// The first fragment with its IP header, if it had arrived.
    pub(super) first: Option<B>,
}

/// Incomplete datagrams.
#[derive(Debug)]
pub(super) struct Reassembly<B> {
    datagrams: HashMap<Key, Datagram<B>, KeyedHash>,
    /// The keys by age: all have the same time to live, so this is the order of deadlines.
    order: BTreeMap<u64, Key>,
    sources: HashMap<IpAddr, usize, KeyedHash>,
    serial: u64,
    memory: usize,
    most_memory: usize,
    most_datagrams: usize,
    most_per_source: usize,
    most_fragments: usize,
    timeout: Duration,
}

impl<B: Buffer> Reassembly<B> {
    pub(super) fn new(limits: &Limits, random: &mut Random) -> Self {
        Reassembly {
            datagrams: HashMap::with_hasher(random.hasher()),
            order: BTreeMap::new(),
            sources: HashMap::with_hasher(random.hasher()),
            serial: 0,
            memory: 0,
            most_memory: limits.reassembly_memory,
            most_datagrams: limits.reassembly_datagrams,
            most_per_source: limits.reassembly_per_source,
            most_fragments: limits.reassembly_fragments,
            timeout: limits.reassembly_timeout,
        }
    }

    /// Bytes of memory that fragments hold.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    /// Adds the fragment `piece`: an IP packet of exactly so many bytes. Returns what became of it,
    /// and how many fragments of other datagrams were given up for it.
    pub(super) fn add(&mut self, now: Instant, piece: &Piece, mut packet: B) -> (Outcome<B>, u64) {
        let start = piece.offset;
        let end = start + piece.length;
        if !is_plausible(piece, end) {
            return (Outcome::dropped(DropReason::Malformed), 0);
        }
        let key = Key {
            source: piece.source,
            destination: piece.destination,
            protocol: piece.protocol,
            id: piece.id,
        };
        let kept_header = if start == 0 { piece.header_length } else { 0 };
        if start != 0 {
            packet.trim_front(piece.header_length);
        }
        let part = Part {
            start,
            end,
            header: kept_header,
            buffer: packet,
        };
        let mut given_up = self.make_room(now, key);
        let outcome = self.insert(key, part, !piece.more);
        while self.memory > self.most_memory {
            given_up += self.give_up_oldest();
        }
        (outcome, given_up)
    }

    /// When the oldest datagram's time is over.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let key = self.order.values().next()?;
        self.datagrams.get(key).map(|datagram| datagram.deadline)
    }

    /// A datagram whose time is over at `now`; called until it returns `None`.
    pub(super) fn expire(&mut self, now: Instant) -> Option<Expired<B>> {
        if self.next_deadline()? > now {
            return None;
        }
        let key = *self.order.values().next()?;
        let datagram = self.remove(&key)?;
        let fragments = datagram.parts.len() as u64;
        let first = datagram.parts.into_iter().next();
        Some(Expired {
            fragments,
            first: first.filter(|part| part.start == 0).map(|part| part.buffer),
        })
    }

    /// Makes an entry for `key` if there is none. Returns how many fragments were given up.
    fn make_room(&mut self, now: Instant, key: Key) -> u64 {
        if self.datagrams.contains_key(&key) {
            return 0;
        }
        let mut given_up = 0;
        let of_source = self.sources.get(&key.source).copied().unwrap_or(0);
        if of_source >= self.most_per_source {
            let oldest = self.order.values().find(|other| other.source == key.source);
            given_up += oldest.copied().map_or(0, |oldest| self.give_up(&oldest));
        }
        if self.datagrams.len() >= self.most_datagrams {
            given_up += self.give_up_oldest();
        }
        self.serial += 1;
        self.order.insert(self.serial, key);
        *self.sources.entry(key.source).or_insert(0) += 1;
        self.datagrams.insert(
            key,
            Datagram {
                serial: self.serial,
                deadline: now + self.timeout,
                parts: Vec::new(),
                total: None,
                have: 0,
                memory: 0,
                is_poisoned: false,
            },
        );
        given_up
    }

    fn insert(&mut self, key: Key, part: Part<B>, is_last: bool) -> Outcome<B> {
        let Some(datagram) = self.datagrams.get_mut(&key) else {
            return Outcome::dropped(DropReason::FragmentLimit);
        };
        if datagram.is_poisoned {
            return Outcome::dropped(DropReason::FragmentOverlap);
        }
        let at = datagram
            .parts
            .partition_point(|other| other.start < part.start);
        if datagram
            .parts
            .get(at)
            .is_some_and(|other| other.is_same(&part))
        {
            return Outcome::Duplicate;
        }
        let reason = if datagram.contradicts(at, &part, is_last) {
            DropReason::FragmentOverlap
        } else if datagram.parts.len() >= self.most_fragments {
            DropReason::FragmentLimit
        } else {
            let memory = part.buffer.memory();
            datagram.memory += memory;
            self.memory += memory;
            datagram.have += part.end - part.start;
            if is_last {
                datagram.total = Some(part.end);
            }
            datagram.parts.insert(at, part);
            if datagram.total != Some(datagram.have) {
                return Outcome::Held;
            }
            return self.finish(&key);
        };
        let fragments = 1 + datagram.parts.len() as u64;
        self.memory = self.memory.saturating_sub(datagram.memory);
        datagram.memory = 0;
        datagram.parts = Vec::new();
        datagram.is_poisoned = true;
        Outcome::Dropped { reason, fragments }
    }

    /// Joins the parts of a datagram that has them all.
    fn finish(&mut self, key: &Key) -> Outcome<B> {
        let Some(datagram) = self.remove(key) else {
            return Outcome::Held;
        };
        let fragments = datagram.parts.len() as u64;
        let too_big = Outcome::Dropped {
            reason: DropReason::TooBig,
            fragments,
        };
        let mut parts = datagram.parts.into_iter();
        let Some(mut first) = parts.next() else {
            return too_big;
        };
        let total = first.header + datagram.have;
        // The length field of IPv6 does not count the header in front of it.
        let counted = match key.source {
            IpAddr::V4(_) => total,
            IpAddr::V6(_) => total.saturating_sub(ipv6::HEADER),
        };
        let Ok(counted) = u16::try_from(counted) else {
            return too_big;
        };
        if let Some(header) = first.buffer.head_mut().get_mut(..first.header) {
            match key.source {
                IpAddr::V4(_) => make_whole(header, counted),
                IpAddr::V6(_) => make_atomic(header, counted),
            }
        }
        let mut packet = first.buffer;
        for part in parts {
            packet.append(part.buffer);
        }
        Outcome::Whole(packet, fragments)
    }

    fn give_up_oldest(&mut self) -> u64 {
        let oldest = self.order.values().next().copied();
        oldest.map_or(0, |key| self.give_up(&key))
    }

    fn give_up(&mut self, key: &Key) -> u64 {
        self.remove(key)
            .map_or(0, |datagram| datagram.parts.len() as u64)
    }

    fn remove(&mut self, key: &Key) -> Option<Datagram<B>> {
        let datagram = self.datagrams.remove(key)?;
        self.order.remove(&datagram.serial);
        self.memory = self.memory.saturating_sub(datagram.memory);
        if let Some(count) = self.sources.get_mut(&key.source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&key.source);
            }
        }
        Some(datagram)
    }
}

impl<B> Outcome<B> {
    fn dropped(reason: DropReason) -> Self {
        Outcome::Dropped {
            reason,
            fragments: 1,
        }
    }
}

impl<B: Buffer> Part<B> {
    /// Whether `other` has the same range and bytes. Chains are not compared: not the same.
    fn is_same(&self, other: &Part<B>) -> bool {
        (self.start, self.end) == (other.start, other.end)
            && !self.buffer.is_chain()
            && !other.buffer.is_chain()
            && self.buffer.head().get(self.header..) == other.buffer.head().get(other.header..)
    }
}

impl<B> Datagram<B> {
    /// Whether `part`, to be inserted at `at`, overlaps another or disagrees about the end.
    fn contradicts(&self, at: usize, part: &Part<B>, is_last: bool) -> bool {
        let before = at.checked_sub(1).and_then(|before| self.parts.get(before));
        let after = self.parts.get(at);
        before.is_some_and(|other| other.end > part.start)
            || after.is_some_and(|other| other.start < part.end)
            || self.total.is_some_and(|total| part.end > total || is_last)
            || (is_last && self.parts.last().is_some_and(|other| other.end > part.end))
    }
}

/// A fragment that is not the last holds a multiple of 8 bytes and at least 8 (RFC 791, section
/// 3.2; RFC 8200, section 4.5), and no datagram is longer than its length field can say.
fn is_plausible(piece: &Piece, end: usize) -> bool {
    let most = match piece.source {
        IpAddr::V4(_) => ipv4::MAX_PACKET - ipv4::HEADER,
        IpAddr::V6(_) => ipv6::MAX_PAYLOAD,
    };
    piece.length > 0 && (!piece.more || piece.length.is_multiple_of(8)) && end <= most
}

/// Turns the headers of a first fragment of IPv6, the fragment header at their end, into those of
/// the whole packet, of which the length field says `length`.
fn make_atomic(headers: &mut [u8], length: u16) {
    if let Some(field) = headers.get_mut(4..6) {
        field.copy_from_slice(&length.to_be_bytes());
    }
    if let Some([_, _, o0, o1, ..]) = headers.last_chunk_mut::<{ ipv6::FRAGMENT_HEADER }>() {
        [*o0, *o1] = [0, 0];
    }
}

/// Turns the header of a first fragment into that of the whole packet of `total` bytes.
fn make_whole(header: &mut [u8], total: u16) {
    let [total_high, total_low] = total.to_be_bytes();
    for (index, byte) in [
        (2, total_high),
        (3, total_low),
        (6, 0),
        (7, 0),
        (10, 0),
        (11, 0),
    ] {
        if let Some(field) = header.get_mut(index) {
            *field = byte;
        }
    }
    let sum = checksum::checksum(header).to_be_bytes();
    if let Some(field) = header.get_mut(10..12) {
        field.copy_from_slice(&sum);
    }
}
