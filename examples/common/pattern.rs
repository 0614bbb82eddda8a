//! A stream of bytes that can be checked wherever it is looked at: byte `i` is `i % 251`, which
//! repeats at no power of two, so that pieces that change places are noticed.

use std::sync::LazyLock;

use bytes::Bytes;

/// The period of the pattern.
const PERIOD: usize = 251;
/// Bytes in a piece, at most.
const LONGEST: usize = 64 << 10;

static PATTERN: LazyLock<Bytes> = LazyLock::new(|| {
    (0..PERIOD + LONGEST)
        .map(|at| (at % PERIOD) as u8)
        .collect()
});

/// The bytes of the stream from `position` on: up to `most`, or 64 KiB. Copies nothing.
pub fn piece(position: u64, most: u64) -> Bytes {
    let start = (position % PERIOD as u64) as usize;
    PATTERN.slice(start..start + most.min(LONGEST as u64) as usize)
}
