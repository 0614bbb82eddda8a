//! A table of values with stable indexes, in pages that are given back when they are empty.
//!
//! No value moves, so growing is cheap however many there are. The pages' own fields lie side by
//! side: among many values, finding one costs a miss of the cache for itself and no other.

/// Values in a page: one bit each says which places are taken.
const PAGE: usize = 64;

/// The name of a value: its place, and a number that no other value at that place had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

#[derive(Debug)]
struct Page<T> {
    places: Vec<Place<T>>,
    taken: u64,
}

/// Room for a value, apart from whose it is: so a large one is made where it stays.
#[derive(Debug)]
struct Place<T> {
    generation: u32,
    value: Option<T>,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    pages: Vec<Option<Page<T>>>,
    /// Pages with a free place, each once.
    vacant: Vec<u32>,
    length: usize,
    generation: u32,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Slab {
            pages: Vec::new(),
            vacant: Vec::new(),
            length: 0,
            generation: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Bytes that the table takes.
    pub(crate) fn memory(&self) -> usize {
        let pages = self.pages.iter().flatten().count();
        pages * PAGE * size_of::<Place<T>>()
    }

    /// Puts `value` at a free place.
    pub(crate) fn insert(&mut self, value: T) -> Key {
        self.insert_with(|| value)
    }

    /// Puts what `make` returns at a free place. A large value is moved less often so.
    #[inline]
    pub(crate) fn insert_with(&mut self, make: impl FnOnce() -> T) -> Key {
        let number = match self.vacant.last() {
            Some(number) => *number,
            None => {
                let number = self.pages.len() as u32;
                self.pages.push(None);
                self.vacant.push(number);
                number
            }
        };
        self.generation = self.generation.wrapping_add(1);
        self.length += 1;
        let mut key = Key {
            index: number * PAGE as u32,
            generation: self.generation,
        };
        if let Some(page) = self.pages.get_mut(number as usize) {
            let page = page.get_or_insert_with(Page::new);
            let place = page.taken.trailing_ones();
            page.taken |= 1_u64.checked_shl(place).unwrap_or(0);
            if page.taken == u64::MAX {
                self.vacant.pop();
            }
            key.index += place;
            if let Some(place) = page.places.get_mut(place as usize) {
                place.generation = self.generation;
                place.value = Some(make());
            }
        }
        key
    }

    /// Takes out the value at `index`.
    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let value = self.place(index)?.value.take()?;
        self.vacate(index);
        Some(value)
    }

    /// Drops the value at `index` where it lies: cheaper than to take out a large one.
    pub(crate) fn discard(&mut self, index: u32) {
        if let Some(place) = self.place(index)
            && place.value.is_some()
        {
            place.value = None;
            self.vacate(index);
        }
    }

    #[inline]
    fn place(&mut self, index: u32) -> Option<&mut Place<T>> {
        let page = self.pages.get_mut(index as usize / PAGE)?.as_mut()?;
        page.places.get_mut(index as usize % PAGE)
    }

    #[inline]
    fn place_at(&self, index: u32) -> Option<&Place<T>> {
        let page = self.pages.get(index as usize / PAGE)?.as_ref()?;
        page.places.get(index as usize % PAGE)
    }

    /// A value has left its place.
    fn vacate(&mut self, index: u32) {
        let (number, place) = (index / PAGE as u32, index % PAGE as u32);
        self.length -= 1;
        let Some(entry) = self.pages.get_mut(number as usize) else {
            return;
        };
        if let Some(page) = entry {
            if page.taken == u64::MAX {
                self.vacant.push(number);
            }
            page.taken &= !(1 << place);
            // One empty page is kept, so that a single connection that comes and goes is cheap.
            if page.taken == 0 && self.vacant.len() > 1 {
                *entry = None;
            }
        }
    }

    /// The value at `index`, whoever it is.
    #[inline]
    pub(crate) fn at(&self, index: u32) -> Option<&T> {
        self.place_at(index)?.value.as_ref()
    }

    /// The value at `index`, whoever it is.
    #[inline]
    pub(crate) fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.place(index)?.value.as_mut()
    }

    /// The key of the value at `index`.
    pub(crate) fn key(&self, index: u32) -> Option<Key> {
        let place = self.place_at(index)?;
        place.value.is_some().then_some(Key {
            index,
            generation: place.generation,
        })
    }

    /// The value that `key` names.
    #[inline]
    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let place = self.place_at(key.index)?;
        let is_it = place.generation == key.generation;
        place.value.as_ref().filter(|_| is_it)
    }

    /// The value that `key` names.
    #[inline]
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let place = self.place(key.index)?;
        let is_it = place.generation == key.generation;
        place.value.as_mut().filter(|_| is_it)
    }

    /// All keys. Visits every page.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> {
        let pages = (0..).zip(&self.pages);
        let pages = pages.filter_map(|(number, page)| Some((number, page.as_ref()?)));
        pages.flat_map(|(number, page): (u32, &Page<T>)| {
            let places = (number * PAGE as u32..).zip(&page.places);
            places.filter_map(|(index, place)| {
                place.value.is_some().then_some(Key {
                    index,
                    generation: place.generation,
                })
            })
        })
    }

    /// All values. Visits every page: for statistics.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        let places = self.pages.iter().flatten().flat_map(|page| &page.places);
        places.filter_map(|place| place.value.as_ref())
    }
}

impl<T> Place<T> {
    const fn vacant() -> Self {
        Place {
            generation: 0,
            value: None,
        }
    }
}

impl<T> Page<T> {
    fn new() -> Self {
        Page {
            places: (0..PAGE).map(|_| Place::vacant()).collect(),
            taken: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_map_whose_keys_are_never_reused(
            steps in proptest::collection::vec((any::<bool>(), any::<usize>()), 0..1000),
        ) {
            let mut slab = Slab::new();
            let mut model = HashMap::new();
            let mut keys = Vec::new();
            for (step, (is_insert, which)) in steps.into_iter().enumerate() {
                if is_insert || keys.is_empty() {
                    let key = slab.insert(step);
                    prop_assert_eq!(model.insert(key, step), None);
                    keys.push(key);
                } else {
                    let key: Key = keys.swap_remove(which % keys.len());
                    match which % 2 {
                        0 => slab.discard(key.index),
                        _ => prop_assert_eq!(slab.remove(key.index), model.get(&key).copied()),
                    }
                    model.remove(&key);
                    prop_assert!(slab.get(key).is_none());
                }
                prop_assert_eq!(slab.len(), model.len());
            }
            let mut named: Vec<_> = slab.keys().collect();
            named.sort_unstable();
            let mut expected: Vec<_> = model.keys().copied().collect();
            expected.sort_unstable();
            prop_assert_eq!(named, expected);
            for (key, value) in &model {
                prop_assert_eq!(slab.get(*key), Some(value));
            }
            keys.iter().for_each(|key| { slab.remove(key.index); });
            prop_assert!(slab.pages.iter().flatten().count() <= 1);
        }
    }
}
