//! The table *bucket -> cpu*: who owns a flow.

use super::PlacementError;

/// The fewest buckets: what every device with RSS can hold (virtio 1.3, section 5.1.4.1).
pub const LEAST_BUCKETS: usize = 128;

/// The most buckets: the largest power of two that the length of a device's table can say.
pub const MOST_BUCKETS: usize = 32_768;

/// Buckets that each cpu has by default at equal weights, at least.
const BUCKETS_PER_CPU: usize = 16;

/// Which cpu owns each bucket of flows. The lowest bits of a flow's hash are its bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buckets {
    /// A power of two of them.
    owners: Box<[u16]>,
    cpus: u16,
}

impl Buckets {
    /// A table for as many cpus as there are `weights`, with the default number of buckets: the
    /// power of two that is at least [`LEAST_BUCKETS`] and 16 for each cpu, and at most
    /// [`MOST_BUCKETS`].
    ///
    /// Each cpu's share of the buckets follows its weight as exactly as whole buckets can: no
    /// other whole numbers come closer to the exact shares (largest remainders; of equal ones, the
    /// lower cpu's). A cpu of weight 0 owns none. The buckets of a cpu lie as far apart as they can.
    ///
    /// # Errors
    /// `NoCpus` or `TooManyCpus` unless there are 1 to 65535 weights, `NoWeight` if all are 0.
    pub fn new(weights: &[u32]) -> Result<Self, PlacementError> {
        let wanted = weights.len().saturating_mul(BUCKETS_PER_CPU);
        let count = wanted.clamp(LEAST_BUCKETS, MOST_BUCKETS);
        Buckets::with_count(weights, count.next_power_of_two())
    }

    /// As [`new`](Buckets::new), with `count` buckets.
    ///
    /// # Errors
    /// Those of `new`, and `BadCount` if `count` is no power of two from [`LEAST_BUCKETS`] to
    /// [`MOST_BUCKETS`].
    pub fn with_count(weights: &[u32], count: usize) -> Result<Self, PlacementError> {
        let cpus = check(weights.len(), count)?;
        let shares = shares(weights, count as u64)?;
        let mut places = Vec::with_capacity(count);
        for (cpu, share) in (0..cpus).zip(shares) {
            // The middles of `share` equal parts of the table, in 2^-32 of it.
            places.extend(
                (0..share)
                    .map(|part| ((2 * part + 1) << 31) / share)
                    .map(|at| (at, cpu)),
            );
        }
        places.sort_unstable();
        Ok(Buckets {
            owners: places.into_iter().map(|(_, cpu)| cpu).collect(),
            cpus,
        })
    }

    /// The table that gives each bucket to the cpu at its place in `owners`, for `cpus` cpus.
    ///
    /// # Errors
    /// `NoCpus`, `BadCount` as [`with_count`](Buckets::with_count), and `UnknownCpu` for an owner
    /// that is not below `cpus`.
    pub fn from_owners(owners: &[u16], cpus: u16) -> Result<Self, PlacementError> {
        check(usize::from(cpus), owners.len())?;
        if let Some(cpu) = owners.iter().copied().find(|cpu| *cpu >= cpus) {
            return Err(PlacementError::UnknownCpu { cpu, cpus });
        }
        Ok(Buckets {
            owners: owners.into(),
            cpus,
        })
    }

    /// The number of cpus; they are numbered from 0.
    pub fn cpus(&self) -> u16 {
        self.cpus
    }

    /// The owner of each bucket, in order.
    pub fn owners(&self) -> &[u16] {
        &self.owners
    }

    /// The owner of the flows with `hash`.
    #[inline]
    pub fn owner(&self, hash: u32) -> u16 {
        let bucket = hash as usize & self.owners.len().wrapping_sub(1);
        self.owners.get(bucket).copied().unwrap_or(0)
    }

    /// How many buckets each cpu owns.
    pub fn shares(&self) -> Vec<usize> {
        let mut shares = vec![0; usize::from(self.cpus)];
        for owner in &self.owners {
            if let Some(share) = shares.get_mut(usize::from(*owner)) {
                *share += 1;
            }
        }
        shares
    }
}

fn check(cpus: usize, count: usize) -> Result<u16, PlacementError> {
    if cpus == 0 {
        return Err(PlacementError::NoCpus);
    }
    if !count.is_power_of_two() || !(LEAST_BUCKETS..=MOST_BUCKETS).contains(&count) {
        return Err(PlacementError::BadCount(count));
    }
    u16::try_from(cpus).map_err(|_| PlacementError::TooManyCpus(cpus))
}

/// `count` divided in proportion to `weights`, in whole numbers (largest remainders).
fn shares(weights: &[u32], count: u64) -> Result<Vec<u64>, PlacementError> {
    let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    if total == 0 {
        return Err(PlacementError::NoWeight);
    }
    let exact = weights.iter().map(|weight| u64::from(*weight) * count);
    let mut shares: Vec<u64> = exact.clone().map(|exact| exact / total).collect();
    let mut rests: Vec<_> = exact.map(|exact| exact % total).enumerate().collect();
    rests.sort_by_key(|(cpu, rest)| (std::cmp::Reverse(*rest), *cpu));
    let missing = count - shares.iter().sum::<u64>();
    for (cpu, _) in rests.into_iter().take(missing as usize) {
        if let Some(share) = shares.get_mut(cpu) {
            *share += 1;
        }
    }
    Ok(shares)
}

#[cfg(test)]
mod tests;
