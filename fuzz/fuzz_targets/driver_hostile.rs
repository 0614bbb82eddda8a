//! The driver's calls interleaved with whatever a device can write into rings and buffers, split
//! and packed, each outcome compared with a model: see `driver/tests/hostile`, which shares all but the input.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../driver/tests/hostile/device.rs"]
#[allow(dead_code, reason = "the directed tests use more of it")]
mod device;
#[path = "../../driver/tests/hostile/hands.rs"]
#[allow(dead_code, reason = "the directed tests use more of it")]
mod hands;
#[path = "../../driver/tests/hostile/harness.rs"]
mod harness;
#[path = "../../driver/tests/hostile/net_header.rs"]
mod net_header;
#[path = "../../driver/tests/hostile/operations.rs"]
mod operations;
#[path = "../../driver/tests/hostile/rings.rs"]
mod rings;
#[path = "../../driver/tests/hostile/setup.rs"]
#[allow(dead_code, reason = "the directed tests use more of it")]
mod setup;

fuzz_target!(|input: (u8, Vec<operations::Words>)| {
    let (choice, steps) = input;
    operations::run(choice, &steps);
});
