//! Everything that must not be guessed from outside: hash keys, initial sequence numbers,
//! timestamp offsets, SYN cookies, ports. All of it follows from one seed.

use std::fmt;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use siphasher::sip::SipHasher13;

use super::flow::Flow;
use super::sequence::SeqNumber;
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

/// Hashes under a key of its own: SipHash-1-3 (Aumasson and Bernstein, 2012).
#[derive(Clone, Copy)]
struct Key(SipHasher13);

/// Says nothing: an engine that is printed does not give its keys away.
impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Key(..)")
    }
}

impl Secrets {
    pub(crate) fn new(seed: u64) -> Self {
        let mut stream = ChaCha8Rng::seed_from_u64(seed);
        let mut key = || {
            Key(SipHasher13::new_with_keys(
                stream.next_u64(),
                stream.next_u64(),
            ))
        };
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
    /// The hash of both addresses, `data` and both ports. In one piece: a hasher that takes its
    /// input bit by bit costs several times as much for a few words.
    #[inline]
    fn hash(&self, flow: &Flow, data: Option<u64>) -> u64 {
        let ports = u32::from(flow.local_port()) << 16 | u32::from(flow.remote_port());
        match (flow.addresses_v4(), data) {
            (Some((local, remote)), None) => {
                let addresses = u64::from(local.to_bits()) << 32 | u64::from(remote.to_bits());
                let mut message = [0; 12];
                message[..8].copy_from_slice(&addresses.to_le_bytes());
                message[8..].copy_from_slice(&ports.to_le_bytes());
                self.0.hash(&message)
            }
            (_, data) => {
                let mut message = [0; 45];
                message[..32].copy_from_slice(flow.as_bytes());
                message[32..40].copy_from_slice(&data.unwrap_or(0).to_le_bytes());
                message[40..44].copy_from_slice(&ports.to_le_bytes());
                message[44] = flow.is_ipv6().into();
                self.0.hash(&message)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use super::*;

    /// A flow, and those that differ from it in one field.
    fn flows(addresses: [&str; 3]) -> Vec<Flow> {
        let [local, remote, other] = addresses.map(|it| it.parse::<IpAddr>().expect("an address"));
        let flow = |local, remote, ports: (u16, u16)| {
            let local = SocketAddr::new(local, ports.0);
            Flow::new(local, SocketAddr::new(remote, ports.1))
        };
        vec![
            flow(local, remote, (80, 1024)),
            flow(other, remote, (80, 1024)),
            flow(local, other, (80, 1024)),
            flow(remote, local, (80, 1024)),
            flow(local, remote, (81, 1024)),
            flow(local, remote, (80, 1025)),
            flow(local, remote, (1024, 80)),
        ]
    }

    #[test]
    fn a_hash_depends_on_each_field_of_a_flow_on_data_and_on_the_seed() {
        let mut hashes = Vec::new();
        for seed in [1, 2] {
            let secrets = Secrets::new(seed);
            let v4 = flows(["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
            let v6 = flows(["fd00::1", "fd00::2", "fd01::1"]);
            for flow in v4.iter().chain(&v6) {
                hashes.push(secrets.table_hash(flow));
                hashes.extend([0, 1].map(|data| u64::from(secrets.cookie(flow, data))));
            }
        }
        let count = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), count);
    }

    #[test]
    fn what_is_printed_does_not_depend_on_the_seed() {
        let [one, other] = [1, 2].map(|seed| format!("{:?}", Secrets::new(seed)));
        assert_eq!(one, other);
    }
}
