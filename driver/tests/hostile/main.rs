//! The driver against a device that lies: each lie yields the right [`Violation`] or does no
//! harm; nothing panics, no slot is lost, and none is in two places.

mod device;
mod hands;
mod harness;
mod header_lies;
mod lies;
mod merged_lies;
mod net_header;
mod operations;
mod packed;
mod promises;
mod rings;
mod setup;
mod split;

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_the_device_does_the_driver_does_what_the_model_foretells(
        choice in any::<u8>(),
        steps in proptest::collection::vec(any::<operations::Words>(), 0..120),
    ) {
        operations::run(choice, &steps);
    }
}
