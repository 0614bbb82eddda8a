//! The driver against a device that lies: each lie yields the right [`Violation`] or does no
//! harm; nothing panics, no slot is lost, and none is in two places.

mod device;
mod harness;
mod lies;
mod net_header;
mod operations;
mod packed_harness;
mod packed_lies;
mod packed_operations;
mod promises;

use proptest::prelude::*;

proptest! {
    #[test]
    fn whatever_the_device_does_the_driver_does_what_the_model_foretells(
        choice in any::<u8>(),
        steps in proptest::collection::vec(any::<operations::Words>(), 0..120),
    ) {
        operations::run(choice, &steps);
    }

    #[test]
    fn whatever_the_device_does_to_packed_rings_the_driver_does_what_the_model_foretells(
        choice in any::<u8>(),
        steps in proptest::collection::vec(any::<operations::Words>(), 0..120),
    ) {
        packed_operations::run(choice, &steps);
    }
}
