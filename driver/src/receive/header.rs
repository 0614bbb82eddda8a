//! What the device wrote in front of a received frame: read here, judged by who asked.

use super::{BUFFER_START, NET_HEADER};
use crate::pool::{Pool, SLOT_STRIDE};

/// Where flags and `gso_type` are in the virtio-net header, as one word.
const FLAGS_AND_TYPE: usize = 0;
/// Where `num_buffers` is.
const NUM_BUFFERS: usize = 10;

/// The number of buffers that the frame in `slot` spans. Read once, and not trusted.
#[inline(always)]
pub(super) fn num_buffers(pool: &Pool, slot: u32) -> u16 {
    u16::from_le(word(pool, slot, NUM_BUFFERS))
}

/// The header of the frame in `slot`, copied once; `None` if it says nothing of the frame, which
/// takes one load to know.
#[inline(always)]
pub(super) fn net_header(pool: &Pool, slot: u32) -> Option<[u8; NET_HEADER]> {
    match word(pool, slot, FLAGS_AND_TYPE) {
        0 => None,
        _ => Some(copy(pool, slot)),
    }
}

#[cold]
fn copy(pool: &Pool, slot: u32) -> [u8; NET_HEADER] {
    let mut header = [0; NET_HEADER];
    for (index, room) in header.chunks_exact_mut(2).enumerate() {
        room.copy_from_slice(&word(pool, slot, 2 * index).to_ne_bytes());
    }
    header
}

/// Two bytes at `offset`, which is even and inside the header, as they lie in memory.
#[inline(always)]
fn word(pool: &Pool, slot: u32, offset: usize) -> u16 {
    debug_assert!(offset.is_multiple_of(2) && offset < NET_HEADER);
    let offset = slot as usize * SLOT_STRIDE + BUFFER_START + offset;
    // SAFETY: inside a slot of the pool, whose number the shadow of the ring gave, and even,
    // since slots start at cache lines. Volatile: the device may write at any time.
    unsafe { pool.slots().add(offset).cast::<u16>().read_volatile() }
}
