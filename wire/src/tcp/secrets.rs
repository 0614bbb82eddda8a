//! Everything that must not be guessed from outside: hash keys, initial sequence numbers,
//! timestamp offsets, SYN cookies, ports. All of it follows from one seed.

use std::net::IpAddr;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::segment::Flow;
use super::sequence::SeqNumber;
use super::siphash::SipHash;
use crate::time::Instant;

/// Secrets of one engine.
#[derive(Debug)]
pub(crate) struct Secrets {
    stream: ChaCha8Rng,
    table: Key,
    /// For initial sequence numbers and timestamps: half of a hash each.
    numbers: Key,
    cookie: Key,
}

/// Key of a hash.
#[derive(Debug, Clone, Copy)]
struct Key([u64; 2]);

impl Secrets {
    pub(crate) fn new(seed: u64) -> Self {
        let mut stream = ChaCha8Rng::seed_from_u64(seed);
        let mut key = || Key([stream.next_u64(), stream.next_u64()]);
        let (table, numbers, cookie) = (key(), key(), key());
        Secrets {
            stream,
            table,
            numbers,
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
        self.table.hash(flow, None)
    }

    /// The initial sequence number of a connection that begins now (RFC 6528, section 3), a clock
    /// that ticks every 4 us and a hash of the flow; and what is added to the clock for its
    /// timestamps, as [`timestamp_offset`](Self::timestamp_offset) says it.
    pub(crate) fn first_numbers(&self, now: Instant, flow: &Flow) -> (SeqNumber, u32) {
        let clock = (now.as_nanos() / 4000) as u32;
        let hash = self.numbers.hash(flow, None);
        (SeqNumber(clock) + hash as u32, (hash >> 32) as u32)
    }

    /// What is added to the clock for the timestamps of a flow (RFC 7323, section 5.4).
    pub(crate) fn timestamp_offset(&self, flow: &Flow) -> u32 {
        (self.numbers.hash(flow, None) >> 32) as u32
    }

    /// 32 bits that only we can compute, for a SYN cookie over `flow` and `data`.
    pub(crate) fn cookie(&self, flow: &Flow, data: u64) -> u32 {
        self.cookie.hash(flow, Some(data)) as u32
    }
}

impl Key {
    /// SipHash over both addresses, `data` and both ports.
    #[inline]
    fn hash(self, flow: &Flow, data: Option<u64>) -> u64 {
        let mut hash = SipHash::new(self.0);
        let (local, remote) = (flow.local(), flow.remote());
        match (local.ip(), remote.ip()) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                hash.word(u64::from(local.to_bits()) << 32 | u64::from(remote.to_bits()));
            }
            (local, remote) => {
                for address in [local, remote] {
                    let bits = match address {
                        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
                        IpAddr::V6(address) => address.to_bits(),
                    };
                    hash.word(bits as u64);
                    hash.word((bits >> 64) as u64);
                }
            }
        }
        if let Some(data) = data {
            hash.word(data);
        }
        hash.finish(u32::from(local.port()) << 16 | u32::from(remote.port()))
    }
}
