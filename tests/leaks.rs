//! What stacks leave behind in their process: nothing.
//!
//! One test of several parts, since all of the process is counted: other tests would have threads
//! and files of their own.
//!
//! Time budget of this suite: 10 s.

#[allow(dead_code, reason = "the other suites use the rest")]
#[path = "stack/support.rs"]
mod support;

use std::time::Duration;

use virtroupe::Supervisor;
use virtroupe::driver::embedded::{EmbeddedConfig, EmbeddedTransport, Link, LinkConfig};

use support::{Probe, config, start, within};

#[actix::test]
async fn stacks_leave_nothing_behind() {
    // What the process keeps from the first time on.
    start_and_end().await;
    fail_to_start().await;
    let before = Held::now();
    for _ in 0..100 {
        start_and_end().await;
    }
    settle(before).await;
    for _ in 0..60 {
        fail_to_start().await;
    }
    settle(before).await;
}

/// What the process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
struct Held {
    files: usize,
    threads: usize,
}

impl Held {
    fn now() -> Held {
        let count = |folder| std::fs::read_dir(folder).map_or(0, Iterator::count);
        Held {
            files: count("/proc/self/fd"),
            threads: count("/proc/self/task"),
        }
    }
}

/// Waits until no more is held than `before`, but for what comes and goes by itself: who is told that
/// all has ended may be told before the last thread has.
async fn settle(before: Held) {
    const SPARE: usize = 10;
    within(async {
        loop {
            let now = Held::now();
            if now.files <= before.files + SPARE && now.threads <= before.threads + SPARE {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// An actor of the application that holds a socket does not keep the stack from ending.
async fn start_and_end() {
    let (end, _other) = Link::pair(LinkConfig::default());
    let (stack, _) = start(config(1), end).await;
    let (_probe, _seen) = Probe::start(&stack, "0.0.0.0:7", true)
        .await
        .expect("bound");
    within(stack.shutdown()).await;
}

/// A link that stays down is the last stage of a start-up.
async fn fail_to_start() {
    let (end, _other) = Link::pair(LinkConfig::default());
    let (transport, device, _) =
        EmbeddedTransport::inline(EmbeddedConfig::default(), end).expect("a device");
    device.set_link(false);
    let mut config = config(1);
    config.limits.link_ms = 1;
    let started = within(Supervisor::start_on(Box::new(transport), config)).await;
    assert!(started.is_err());
}
