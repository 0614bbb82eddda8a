//! Vectors whose memory was reserved ahead.

/// [`Vec::push`] for a vector that has room. The compiler, told so, writes `item` where it goes
/// instead of first beside it.
#[inline(always)]
pub(crate) fn push_reserved<T>(queue: &mut Vec<T>, item: T) {
    if queue.len() == queue.capacity() {
        return push_growing(queue, item);
    }
    queue.push(item);
}

#[cold]
#[inline(never)]
fn push_growing<T>(queue: &mut Vec<T>, item: T) {
    queue.push(item);
}
