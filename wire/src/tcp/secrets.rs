//! Everything that must not be guessed from outside: hash keys, initial sequence numbers,
//! timestamp offsets, SYN cookies, ports. All of it follows from one seed.

use std::hash::{BuildHasher, Hash, Hasher};

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::segment::Flow;
use super::sequence::SeqNumber;
use crate::time::Instant;

/// Secrets of one engine.
#[derive(Debug)]
pub(crate) struct Secrets {
    stream: ChaCha8Rng,
    table: Key,
    sequence: Key,
    timestamp: Key,
    cookie: Key,
}

/// Key of a hash.
#[derive(Debug, Clone, Copy)]
struct Key([u64; 2]);

impl Secrets {
    pub(crate) fn new(seed: u64) -> Self {
        let mut stream = ChaCha8Rng::seed_from_u64(seed);
        let mut key = || Key([stream.next_u64(), stream.next_u64()]);
        let (table, sequence, timestamp, cookie) = (key(), key(), key(), key());
        Secrets {
            stream,
            table,
            sequence,
            timestamp,
            cookie,
        }
    }

    /// A number from 0 to `bound` - 1, or 0 if `bound` is 0. The bias is below 2^-32.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        (self.stream.next_u64() % u64::from(bound.max(1))) as u32
    }

    /// Where a flow is looked for in a table.
    #[inline]
    pub(crate) fn table_hash(&self, flow: &Flow) -> u64 {
        self.table.hash(flow, 0)
    }

    /// The initial sequence number of a connection that begins now (RFC 6528, section 3): a
    /// clock that ticks every 4 us, and a hash of the flow.
    pub(crate) fn initial_sequence(&self, now: Instant, flow: &Flow) -> SeqNumber {
        let clock = (now.as_nanos() / 4000) as u32;
        SeqNumber(clock) + self.sequence.hash(flow, 0) as u32
    }

    /// What is added to the clock for the timestamps of a flow (RFC 7323, section 5.4).
    pub(crate) fn timestamp_offset(&self, flow: &Flow) -> u32 {
        self.timestamp.hash(flow, 0) as u32
    }

    /// 32 bits that only we can compute, for a SYN cookie over `flow` and `data`.
    pub(crate) fn cookie(&self, flow: &Flow, data: u64) -> u32 {
        self.cookie.hash(flow, data) as u32
    }
}

impl Key {
    /// SipHash over the key, the flow and `data`.
    fn hash(self, flow: &Flow, data: u64) -> u64 {
        let mut hasher =
            std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::new().build_hasher();
        self.0.hash(&mut hasher);
        flow.hash(&mut hasher);
        hasher.write_u64(data);
        hasher.finish()
    }
}
