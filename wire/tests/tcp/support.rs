//! What all tests of TCP share: engines, payload, and random numbers from a seed.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use virtroupe_wire::tcp::{TcpConfig, TcpEngine, TcpOptions};
use virtroupe_wire::{HeapBuffer, Instant};

pub type Engine = TcpEngine<HeapBuffer, Bytes>;

pub fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// When the tests begin.
pub const START: Instant = Instant::from_nanos(1_000_000_000);

/// The family of the addresses in a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// The family that tests use which are not of both: each of the two programs of these tests has
/// its own.
pub use crate::FAMILY;

/// Bytes of the IP and TCP headers of a segment without options.
pub const HEADERS: u16 = match FAMILY {
    Family::V4 => 40,
    Family::V6 => 60,
};

/// Port `port` of host `host`.
pub fn address(family: Family, host: u8, port: u16) -> SocketAddr {
    match family {
        Family::V4 => ([10, 0, 0, host], port).into(),
        Family::V6 => ([0xfd00, 0, 0, 0, 0, 0, 0, host.into()], port).into(),
    }
}

pub fn engine(seed: u64) -> Engine {
    TcpEngine::new(TcpConfig::default(), seed)
}

pub fn options() -> TcpOptions {
    TcpOptions::default()
}

/// Numbers that follow from a seed.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        let mut random = Random(seed ^ 0x9e37_79b9_7f4a_7c15);
        random.next();
        random
    }

    pub fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Whether something happens whose probability is `probability`.
    pub fn happens(&mut self, probability: f64) -> bool {
        (self.next() >> 11) as f64 / ((1_u64 << 53) as f64) < probability
    }
}

/// The byte at `offset` of stream `stream`.
pub fn byte(stream: u64, offset: u64) -> u8 {
    let mixed = (offset ^ stream.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x2545_f491_4f6c_dd1d);
    (mixed >> 56) as u8
}

/// `length` bytes of stream `stream` from `offset` on.
pub fn content(stream: u64, offset: u64, length: usize) -> Bytes {
    (offset..offset + length as u64)
        .map(|offset| byte(stream, offset))
        .collect::<Vec<u8>>()
        .into()
}
