//! Whose turn it is to put frames into a ring that several senders share.

/// Frames that each sender may put in before it is the next one's turn.
pub(super) const QUANTUM: usize = 64;

/// The senders of one ring, by number.
///
/// A turn that the ring cuts short goes on when there is room again. If it passed, a sender whose
/// turn fell again and again on the last free descriptors would starve.
#[derive(Debug)]
pub(super) struct Turns {
    senders: usize,
    whose: usize,
    /// Frames that it may still put in, `1..=QUANTUM`.
    left: usize,
}

impl Turns {
    pub(super) fn new(senders: usize) -> Self {
        Turns {
            senders,
            whose: 0,
            left: QUANTUM,
        }
    }

    pub(super) fn senders(&self) -> usize {
        self.senders
    }

    /// Whose turn it is.
    pub(super) fn whose(&self) -> usize {
        self.whose
    }

    /// Frames that it may put in now, where there is `room`.
    pub(super) fn limit(&self, room: usize) -> usize {
        self.left.min(room)
    }

    /// It has put in so many, at most [`limit`](Self::limit), and `has_more` or has not.
    pub(super) fn sent(&mut self, frames: usize, has_more: bool) {
        self.left = self.left.saturating_sub(frames);
        if self.left == 0 || !has_more {
            self.whose = (self.whose + 1) % self.senders;
            self.left = QUANTUM;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_that_always_have_more_get_the_same_however_the_room_comes_back() {
        for senders in 1..5 {
            // With 65 and 63 in turns, of three senders the second would get one frame in 128.
            for rooms in [[65, 63], [1, 1], [63, 64], [1, 127], [200, 3]] {
                let mut turns = Turns::new(senders);
                let mut sent = vec![0; senders];
                for mut room in rooms.into_iter().cycle().take(300) {
                    while room > 0 {
                        let frames = turns.limit(room);
                        sent[turns.whose()] += frames;
                        room -= frames;
                        turns.sent(frames, true);
                    }
                    let (least, most) = (sent.iter().min(), sent.iter().max());
                    let ahead = most.zip(least).map(|(most, least)| most - least);
                    assert!(ahead <= Some(QUANTUM), "{sent:?}");
                }
            }
        }
    }

    #[test]
    fn a_turn_that_is_not_used_up_passes_and_the_next_one_is_whole() {
        let mut turns = Turns::new(2);
        turns.sent(5, false);
        assert_eq!((turns.whose(), turns.limit(1000)), (1, QUANTUM));
        turns.sent(0, false);
        assert_eq!(turns.whose(), 0);
    }
}
