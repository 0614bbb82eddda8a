//! The whole stack in one process: supervisor, actors and driver on the embedded device.
//!
//! Every test has its own device and link. None depends on timing: waiting ends with what is
//! waited for, and a limit that is far away makes a hang a failure.
//!
//! Time budget of this suite: 40 s on two cores.

mod stack {
    pub mod support;

    mod cpus;
    mod lifecycle;
    mod load;
    mod offloads;
    mod packets;
    mod receive_offloads;
    mod start_up;
    mod tcp;
    mod udp;
    mod violations;
    mod wake_ups;
}

// The tests against the real world send the same packets.
#[path = "support/crafted.rs"]
mod crafted;
#[path = "support/station.rs"]
mod station;
// The device that lies to the driver can lie to the stack.
#[path = "../driver/tests/hostile/device.rs"]
#[allow(dead_code, reason = "the tests of the driver use more of it")]
mod hostile;
