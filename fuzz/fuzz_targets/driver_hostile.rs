//! The driver's calls interleaved with whatever a device can write into rings and buffers, split
//! and packed, each outcome compared with a model: see `driver/tests/hostile`, which shares all but the input.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../driver/tests/hostile/device.rs"]
#[allow(dead_code, reason = "the directed tests use more of it")]
mod device;
#[path = "../../driver/tests/hostile/harness.rs"]
#[allow(dead_code, reason = "the directed tests use more of it")]
mod harness;
#[path = "../../driver/tests/hostile/net_header.rs"]
mod net_header;
#[path = "../../driver/tests/hostile/operations.rs"]
mod operations;
#[path = "../../driver/tests/hostile/packed_harness.rs"]
#[allow(dead_code, reason = "the directed tests use more of it")]
mod packed_harness;
#[path = "../../driver/tests/hostile/packed_operations.rs"]
mod packed_operations;

fuzz_target!(|input: (bool, u8, Vec<operations::Words>)| {
    let (packed, choice, steps) = input;
    if packed {
        packed_operations::run(choice, &steps);
    } else {
        operations::run(choice, &steps);
    }
});
