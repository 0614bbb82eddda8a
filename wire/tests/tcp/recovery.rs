//! Loss, and what is done about it (RFC 6298, RFC 2018, RFC 2883, RFC 6675, RFC 8985, RFC 6937,
//! RFC 3168, RFC 1191).

use virtroupe_wire::tcp::{
    Congestion, HeaderOptions, SeqNumber, TcpFlags, TcpIcmp, TcpIcmpKind, TcpOptions,
};

use crate::bed::{ACK, Bed, OURS, Sent, blocks, plain, sacking};
use crate::network::{Network, Path};
use crate::streams::transfer;
use crate::support::{FAMILY, Family, HEADERS, content, milliseconds, options, seconds};

/// The first number of each segment with data.
pub fn starts(sent: &[Sent]) -> Vec<u32> {
    let with_data = sent.iter().filter(|sent| !sent.payload.is_empty());
    with_data.map(|sent| sent.numbers().0).collect()
}

/// A connection whose round-trip time was measured as 20 ms, with ten segments under way.
pub fn ten_under_way(options: TcpOptions) -> (Bed, virtroupe_wire::tcp::ConnectionId) {
    let mut bed = Bed::new();
    bed.rtt = milliseconds(20);
    let id = bed.accept(options);
    bed.write(id, &[0; 1000]);
    bed.now = bed.now + milliseconds(20);
    bed.ack(1, 1001);
    let sent = bed.write(id, &[0; 10_000]);
    assert_eq!(starts(&sent).len(), 10);
    (bed, id)
}

#[test]
fn what_is_not_acknowledged_is_sent_again_ever_later() {
    let (mut bed, id) = Bed::accepted(plain());
    bed.write(id, b"hello");
    let sent = bed.pass(seconds(100));
    let times: Vec<u128> = sent.iter().map(|(time, _)| time.as_millis()).collect();
    // The handshake took no time, so the timeout is the least one.
    let gaps: Vec<u128> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((200..210).contains(&times[0]), "{times:?}");
    for (count, gap) in gaps.iter().enumerate() {
        let expected = (200_u128 << (count + 1)).min(60_000);
        assert!(gap.abs_diff(expected) < 50, "{gaps:?}");
    }
    assert!(sent.iter().all(|(_, sent)| sent.payload == b"hello"));
    assert_eq!(bed.engine.counters().timeouts, times.len() as u64);
}

#[test]
fn a_gap_is_filled_as_soon_as_three_segments_arrived_behind_it() {
    let (mut bed, id) = ten_under_way(sacking());
    bed.now = bed.now + milliseconds(20);
    // Reordering of a quarter of a round trip is possible as long as little has arrived.
    assert_eq!(starts(&bed.sack(1, 1001, &[(2001, 3001)])), [0; 0]);
    assert_eq!(starts(&bed.sack(1, 1001, &[(2001, 4001)])), [0; 0]);
    assert_eq!(starts(&bed.sack(1, 1001, &[(2001, 5001)])), [1001]);
    assert_eq!(bed.engine.counters().recoveries, 1);
    let stats = bed.engine.stats(id).expect("it is there");
    assert!(stats.congestion_window < 10_000, "{stats:?}");
    // The rest arrives; the retransmission fills the gap: nothing else is sent again.
    bed.sack(1, 1001, &[(2001, 11_001)]);
    bed.now = bed.now + milliseconds(20);
    bed.ack(1, 11_001);
    assert_eq!(bed.engine.counters().retransmits, 1);
    assert_eq!(bed.engine.counters().timeouts, 0);
    let threshold = bed
        .engine
        .stats(id)
        .expect("it is there")
        .slow_start_threshold;
    assert_eq!(threshold, 7000, "0.7 of the ten segments under way");
}

#[test]
fn short_segments_count_as_segments_too() {
    let mut bed = Bed::new();
    bed.rtt = milliseconds(20);
    let options = TcpOptions {
        nodelay: true,
        ..sacking()
    };
    let id = bed.accept(options);
    for _ in 0..4 {
        bed.write(id, &[0; 100]);
    }
    bed.now = bed.now + milliseconds(20);
    assert_eq!(starts(&bed.sack(1, 1, &[(101, 201)])), [0; 0]);
    assert_eq!(starts(&bed.sack(1, 1, &[(101, 301)])), [0; 0]);
    assert_eq!(starts(&bed.sack(1, 1, &[(101, 401)])), [1]);
}

#[test]
fn without_three_a_gap_is_filled_after_the_window_of_reordering() {
    let (mut bed, _) = ten_under_way(sacking());
    bed.now = bed.now + milliseconds(20);
    assert_eq!(starts(&bed.sack(1, 1001, &[(2001, 3001)])), [0; 0]);
    let sent = bed.pass(milliseconds(10));
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert_eq!(sent[0].1.numbers().0, 1001);
    assert!(
        (5..7).contains(&sent[0].0.as_millis()),
        "a quarter of 20 ms: {:?}",
        sent[0].0
    );
}

#[test]
fn a_retransmission_that_is_lost_too_is_sent_again_without_a_timeout() {
    let (mut bed, id) = ten_under_way(sacking());
    bed.now = bed.now + milliseconds(20);
    assert_eq!(starts(&bed.sack(1, 1001, &[(2001, 8001)]))[0], 1001);
    bed.write(id, &[0; 5000]);
    bed.now = bed.now + milliseconds(20);
    // What was sent behind the retransmission arrives, and the retransmission does not.
    let mut again = starts(&bed.sack(1, 1001, &[(2001, 11_001)]));
    again.extend(starts(&bed.sack(1, 1001, &[(2001, 12_001)])));
    again.extend(
        bed.pass(milliseconds(10))
            .iter()
            .map(|(_, sent)| sent.numbers().0),
    );
    assert!(again.contains(&1001), "{again:?}");
    assert_eq!(bed.engine.counters().timeouts, 0);
}

#[test]
fn the_last_segment_is_probed_for() {
    let (mut bed, id) = Bed::accepted(sacking());
    bed.write(id, &[0; 1000]);
    bed.now = bed.now + milliseconds(20);
    bed.ack(1, 1001);
    assert_eq!(bed.write(id, &[0; 3000]).len(), 3);
    bed.now = bed.now + milliseconds(20);
    bed.ack(1, 2001);
    // Two are left, and were lost: nothing will tell.
    let sent = bed.pass(milliseconds(150));
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert_eq!(sent[0].1.numbers().0, 3001, "the last one");
    assert!(
        sent[0].0 < milliseconds(60),
        "two round trips: {:?}",
        sent[0].0
    );
    assert_eq!(bed.engine.counters().tail_probes, 1);
    // Its arrival shows that the one before was lost.
    bed.now = bed.now + milliseconds(20);
    let mut again = starts(&bed.sack(1, 2001, &[(3001, 4001)]));
    again.extend(
        bed.pass(milliseconds(10))
            .iter()
            .map(|(_, sent)| sent.numbers().0),
    );
    assert_eq!(again, [2001]);
    assert_eq!(bed.engine.counters().timeouts, 0);
}

#[test]
fn without_sack_three_duplicates_tell_of_a_loss_and_partial_ones_of_more() {
    let (mut bed, _) = ten_under_way(plain());
    bed.now = bed.now + milliseconds(20);
    assert_eq!(starts(&bed.ack(1, 1001)), [0; 0]);
    assert_eq!(starts(&bed.ack(1, 1001)), [0; 0]);
    assert_eq!(starts(&bed.ack(1, 1001)), [1001]);
    // RFC 6582: what is acknowledged up to the next hole shows where that is.
    assert_eq!(starts(&bed.ack(1, 4001)), [4001]);
    bed.ack(1, 11_001);
    assert_eq!(bed.engine.counters().retransmits, 2);
    assert_eq!(bed.engine.counters().timeouts, 0);
}

#[test]
fn what_arrives_out_of_order_is_reported_newest_first() {
    let (mut bed, id) = Bed::accepted(sacking());
    let answer = bed.data(2001, 1, &[2; 1000]);
    assert_eq!(answer[0].numbers(), (1, 1));
    assert_eq!(blocks(&answer[0].header.options.sack), [(2001, 3001)]);
    let answer = bed.data(4001, 1, &[4; 1000]);
    assert_eq!(
        blocks(&answer[0].header.options.sack),
        [(4001, 5001), (2001, 3001)]
    );
    let answer = bed.data(1001, 1, &[1; 1000]);
    assert_eq!(
        blocks(&answer[0].header.options.sack),
        [(1001, 3001), (4001, 5001)]
    );
    let answer = bed.data(1, 1, &[0; 1000]);
    assert_eq!(answer[0].numbers(), (1, 3001));
    assert_eq!(blocks(&answer[0].header.options.sack), [(4001, 5001)]);
    let answer = bed.data(3001, 1, &[3; 1000]);
    assert_eq!(answer[0].numbers(), (1, 5001));
    assert!(answer[0].header.options.sack.is_empty());
    let read = bed.read(id);
    assert!(
        read.iter()
            .enumerate()
            .all(|(at, byte)| usize::from(*byte) == at / 1000)
    );
}

#[test]
fn what_arrives_twice_is_reported() {
    let (mut bed, _) = Bed::accepted(sacking());
    bed.data(1, 1, &[0; 1000]);
    let answer = bed.data(1, 1, &[0; 1000]);
    assert_eq!(answer[0].numbers(), (1, 1001));
    assert_eq!(
        blocks(&answer[0].header.options.sack),
        [(1, 1001)],
        "once arrived already"
    );
    bed.data(3001, 1, &[3; 1000]);
    let answer = bed.data(3001, 1, &[3; 1000]);
    let reported = blocks(&answer[0].header.options.sack);
    assert_eq!(
        reported,
        [(3001, 4001), (3001, 4001)],
        "RFC 2883, section 4.2"
    );
    let answer = bed.data(1001, 1, &[1; 1000]);
    assert_eq!(
        blocks(&answer[0].header.options.sack),
        [(3001, 4001)],
        "only once"
    );
}

#[test]
fn a_receiver_that_takes_back_its_reports_gets_everything_again() {
    let (mut bed, _) = ten_under_way(sacking());
    bed.now = bed.now + milliseconds(20);
    bed.sack(1, 1001, &[(2001, 11_001)]);
    // It threw away what it had reported: the gap is filled, and nothing behind it is there.
    bed.now = bed.now + milliseconds(20);
    bed.ack(1, 2001);
    let mut again = std::collections::BTreeSet::new();
    let mut ack = 2001;
    for _ in 0..200 {
        let passed = bed.pass(milliseconds(100)).into_iter();
        let mut arriving: Vec<Sent> = passed.map(|(_, sent)| sent).collect();
        while let Some(sent) = arriving.pop() {
            again.insert(sent.numbers().0);
            if sent.numbers().0 <= ack {
                ack = ack.max(sent.numbers().0 + sent.payload.len() as u32);
            }
            arriving.extend(bed.ack(1, ack));
        }
    }
    assert!(
        again.contains(&2001) && again.contains(&10_001),
        "{again:?}"
    );
}

#[test]
fn a_duplicate_that_is_reported_widens_the_window_of_reordering() {
    let mut network = Network::new(FAMILY, Path::default(), 3);
    network.paths[0].jitter = milliseconds(8);
    let took = transfer(&mut network, options(), [3_000_000, 0]);
    let counters = network.engines[0].counters();
    assert_eq!(counters.timeouts, 0);
    let share = counters.retransmits as f64 / 2100.0;
    assert!(
        share < 0.05,
        "{} of some 2100 were sent again",
        counters.retransmits
    );
    assert!(took < seconds(20), "{took:?}");
}

#[test]
fn marks_reduce_the_window_once_in_a_round_trip_and_lose_nothing() {
    let path = Path {
        rate: 2_000_000,
        marking: 0.02,
        ..Path::default()
    };
    let mut network = Network::new(FAMILY, path, 5);
    transfer(&mut network, options(), [3_000_000, 0]);
    let counters = network.engines[0].counters();
    assert!(counters.ecn_reductions > 5, "{counters:?}");
    assert_eq!(counters.retransmits, 0);
    let off = TcpOptions {
        ecn: false,
        ..options()
    };
    let mut network = Network::new(FAMILY, path, 5);
    transfer(&mut network, off, [300_000, 0]);
    assert_eq!(network.engines[0].counters().ecn_reductions, 0);
}

#[test]
fn congestion_is_echoed_until_the_sender_has_reduced() {
    let mut bed = Bed::new();
    let listener = bed.listen(TcpOptions {
        ecn: true,
        ..plain()
    });
    let offer = TcpFlags::SYN.with(TcpFlags::ECE).with(TcpFlags::CWR);
    let answer = bed.send(offer, (0, 0), HeaderOptions::default(), b"");
    assert_eq!(
        answer[0].header.flags,
        TcpFlags::SYN.with(ACK).with(TcpFlags::ECE)
    );
    bed.ack(1, 1);
    let id = bed.engine.accept(bed.now, listener).expect("it is open");
    let mut marked = bed.segment(ACK, (1, 1), HeaderOptions::default(), b"one");
    marked.ecn = 3;
    bed.engine.receive_one(bed.now, marked);
    assert!(bed.sent()[0].has(TcpFlags::ECE));
    let reply = bed.write(id, b"reply");
    assert!(reply[0].has(TcpFlags::ECE), "still");
    assert_eq!(reply[0].ecn, 2, "data are capable of being marked");
    bed.send(
        ACK.with(TcpFlags::CWR),
        (4, 6),
        HeaderOptions::default(),
        b"two",
    );
    let ack = &bed.pass(milliseconds(50))[0].1;
    assert!(!ack.has(TcpFlags::ECE));
    assert_eq!(ack.ecn, 0, "acknowledgments are not");
}

#[test]
fn a_path_that_says_how_narrow_it_is_is_believed_within_reason() {
    let (mut bed, id) = Bed::accepted(TcpOptions {
        mss: None,
        ..sacking()
    });
    let sent = bed.write(id, &[0; 3000]);
    assert_eq!(starts(&sent).len(), 3);
    let flow = bed.engine.flow(id).expect("it is there");
    let report = |sequence: u32, mtu| TcpIcmp {
        flow,
        sequence: SeqNumber(OURS + sequence),
        kind: TcpIcmpKind::TooBig { mtu },
    };
    assert!(
        !bed.engine.handle_icmp(bed.now, &report(9000, 600)),
        "nothing of ours"
    );
    assert!(
        !bed.engine.handle_icmp(bed.now, &report(1, 1500)),
        "not lower"
    );
    if FAMILY == Family::V6 {
        // Every link takes 1280 bytes (RFC 8200, section 5), and the peer takes only 1000.
        assert!(!bed.engine.handle_icmp(bed.now, &report(1, 900)));
        return;
    }
    assert!(bed.engine.handle_icmp(bed.now, &report(1, 900)));
    let again = bed.sent();
    let lengths: Vec<usize> = again.iter().map(|sent| sent.payload.len()).collect();
    assert!(lengths.iter().all(|length| *length <= 860), "{lengths:?}");
    assert_eq!(starts(&again)[0], 1, "at once");
    assert_eq!(bed.engine.counters().recoveries, 0, "no sign of congestion");
    assert!(bed.engine.handle_icmp(bed.now, &report(1, 68)));
    assert_eq!(
        bed.engine.stats(id).expect("it is there").segment_size,
        496,
        "not lower"
    );
}

#[test]
fn a_narrow_path_is_tried_again_after_a_while() {
    let mut network = Network::new(FAMILY, Path::default(), 1);
    network.paths[0].mtu = 1300;
    let (client, server) = network.open(options());
    let mut written = 0;
    let mut send = |network: &mut Network| {
        let chunk = content(0, written, 50_000);
        written += 50_000;
        network.engines[0]
            .write(network.now, client, chunk)
            .expect("there is room");
        network.pass(seconds(20));
        while network.engines[1].read(network.now, server).is_some() {}
        let stats = network.engines[0].stats(client).expect("it is there");
        assert_eq!(stats.acknowledged, written);
        stats.segment_size
    };
    assert_eq!(send(&mut network), 1280 - HEADERS - 12);
    network.paths[0].mtu = 1500;
    assert_eq!(send(&mut network), 1280 - HEADERS - 12);
    network.pass(seconds(600));
    assert_eq!(send(&mut network), 1500 - HEADERS - 12);
}

#[test]
fn a_black_hole_is_escaped_from() {
    let mut network = Network::new(FAMILY, Path::default(), 1);
    network.paths[0].mtu = 1300;
    transfer(&mut network, options(), [200_000, 10_000]);
    assert_eq!(network.engines[0].counters().path_mtu_lowered, 1);
}

#[test]
fn every_algorithm_completes_over_a_lossy_path() {
    for congestion in [Congestion::Cubic, Congestion::Reno] {
        let path = Path {
            loss: 0.03,
            ..Path::default()
        };
        let mut network = Network::new(FAMILY, path, 9);
        let options = TcpOptions {
            congestion,
            ..options()
        };
        transfer(&mut network, options, [500_000, 0]);
    }
}

#[test]
fn a_connection_without_options_survives_a_bad_path() {
    for seed in 0..5 {
        let path = Path {
            loss: 0.05,
            jitter: milliseconds(5),
            duplication: 0.02,
            ..Path::default()
        };
        let mut network = Network::new(FAMILY, path, seed);
        let bare = TcpOptions {
            initial_sequence: None,
            ..plain()
        };
        transfer(&mut network, bare, [200_000, 50_000]);
    }
}

#[test]
fn numbers_wrap_without_notice() {
    let options = TcpOptions {
        initial_sequence: Some(SeqNumber(u32::MAX - 50_000)),
        ..options()
    };
    let path = Path {
        loss: 0.02,
        ..Path::default()
    };
    let mut network = Network::new(Family::V6, path, 2);
    transfer(&mut network, options, [300_000, 300_000]);
}

#[test]
fn one_large_segment_is_sent_for_many_if_that_is_allowed() {
    let mut network = Network::new(FAMILY, Path::default(), 1);
    network.engines[0].set_most_payload(65_000);
    transfer(&mut network, options(), [5_000_000, 0]);
    let counters = network.engines[0].counters();
    let segments = network.sent - network.engines[1].counters().tx_segments;
    assert!(
        counters.tx_segments * 4 < segments,
        "{counters:?} for {segments}"
    );
    assert_eq!(counters.retransmits, 0);
    // And over a path that loses.
    let mut network = Network::new(
        FAMILY,
        Path {
            loss: 0.01,
            ..Path::default()
        },
        1,
    );
    network.engines[0].set_most_payload(65_000);
    assert!(transfer(&mut network, options(), [3_000_000, 0]) < seconds(60));
}
