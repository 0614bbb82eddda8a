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
    mod wake_ups;
}
