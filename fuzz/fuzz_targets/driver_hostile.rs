//! The driver's calls interleaved with whatever a device can write into rings and buffers, each
//! outcome compared with a model: see `driver/tests/hostile`, which shares all but the input.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../driver/tests/hostile/device.rs"]
#[allow(dead_code, reason = "the directed tests use more of it")]
mod device;
#[path = "../../driver/tests/hostile/harness.rs"]
#[allow(dead_code, reason = "the directed tests use more of it")]
mod harness;
#[path = "../../driver/tests/hostile/operations.rs"]
mod operations;

fuzz_target!(|input: (u8, Vec<operations::Words>)| {
    operations::run(input.0, &input.1);
});
