//! What holds for a TCP engine between any two calls, whatever arrives.

use bytes::Bytes;
use virtroupe_wire::tcp::{Outgoing, TcpConfig, TcpEngine};
use virtroupe_wire::{HeapBuffer, Instant};

/// The engine that is fuzzed.
pub type Engine = TcpEngine<HeapBuffer, Bytes>;

/// Small tables, so that their limits are reached.
pub fn config() -> TcpConfig {
    TcpConfig {
        connections: 6,
        half_open: 3,
        time_wait: 3,
        memory: 128 << 10,
        replies: 16,
        ephemeral_ports: (40_000, 40_003),
        ..TcpConfig::default()
    }
}

/// Checks the sums of the counters and the limits of the tables.
pub fn check(engine: &Engine) {
    let (counters, usage, limits) = (engine.counters(), engine.usage(), config());
    assert_eq!(
        counters.rx_segments,
        counters.accepted + engine.drops().total()
    );
    assert!(usage.half_open <= limits.half_open);
    assert!(usage.time_wait <= limits.time_wait);
    assert!(usage.connections <= limits.connections);
    // Each connection may hold what its window had announced.
    assert!(usage.receive_memory <= 4 << 20, "{usage:?}");
}

/// Lets all time pass that an engine waits for, with nobody on the other side, and checks that
/// it then holds on to nothing. All connections were let go of before.
pub fn settle(engine: &mut Engine, mut now: Instant) {
    let mut outgoing = Outgoing::new();
    for _ in 0..20_000 {
        while engine.poll_transmit(now, &mut outgoing) {}
        let Some(deadline) = engine.next_deadline() else {
            let usage = engine.usage();
            assert_eq!(
                (usage.connections, usage.half_open, usage.time_wait),
                (0, 0, 0)
            );
            assert_eq!(usage.receive_memory, 0);
            return;
        };
        now = now.max(deadline);
        engine.handle_timeout(now);
        assert!(engine.next_deadline().is_none_or(|deadline| deadline > now));
        check(engine);
    }
    panic!("the engine has deadlines without end: {:?}", engine.usage());
}
