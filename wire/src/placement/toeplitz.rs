//! The Toeplitz hash of receive-side scaling (virtio 1.3, section 5.1.6.4.3).
//!
//! For each bit of the input that is set, the hash takes in the 32 bits of the key that begin at
//! the same place. It is linear, so what a byte contributes is looked up in a table of its place.

use std::fmt;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// Bytes in a key: the longest input, IPv6 addresses and ports, and the 32 bits behind it.
///
/// A device whose `rss_max_key_size` is larger takes a key of this length too; longer keys only
/// add bytes that no input reaches.
pub const KEY: usize = 40;

/// Bytes in the longest input: two IPv6 addresses and two ports.
const INPUT: usize = KEY - 4;

/// The key of the verification suite that Microsoft published for RSS, which many devices and
/// tools use by default. Public, so whoever knows it can aim flows at one cpu: only for tests
/// and for comparison.
pub const DEFAULT_KEY: [u8; KEY] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// Where ports begin in the input: source and destination, over IPv4 and over IPv6.
const PORTS: [usize; 4] = [8, 10, 32, 34];

/// What a key must keep apart, see [`Toeplitz::spreads_ports`]: low bits of a port, and low bits
/// of the hash.
const SPREAD: [(u32, u32); 2] = [(10, 7), (14, 10)];

/// Keys that [`Toeplitz::from_seed`] draws. About every third is good.
const DRAWS: usize = 256;

/// A key, and the tables made from it (36 KiB).
#[derive(Clone, PartialEq, Eq)]
pub struct Toeplitz {
    key: [u8; KEY],
    tables: Box<[[u32; 256]; INPUT]>,
}

impl Toeplitz {
    /// The hash with `key`.
    pub fn new(key: [u8; KEY]) -> Self {
        let mut tables = Box::new([[0; 256]; INPUT]);
        for (table, window) in tables.iter_mut().zip(key.windows(5)) {
            let window = window
                .iter()
                .fold(0, |bits, byte| bits << 8 | u64::from(*byte));
            for (byte, entry) in table.iter_mut().enumerate() {
                *entry = (0..8)
                    .filter(|bit| byte >> bit & 1 != 0)
                    .fold(0, |hash, bit| hash ^ (window >> (bit + 1)) as u32);
            }
        }
        Toeplitz { key, tables }
    }

    /// The hash with a key drawn from `seed`: nobody who does not know the seed can aim flows at
    /// one cpu.
    ///
    /// The key is one for which [`spreads_ports`](Toeplitz::spreads_ports) holds.
    pub fn from_seed(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut key = [0; KEY];
        let mut toeplitz;
        let mut draws = 0;
        loop {
            random.fill_bytes(&mut key);
            toeplitz = Toeplitz::new(key);
            draws += 1;
            if toeplitz.spreads_ports() || draws == DRAWS {
                return toeplitz;
            }
        }
    }

    /// The key.
    pub fn key(&self) -> &[u8; KEY] {
        &self.key
    }

    /// Whether ports alone reach every bucket of usual tables: all values of the lowest 7 bits of
    /// the hash for 1024 ports in a row, and of the lowest 10 bits for the ephemeral ports.
    ///
    /// The hash is linear, so with an unlucky key a client that only changes its port stays in
    /// half of the buckets or fewer, and some cpus find no source port towards some peers.
    pub fn spreads_ports(&self) -> bool {
        PORTS.iter().all(|place| {
            SPREAD.iter().all(|(port_bits, hash_bits)| {
                self.rank(*place, *port_bits, *hash_bits) == *hash_bits
            })
        })
    }

    /// How many of the lowest `hash_bits` bits of the hash the lowest `port_bits` bits of the port
    /// at `place` can set independently.
    fn rank(&self, place: usize, port_bits: u32, hash_bits: u32) -> u32 {
        let mask = 1_u32.checked_shl(hash_bits).map_or(u32::MAX, |bit| bit - 1);
        // Each member has a leading bit that later members lack.
        let mut basis = Vec::new();
        for bit in 0..port_bits.min(16) {
            let mut input = [0; INPUT];
            for (byte, of_port) in input
                .iter_mut()
                .skip(place)
                .zip((1_u16 << bit).to_be_bytes())
            {
                *byte = of_port;
            }
            let column = self.hash(&input) & mask;
            let reduced = basis
                .iter()
                .fold(column, |rest, member| rest.min(rest ^ member));
            if reduced != 0 {
                basis.push(reduced);
            }
        }
        basis.len() as u32
    }

    /// The hash of `input`: for a received packet its source and destination address, and the
    /// source and destination port if these count, in network order. At most 36 bytes: a longer
    /// `input` does not compile.
    #[inline(always)]
    pub fn hash<const LENGTH: usize>(&self, input: &[u8; LENGTH]) -> u32 {
        self.hash_part::<0, LENGTH>(input)
    }

    /// What the bytes of an input from `START` on contribute to its hash; the hash is the
    /// exclusive or over all parts.
    #[inline(always)]
    pub(super) fn hash_part<const START: usize, const LENGTH: usize>(
        &self,
        part: &[u8; LENGTH],
    ) -> u32 {
        const {
            assert!(
                START + LENGTH <= INPUT,
                "the key is too short for this input"
            );
        }
        let mut hash = 0;
        for (byte, table) in part.iter().zip(self.tables.iter().skip(START)) {
            // A byte always finds its entry.
            hash ^= table.get(usize::from(*byte)).copied().unwrap_or(0);
        }
        hash
    }
}

impl fmt::Debug for Toeplitz {
    /// Without the key, which must not end in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Toeplitz").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
