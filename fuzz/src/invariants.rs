//! What holds for a host between any two calls, whatever arrives.

use virtroupe_wire::{Heap, HeapBuffer, Host, Instant, Limits};

/// Checks the sums of the counters and the limit of memory, as the host documents them.
pub fn check(host: &Host<HeapBuffer>, limits: &Limits) {
    let counters = host.counters();
    assert_eq!(
        counters.rx_frames + counters.looped + counters.split,
        counters.delivered + counters.consumed + counters.rx_dropped + counters.held,
        "{counters:?}"
    );
    assert_eq!(
        host.drops().total(),
        counters.rx_dropped + counters.tx_dropped + counters.closed,
        "{counters:?} {:?}",
        host.drops().nonzero().collect::<Vec<_>>()
    );
    assert!(host.reassembly_memory() <= limits.reassembly_memory);
    assert_eq!(host.reassembly_memory() == 0, counters.held == 0);
    let resolved = host.neighbors().len();
    assert!(resolved <= limits.neighbors, "{resolved} neighbours");
}

/// Lets all time pass that a host waits for, and checks that it then holds on to nothing.
/// Returns the time at the end.
pub fn settle(host: &mut Host<HeapBuffer>, limits: &Limits, mut now: Instant) -> Instant {
    for _ in 0..10_000 {
        let Some(deadline) = host.next_deadline() else {
            assert_eq!(host.counters().held, 0);
            return now;
        };
        now = now.max(deadline);
        host.set_transmit_room(64);
        host.handle_timeout(now, &mut Heap);
        host.transmit().clear();
        check(host, limits);
    }
    panic!(
        "the host has deadlines without end, the next at {:?}",
        host.next_deadline()
    );
}
