//! The descriptors of a ring that are free, and the order in which they are taken.

/// Free descriptors, first in, first out.
///
/// The order matters: with a device that uses buffers in order, descriptors come back in the
/// order in which they were taken, so the available ring repeats itself and is not rewritten.
/// It is also the order that `VIRTIO_F_IN_ORDER` demands (section 2.7.9).
pub(crate) struct FreeDescriptors {
    /// As long as the ring, or as the next power of two.
    ids: Box<[u16]>,
    head: u16,
    free: u16,
    size: u16,
}

impl FreeDescriptors {
    pub(crate) fn new(size: u16) -> Self {
        FreeDescriptors {
            ids: (0..size.next_power_of_two()).collect(),
            head: 0,
            free: size,
            size,
        }
    }

    pub(crate) fn len(&self) -> u16 {
        self.free
    }

    #[inline(always)]
    fn at(&self, index: u16) -> usize {
        usize::from(index) & (self.ids.len() - 1)
    }

    /// Takes the next `count` descriptors; there are as many.
    #[inline(always)]
    pub(crate) fn advance(&mut self, count: u16) {
        self.head = self.head.wrapping_add(count);
        self.free -= count;
    }

    /// Of the free descriptors the first `count`, or as many as lie together, in the order in
    /// which they will be taken.
    #[inline(always)]
    pub(crate) fn upcoming_slice(&self, count: usize) -> &[u16] {
        self.slice(self.head, count.min(usize::from(self.free)))
    }

    /// Of the descriptors that are out the first `count` behind `place`, or as many as lie
    /// together, in the order in which they were taken. There are as many.
    #[inline(always)]
    pub(crate) fn oldest_slice(&self, place: u16, count: usize) -> &[u16] {
        let oldest = self.head.wrapping_add(self.free).wrapping_sub(self.size);
        self.slice(oldest.wrapping_add(place), count)
    }

    #[inline(always)]
    fn slice(&self, first: u16, count: usize) -> &[u16] {
        let rest = self.ids.get(self.at(first)..).unwrap_or_default();
        rest.get(..count).unwrap_or(rest)
    }

    /// Puts `id` behind the free descriptors, `place` further on. It is free once
    /// [`give_run`](Self::give_run) says so.
    #[inline(always)]
    pub(crate) fn put(&mut self, place: u16, id: u16) {
        let at = self.at(self.head.wrapping_add(self.free).wrapping_add(place));
        if let Some(entry) = self.ids.get_mut(at)
            // Unwritten where it stays the same, which keeps the line clean.
            && *entry != id
        {
            *entry = id;
        }
    }

    /// Frees `count` descriptors that were [`put`](Self::put).
    #[inline(always)]
    pub(crate) fn give_run(&mut self, count: u16) {
        self.free += count;
    }

    /// Frees the `count` descriptors that were taken first, in that order.
    #[inline(always)]
    pub(crate) fn give_oldest(&mut self, count: u16) {
        self.put_oldest(0, count);
        self.give_run(count);
    }

    /// As [`put`](Self::put), for the `count` descriptors that were taken `place` behind the first.
    #[inline(always)]
    pub(crate) fn put_oldest(&mut self, place: u16, count: u16) {
        // Where there is no room but for the ring, they are already where they belong.
        if self.ids.len() != usize::from(self.size) {
            for place in place..place + count {
                self.put(place, self.oldest(place));
            }
        }
    }

    #[inline]
    pub(crate) fn take(&mut self) -> Option<u16> {
        if self.free == 0 {
            return None;
        }
        let id = self.ids.get(self.at(self.head)).copied()?;
        self.head = self.head.wrapping_add(1);
        self.free -= 1;
        Some(id)
    }

    /// The descriptor that will be taken next, if one is free.
    #[inline]
    pub(crate) fn upcoming(&self) -> u16 {
        self.ids.get(self.at(self.head)).copied().unwrap_or(0)
    }

    /// The descriptor that was taken first of those that are out. With an in-order device they
    /// come back in this order, so what was taken is what `ids` still holds.
    #[inline]
    pub(crate) fn oldest(&self, place: u16) -> u16 {
        let oldest = self.head.wrapping_add(self.free).wrapping_sub(self.size);
        let at = self.at(oldest.wrapping_add(place));
        self.ids.get(at).copied().unwrap_or(0)
    }

    #[inline]
    pub(crate) fn give(&mut self, id: u16) {
        self.put(0, id);
        self.give_run(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_known_by_age_whatever_the_size() {
        for size in [4, 5, 7] {
            let mut free = FreeDescriptors::new(size);
            let mut expected = 0..;
            for _ in 0..3 * size {
                let taken: Vec<_> = std::iter::from_fn(|| free.take()).take(3).collect();
                for (place, id) in (0..).zip(&taken) {
                    assert_eq!(free.oldest(place), *id);
                    assert_eq!(expected.next(), Some(*id));
                    if *id == size - 1 {
                        expected = 0..;
                    }
                }
                taken.into_iter().for_each(|id| free.give(id));
            }
        }
    }

    #[test]
    fn slices_end_where_the_ids_do_and_go_on_at_their_beginning() {
        let mut free = FreeDescriptors::new(4);
        assert_eq!(free.upcoming_slice(9), [0, 1, 2, 3]);
        free.advance(3);
        assert_eq!(free.oldest_slice(0, 2), [0, 1]);
        assert_eq!(free.oldest_slice(1, 2), [1, 2]);
        free.give_oldest(2);
        assert_eq!(
            free.upcoming_slice(3),
            [3],
            "the others do not lie together with it"
        );
        free.advance(2);
        assert_eq!(free.oldest_slice(0, 3), [2, 3]);
        assert_eq!(free.oldest_slice(2, 1), [0]);
        assert_eq!(free.upcoming_slice(0), []);
    }

    #[test]
    fn free_descriptors_come_out_in_the_order_they_went_in() {
        let mut free = FreeDescriptors::new(4);
        assert_eq!(
            std::iter::from_fn(|| free.take()).collect::<Vec<_>>(),
            [0, 1, 2, 3]
        );
        for id in [2, 0, 3, 1] {
            free.give(id);
        }
        assert_eq!(
            std::iter::from_fn(|| free.take()).collect::<Vec<_>>(),
            [2, 0, 3, 1]
        );
    }
}
