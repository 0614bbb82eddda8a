//! A lane: frames from one cpu to another, in order.
//!
//! A bounded ring with one sender and one receiver carries the frames; the receiver's [`Bell`]
//! is rung once for each burst. A message of actix for each burst instead costs several times as
//! much (ARCHITECTURE.md, 'Crossing between cpus').

use std::sync::Arc;

use rtrb::chunks::ChunkError;
use rtrb::{Consumer, Producer, RingBuffer};
use virtroupe_driver::Frame;

use crate::bell::Bell;

/// Makes a lane for `capacity` frames to the cpu that `bell` wakes.
pub fn lane(capacity: usize, bell: Arc<Bell>) -> (LaneSender, LaneReceiver) {
    let (sender, receiver) = RingBuffer::new(capacity);
    let sender = LaneSender { ring: sender, bell };
    (sender, LaneReceiver { ring: receiver })
}

/// The end into which frames are put.
pub struct LaneSender {
    ring: Producer<Frame>,
    bell: Arc<Bell>,
}

impl LaneSender {
    /// Moves frames from the front of `frames` into the lane, as many as it has room for, and
    /// wakes the receiver if it sleeps. Returns how many.
    pub fn push(&mut self, frames: &mut Vec<Frame>) -> usize {
        self.push_up_to(frames, usize::MAX)
    }

    /// As [`push`](Self::push), but at most `limit` frames.
    pub fn push_up_to(&mut self, frames: &mut Vec<Frame>, limit: usize) -> usize {
        let chunk = match self.ring.write_chunk_uninit(frames.len().min(limit)) {
            Err(ChunkError::TooFewSlots(room)) => self.ring.write_chunk_uninit(room),
            chunk => chunk,
        };
        let Ok(chunk) = chunk else { return 0 };
        let count = chunk.len();
        if count == 0 {
            return 0;
        }
        let moved = chunk.fill_from_iter(frames.drain(..count));
        self.bell.ring();
        moved
    }

    /// Whether the receiver is gone. What is still in the lane is dropped with this end.
    pub fn is_abandoned(&self) -> bool {
        self.ring.is_abandoned()
    }

    /// Frames that the receiver has not taken.
    pub fn waiting(&self) -> usize {
        self.ring.buffer().capacity() - self.ring.slots()
    }

    /// The receiver's bell.
    pub fn bell(&self) -> &Bell {
        &self.bell
    }
}

/// The end out of which frames are taken.
pub struct LaneReceiver {
    ring: Consumer<Frame>,
}

impl LaneReceiver {
    /// Takes up to `limit` frames into `burst`. Returns how many.
    pub fn take(&mut self, burst: &mut Vec<Frame>, limit: usize) -> usize {
        let chunk = match self.ring.read_chunk(limit) {
            Err(ChunkError::TooFewSlots(0)) => return 0,
            Err(ChunkError::TooFewSlots(waiting)) => self.ring.read_chunk(waiting),
            chunk => chunk,
        };
        let Ok(chunk) = chunk else { return 0 };
        let count = chunk.len();
        burst.extend(chunk);
        count
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use virtroupe_wire::Buffer;

    use super::*;

    fn frames(bytes: std::ops::Range<u8>) -> Vec<Frame> {
        bytes.map(|byte| Frame::on_heap(&[byte])).collect()
    }

    #[test]
    fn frames_cross_in_order_and_those_without_room_stay() {
        let (mut sender, mut receiver) = lane(4, Arc::default());
        let mut waiting = frames(0..6);
        assert_eq!(sender.push(&mut waiting), 4);
        assert_eq!(sender.push(&mut waiting), 0);
        let mut burst = Vec::new();
        assert_eq!(receiver.take(&mut burst, 3), 3);
        assert_eq!(sender.push(&mut waiting), 2);
        assert_eq!(receiver.take(&mut burst, 9), 3);
        assert_eq!(receiver.take(&mut burst, 9), 0);
        assert!(waiting.is_empty() && receiver.is_empty());
        assert_eq!(sender.waiting(), 0);
        let bytes: Vec<u8> = burst.iter().flat_map(|frame| frame.to_vec()).collect();
        assert_eq!(bytes, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_sender_sees_that_its_receiver_is_gone() {
        let (mut sender, receiver) = lane(4, Arc::default());
        sender.push(&mut frames(0..2));
        assert!(!sender.is_abandoned());
        drop(receiver);
        assert!(sender.is_abandoned());
    }
}
