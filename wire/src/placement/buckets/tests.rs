use proptest::prelude::*;

use super::*;

#[test]
fn equal_weights_take_turns() {
    let buckets = Buckets::new(&[1; 4]).unwrap();
    assert_eq!(buckets.owners().len(), 128);
    for (bucket, owner) in buckets.owners().iter().enumerate() {
        assert_eq!(usize::from(*owner), bucket % 4);
    }
    assert_eq!(buckets.owner(0xffff_ff81), 1);
}

#[test]
fn many_cpus_get_more_buckets() {
    for (cpus, count) in [(1, 128), (8, 128), (9, 256), (300, 8192), (65_535, 32_768)] {
        let buckets = Buckets::new(&vec![3; cpus]).unwrap();
        assert_eq!(buckets.owners().len(), count, "{cpus} cpus");
        assert_eq!(usize::from(buckets.cpus()), cpus);
        assert!(
            buckets
                .shares()
                .iter()
                .all(|share| { share.abs_diff(count / cpus) <= 1 })
        );
    }
}

#[test]
fn a_cpu_of_weight_0_owns_nothing() {
    let buckets = Buckets::new(&[0, 5, 0, 5]).unwrap();
    assert_eq!(buckets.shares(), [0, 64, 0, 64]);
}

#[test]
fn what_makes_no_table_is_refused() {
    let weights = vec![1; 65_536];
    assert_eq!(Buckets::new(&[]), Err(PlacementError::NoCpus));
    assert_eq!(
        Buckets::new(&weights),
        Err(PlacementError::TooManyCpus(65_536))
    );
    assert_eq!(Buckets::new(&[0, 0]), Err(PlacementError::NoWeight));
    for count in [0, 1, 64, 129, 65_536] {
        let bad = Err(PlacementError::BadCount(count));
        assert_eq!(Buckets::with_count(&[1], count), bad);
    }
    let unknown = PlacementError::UnknownCpu { cpu: 2, cpus: 2 };
    assert_eq!(Buckets::from_owners(&[2; 128], 2), Err(unknown));
    assert_eq!(Buckets::from_owners(&[], 0), Err(PlacementError::NoCpus));
}

proptest! {
    /// No share is a whole bucket or more from the exact one, all buckets are owned, and no cpu's
    /// buckets are in a run while those of others could lie between.
    #[test]
    fn shares_follow_weights_and_are_spread(
        weights in prop::collection::vec(prop_oneof![0_u32..20, any::<u32>()], 1..40),
        bits in 7_u32..12,
    ) {
        prop_assume!(weights.iter().any(|weight| *weight > 0));
        let count = 1_usize << bits;
        let buckets = Buckets::with_count(&weights, count).unwrap();
        prop_assert_eq!(buckets.owners().len(), count);
        let total: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
        let shares = buckets.shares();
        prop_assert_eq!(shares.iter().sum::<usize>(), count);
        for (cpu, (share, weight)) in shares.iter().zip(&weights).enumerate() {
            let exact = u128::from(*weight) * count as u128;
            prop_assert!(exact.abs_diff(*share as u128 * total) < total);
            let places: Vec<_> = (0..count)
                .filter(|bucket| usize::from(buckets.owners()[*bucket]) == cpu)
                .collect();
            for gap in places.windows(2).map(|pair| pair[1] - pair[0]) {
                // At most as far apart as twice the mean, and as many as there are cpus.
                prop_assert!(gap <= 2 * count / share + weights.len());
            }
        }
        // Any part of the table holds about its share of each cpu.
        let half = count / 2;
        let first = buckets.owners().iter().take(half);
        let mut halves = vec![0_usize; weights.len()];
        first.for_each(|owner| halves[usize::from(*owner)] += 1);
        for (part, share) in halves.iter().zip(&shares) {
            prop_assert!((2_usize * part).abs_diff(*share) <= 2 + weights.len());
        }
    }
}
