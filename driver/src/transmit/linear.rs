//! What a frame needs before the device can take it: segments out of its sight are copied into
//! the pool, and chains that are too long for the ring into fewer segments.

use virtroupe_wire::{Buffer, DropReason};

use crate::frame::Frame;
use crate::pool::{Pool, SLOT_ROOM};

/// Number of segments of a frame.
pub(super) fn segments(frame: &Frame) -> usize {
    let mut count = 1;
    let mut tail = frame.tail();
    while let Some(segment) = tail {
        count += 1;
        tail = segment.tail();
    }
    count
}

/// What it takes to show a frame to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Needs {
    /// Segments that the device will see.
    pub(super) segments: usize,
    /// Slots for those of them that are copies.
    pub(super) copies: usize,
    /// Whether all of the frame is copied, because it has too many segments.
    pub(super) is_linear: bool,
}

impl Needs {
    /// What `frame` needs if the device takes at most `most` segments. `sees` tells whether it
    /// sees a segment. A frame that needs more than `most` even as a copy can not be sent.
    pub(super) fn of(frame: &Frame, most: usize, sees: impl Fn(&Frame) -> bool) -> Needs {
        let mut needs = Needs {
            segments: 0,
            copies: 0,
            is_linear: false,
        };
        let mut bytes = 0;
        let mut next = Some(frame);
        while let Some(segment) = next {
            let length = segment.head().len();
            bytes += length;
            if sees(segment) {
                // An empty segment is not shown, unless it carries the header.
                needs.segments += usize::from(length > 0 || needs.segments == 0);
            } else if length > 0 || needs.segments == 0 {
                let slots = length.div_ceil(SLOT_ROOM).max(1);
                needs.segments += slots;
                needs.copies += slots;
            }
            next = segment.tail();
        }
        if needs.segments > most {
            needs.segments = bytes.div_ceil(SLOT_ROOM).max(1);
            needs.copies = needs.segments;
            needs.is_linear = true;
        }
        needs
    }
}

/// Copies all segments of `frame` into as few slots as hold them.
///
/// # Errors
/// `PoolEmpty` if the pool has not enough.
pub(super) fn gather(frame: &Frame, pool: &mut Pool) -> Result<Frame, DropReason> {
    let mut last = pool.frame().ok_or(DropReason::PoolEmpty)?;
    let mut whole = None;
    let mut enough = true;
    frame.for_each_segment(|bytes| {
        let mut rest = bytes;
        while enough && !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(last.tailroom()));
            enough = last.extend_from_slice(now);
            rest = later;
            if !rest.is_empty() {
                match pool.frame() {
                    Some(fresh) => join(&mut whole, std::mem::replace(&mut last, fresh)),
                    None => enough = false,
                }
            }
        }
    });
    join(&mut whole, last);
    whole.filter(|_| enough).ok_or(DropReason::PoolEmpty)
}

fn join(whole: &mut Option<Frame>, segment: Frame) {
    match whole {
        Some(whole) => whole.append(segment),
        None => *whole = Some(segment),
    }
}
