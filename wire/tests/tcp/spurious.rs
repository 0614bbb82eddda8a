//! Reordering and delay are taken for loss, and found out: what they cost then (RFC 3522, RFC
//! 4015, RFC 5682, RFC 8985).

use virtroupe_wire::Instant;
use virtroupe_wire::tcp::TcpOptions;

use crate::FAMILY;
use crate::bed::{plain, sacking};
use crate::network::{Network, Path};
use crate::recovery::{starts, ten_under_way};
use crate::streams::transfer;
use crate::support::{START, content, milliseconds, options};

/// Mbit/s of 10 MB over a path of 50 ms each way and back, without loss, at 100 Mbit/s.
fn goodput(jitter: u64, seed: u64, options: TcpOptions) -> f64 {
    let path = Path {
        delay: milliseconds(25),
        rate: 12_500_000,
        queue: 100_000,
        ..Path::default()
    };
    let mut network = Network::new(FAMILY, path, seed);
    network.paths[0].jitter = milliseconds(jitter);
    let bytes = 10_000_000;
    let took = transfer(&mut network, options, [bytes, 0]);
    bytes as f64 * 8e-6 / took.as_secs_f64()
}

/// The table: `cargo test -p virtroupe-wire --test tcp reordering_costs -- --nocapture`.
#[test]
fn reordering_costs_little() {
    let without_timestamps = TcpOptions {
        timestamps: false,
        ..options()
    };
    println!("Mbit/s over 100 Mbit/s and 50 ms, mean of 3 seeds\n");
    println!(
        "| reordering ms | with timestamps | of that without reordering | without timestamps |"
    );
    println!("|---|---|---|---|");
    let mean = |jitter, options: &TcpOptions| {
        let runs = (0..3).map(|seed| goodput(jitter, seed, options.clone()));
        runs.sum::<f64>() / 3.0
    };
    let base = mean(0, &options());
    let base_without = mean(0, &without_timestamps);
    for jitter in [0, 1, 2, 5, 10, 20] {
        let with = mean(jitter, &options());
        let without = mean(jitter, &without_timestamps);
        println!(
            "| {jitter} | {with:.1} | {:.2} | {without:.1} |",
            with / base
        );
        if jitter <= 5 {
            assert!(with >= 0.9 * base, "{with} of {base}");
            assert!(without >= 0.9 * base_without, "{without} of {base_without}");
        }
    }
}

/// RFC 5682, section 3: new data ask, and what was not sent again is acknowledged.
#[test]
fn a_needless_timeout_is_found_out_without_options() {
    let (mut bed, id) = ten_under_way(plain());
    bed.write(id, &[0; 10_000]);
    let window = bed.engine.stats(id).expect("it is there").congestion_window;
    let sent = bed.pass(milliseconds(300));
    let again: Vec<u32> = sent.iter().map(|(_, sent)| sent.numbers().0).collect();
    assert_eq!(again[again.len() - 1..], [1001]);
    let reduced = bed.engine.stats(id).expect("it is there").congestion_window;
    assert!(reduced < window, "{reduced}");
    // The acknowledgments of the originals were late.
    let asked = starts(&bed.ack(1, 2001));
    assert_eq!(asked.len(), 2);
    assert!(asked[0] >= 11_001, "new bytes: {asked:?}");
    let more = starts(&bed.ack(1, 3001));
    assert!(more.iter().all(|start| *start > asked[1]), "{more:?}");
    let stats = bed.engine.stats(id).expect("it is there");
    assert_eq!((stats.undone, stats.timeouts), (1, 1));
    assert!(stats.congestion_window >= window, "{stats:?}");
    assert_eq!(bed.engine.counters().retransmits, 1);
}

#[test]
fn a_timeout_that_was_needed_is_not_undone() {
    let (mut bed, id) = ten_under_way(plain());
    bed.write(id, &[0; 10_000]);
    bed.pass(milliseconds(300));
    assert_eq!(starts(&bed.ack(1, 2001)).len(), 2);
    // Only the new ones arrive: what is between is lost.
    let again = starts(&bed.ack(1, 2001));
    assert_eq!(again.first(), Some(&2001), "{again:?}");
    let stats = bed.engine.stats(id).expect("it is there");
    assert_eq!(stats.undone, 0);
    assert!(stats.slow_start_threshold < 10_000, "{stats:?}");
}

/// RFC 5682, section 3.1: what waited behind a gap at the receiver is no sign that the timeout was
/// needless, though it was not sent again.
#[test]
fn one_segment_that_was_lost_explains_a_timeout() {
    let (mut bed, id) = ten_under_way(plain());
    bed.pass(milliseconds(300));
    bed.ack(1, 11_001);
    assert_eq!(bed.engine.stats(id).expect("it is there").undone, 0);
}

/// RFC 3708: every segment that was sent again is reported to have arrived twice.
#[test]
fn a_recovery_is_undone_when_all_of_it_arrived_twice() {
    let (mut bed, id) = ten_under_way(sacking());
    let window = bed.engine.stats(id).expect("it is there").congestion_window;
    bed.now = bed.now + milliseconds(20);
    assert_eq!(starts(&bed.sack(1, 1001, &[(3001, 11_001)])), [1001, 2001]);
    bed.ack(1, 11_001);
    let reduced = bed.engine.stats(id).expect("it is there").congestion_window;
    assert!(reduced < window, "{reduced}");
    bed.now = bed.now + milliseconds(20);
    bed.sack(1, 11_001, &[(1001, 2001)]);
    assert_eq!(bed.engine.counters().undone, 0, "half of it");
    bed.sack(1, 11_001, &[(2001, 3001)]);
    let stats = bed.engine.stats(id).expect("it is there");
    assert_eq!(stats.undone, 1);
    assert!(stats.congestion_window >= window, "{stats:?}");
}

/// The path stops for 0.4 s: the timeout was needless, and is undone by timestamps, or by F-RTO
/// where there are none.
#[test]
fn a_pause_of_the_path_costs_no_window() {
    for (timestamps, sack) in [(true, true), (true, false), (false, true), (false, false)] {
        let path = Path {
            rate: 2_500_000,
            queue: 10_000,
            ..Path::default()
        };
        let mut network = Network::new(FAMILY, path, 7);
        let options = TcpOptions {
            timestamps,
            sack,
            receive_buffer: 100_000,
            initial_receive_buffer: 100_000,
            ..options()
        };
        let (client, server) = network.open(options);
        let work = |network: &mut Network, steps: usize, until: Instant| {
            for _ in 0..steps {
                // Nothing arrives before the pause is over.
                let under_way = std::mem::take(&mut network.under_way).into_iter();
                let held = under_way.map(|((at, serial), it)| ((at.max(until), serial), it));
                network.under_way = held.collect();
                let _ = network.engines[0].write(network.now, client, content(0, 0, 20_000));
                network.pass(milliseconds(5));
                while network.engines[1].read(network.now, server).is_some() {}
            }
            network.engines[0].stats(client).expect("it is there")
        };
        let before = work(&mut network, 200, START);
        let until = network.now + milliseconds(400);
        let after = work(&mut network, 200, until);
        assert!(after.timeouts > before.timeouts, "{after:?}");
        assert_eq!(after.undone, 1, "{timestamps} {sack}: {after:?}");
        assert!(
            after.congestion_window >= before.congestion_window,
            "{timestamps} {sack}: {before:?} {after:?}"
        );
    }
}
