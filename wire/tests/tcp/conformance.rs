//! What the standards ask for at the border of what is acceptable.

use virtroupe_wire::Instant;
use virtroupe_wire::tcp::{
    HeaderOptions, Outgoing, SeqNumber, TcpError, TcpFlags, TcpIcmp, TcpIcmpKind, TcpOptions,
    TcpState, WindowScale, WindowScaling,
};

use crate::bed::{ACK, Bed, FIN, OURS, RST, SYN, Sent, plain};
use crate::network::{Network, Path};
use crate::support::{FAMILY, Family, content, milliseconds, options, seconds};

fn none() -> HeaderOptions {
    HeaderOptions::default()
}

/// RFC 9293, section 3.10.7.4, in SYN-RECEIVED: the sequence number first, then RST, SYN, ACK.
#[test]
fn a_half_open_connection_answers_what_is_not_acceptable() {
    let mut bed = Bed::new();
    let listener = bed.listen(plain());
    bed.send(SYN, (0, 0), none(), b"");
    let told = |sent: &[Sent]| {
        assert_eq!(sent.len(), 1);
        assert_eq!((sent[0].header.flags, sent[0].numbers()), (ACK, (1, 1)));
        // For the peer the connection may be open: no window would stop it.
        assert_eq!(sent[0].header.window, 65_535);
    };
    // Outside of the window, even if its acknowledgment is wrong too; behind it, not at all.
    told(&bed.ack(200_000, 1));
    told(&bed.ack(200_000, 50));
    // RFC 5961, sections 3.2 and 4.2: a RST within the window, and another SYN.
    told(&bed.send(RST, (2, 0), none(), b""));
    told(&bed.send(SYN, (7, 0), none(), b""));
    told(&bed.send(SYN, (900_000, 0), none(), b""));
    assert_eq!(bed.send(RST, (200_000, 0), none(), b""), []);
    // Within it, a wrong acknowledgment is refused.
    let answer = bed.ack(1, 50);
    assert_eq!((answer[0].header.flags, answer[0].numbers().0), (RST, 50));
    assert_eq!(bed.engine.usage().half_open, 1);
    bed.ack(1, 1);
    assert!(bed.engine.accept(bed.now, listener).is_some());
}

/// RFC 7323, section 2.2: only in segments with SYN it is not scaled.
#[test]
fn the_window_of_a_half_open_connection_is_scaled() {
    let mut bed = Bed::new();
    bed.listen(TcpOptions {
        window_scaling: WindowScaling::Fixed(WindowScale::new(2)),
        ..plain()
    });
    let scaled = HeaderOptions {
        window_scale: Some(WindowScale::new(7)),
        ..none()
    };
    let answer = bed.send(SYN, (0, 0), scaled, b"");
    assert_eq!(answer[0].header.window, 65_535);
    let answer = bed.ack(200_000, 1);
    assert_eq!(answer[0].header.window, 65_535 >> 2);
}

/// A client that begins anew with another number learns of the old attempt, and ends it.
#[test]
fn a_client_that_began_anew_gets_through() {
    let mut bed = Bed::new();
    bed.listen(plain());
    bed.send(SYN, (0, 0), none(), b"");
    let answer = bed.send(SYN, (5_000, 0), none(), b"");
    // RFC 9293, section 3.10.7.3: in SYN-SENT, that is answered by a reset.
    assert!(answer[0].has(ACK) && !answer[0].has(SYN));
    bed.send(RST, (answer[0].numbers().1, 0), none(), b"");
    let answer = bed.send(SYN, (5_000, 0), none(), b"");
    assert_eq!(answer[0].header.flags, SYN.with(ACK));
    assert_eq!(answer[0].numbers().1, 5_001);
}

/// RFC 5961, section 4.2: whatever else it has or has not.
#[test]
fn a_syn_without_timestamp_is_challenged_too() {
    let mut bed = Bed::new();
    bed.timestamp = Some(100);
    bed.accept(TcpOptions {
        timestamps: true,
        ..plain()
    });
    bed.timestamp = None;
    let answer = bed.send(SYN, (900_000, 0), none(), b"");
    assert_eq!(answer.len(), 1);
    assert_eq!((answer[0].header.flags, answer[0].numbers()), (ACK, (1, 1)));
}

/// RFC 7323, section 2.2: no window of a SYN is scaled, nor that of a SYN-ACK which is only an
/// acknowledgment.
#[test]
fn the_window_of_a_simultaneous_syn_ack_is_not_scaled() {
    let mut bed = Bed::new();
    bed.window = 2000;
    let id = bed.connect(TcpOptions {
        window_scaling: WindowScaling::Fixed(WindowScale::new(2)),
        ..plain()
    });
    bed.sent();
    let offer = HeaderOptions {
        window_scale: Some(WindowScale::new(7)),
        mss: Some(1000),
        ..none()
    };
    bed.send(SYN, (0, 0), offer, b"");
    assert_eq!(bed.engine.state(id), Some(TcpState::SynReceived));
    bed.send(SYN.with(ACK), (0, 1), offer, b"");
    assert_eq!(bed.engine.state(id), Some(TcpState::Established));
    assert_eq!(bed.engine.stats(id).expect("open").peer_window, 2000);
    bed.ack(1, 1);
    assert_eq!(bed.engine.stats(id).expect("open").peer_window, 2000 << 7);
}

/// What was announced in a SYN-ACK is what may be used, until more is announced.
#[test]
fn the_window_is_what_was_announced() {
    let (mut bed, id) = Bed::accepted(plain());
    let answer = bed.data(1 + 65_535, 1, b"beyond");
    assert_eq!(answer[0].numbers(), (1, 1));
    assert_eq!(bed.engine.stats(id).expect("open").records, 0, "not kept");
    assert_eq!(bed.send(RST, (1 + 65_535, 0), none(), b""), []);
    let answer = bed.send(RST, (65_535, 0), none(), b"");
    assert_eq!(answer[0].header.flags, ACK, "a challenge");
    assert_eq!(bed.engine.state(id), Some(TcpState::Established));
}

/// RFC 9293, section 3.8.6: a window that shrank and opened again.
#[test]
fn what_a_shrinking_window_dropped_is_sent_again_when_it_opens() {
    let (mut bed, id) = Bed::accepted(plain());
    assert_eq!(bed.write(id, &[1; 1000]).len(), 1);
    bed.window = 0;
    bed.ack(1, 1);
    bed.window = 60_000;
    let mut sent = bed.ack(1, 1);
    sent.extend(bed.pass(seconds(5)).into_iter().map(|(_, sent)| sent));
    assert!(sent.iter().any(|it| it.payload.len() == 1000), "{sent:?}");
}

/// No more than a segment probes a window that has closed over what is under way.
#[test]
fn a_closed_window_is_probed_by_one_segment() {
    let (mut bed, id) = Bed::accepted(plain());
    bed.engine.set_most_payload(65_000);
    let written = bed.engine.write(bed.now, id, content(0, 0, 8000));
    assert_eq!(written.map_err(|(error, _)| error), Ok(()));
    let mut outgoing = Outgoing::new();
    assert!(bed.engine.poll_transmit(bed.now, &mut outgoing));
    assert_eq!(outgoing.payload_length(), 8000);
    bed.window = 0;
    bed.ack(1, 1);
    for _ in 0..3 {
        bed.now = bed.now + seconds(10);
        bed.engine.handle_timeout(bed.now);
        assert!(bed.engine.poll_transmit(bed.now, &mut outgoing));
        assert_eq!(outgoing.payload_length(), 1000);
        assert!(!bed.engine.poll_transmit(bed.now, &mut outgoing));
    }
}

/// RFC 3168, section 6.1.6: neither ECT nor CWR on a window probe.
#[test]
fn a_window_probe_is_not_ecn_capable() {
    let mut bed = Bed::new();
    let listener = bed.listen(TcpOptions {
        ecn: true,
        ..plain()
    });
    let ecn = TcpFlags::ECE.with(TcpFlags::CWR);
    bed.send(SYN.with(ecn), (0, 0), none(), b"");
    bed.ack(1, 1);
    let id = bed.engine.accept(bed.now, listener).expect("open");
    assert_eq!(bed.write(id, b"data")[0].ecn, 2);
    bed.window = 0;
    bed.ack(1, 5);
    bed.write(id, b"probe");
    let sent = bed.pass(seconds(2));
    assert_eq!(sent[0].1.payload, b"p");
    assert!(sent.iter().all(|(_, probe)| probe.ecn == 0));
}

/// What arrives with the acknowledgment that ends a connection is too late to be answered, also data
/// on which congestion was marked: nothing stays of the connection.
#[test]
fn a_mark_behind_the_last_acknowledgment_keeps_no_connection() {
    let mut bed = Bed::new();
    let listener = bed.listen(TcpOptions {
        ecn: true,
        ..plain()
    });
    let ecn = TcpFlags::ECE.with(TcpFlags::CWR);
    bed.send(SYN.with(ecn), (0, 0), none(), b"");
    bed.ack(1, 1);
    let id = bed.engine.accept(bed.now, listener).expect("open");
    bed.send(FIN.with(ACK), (1, 1), none(), b"");
    bed.engine.close(bed.now, id);
    assert!(bed.sent().iter().any(|sent| sent.has(FIN)));
    let mut last = bed.segment(ACK, (2, 2), none(), b"late");
    last.ecn = 3;
    bed.engine.receive_one(bed.now, last);
    assert_eq!(bed.sent(), []);
    assert_eq!(bed.engine.usage().connections, 0);
}

/// RFC 6298, section 5, and Karn: what was sent twice says nothing, so the timeout stays long
/// until something that was sent once is acknowledged.
#[test]
fn the_timeout_stays_doubled_until_there_is_a_sample() {
    let mut bed = Bed::new();
    bed.rtt = milliseconds(100);
    let id = bed.accept(plain());
    let timeout = |bed: &Bed| bed.engine.stats(id).expect("open").timeout;
    let base = timeout(&bed);
    bed.write(id, &[1; 1000]);
    bed.pass(base + milliseconds(1));
    assert_eq!(timeout(&bed), base * 2);
    bed.ack(1, 1001);
    assert_eq!(timeout(&bed), base * 2, "which was acknowledged?");
    bed.write(id, &[1; 1000]);
    bed.pass(milliseconds(100));
    bed.ack(1, 2001);
    assert!(timeout(&bed) <= base);
}

/// A path that has become slower than the timeout: without Karn's rule nothing is ever measured.
#[test]
fn a_path_that_became_slow_is_measured() {
    // A tail loss probe sends a lone segment again each time: only timestamps tell then.
    for (timestamps, length) in [(false, 5000), (true, 500)] {
        let mut network = Network::new(FAMILY, Path::default(), 1);
        let (client, _) = network.open(TcpOptions {
            timestamps,
            ..options()
        });
        network.pass(milliseconds(100));
        network.paths = [Path {
            delay: seconds(1),
            ..Path::default()
        }; 2];
        for _ in 0..8 {
            network.engines[0]
                .write(network.now, client, content(0, 0, length))
                .expect("there is room");
            network.pass(seconds(8));
        }
        let stats = network.engines[0].stats(client).expect("open");
        assert!(stats.rtt > milliseconds(1000), "{timestamps} {stats:?}");
    }
}

/// RFC 9293, section 3.10.7.4, in TIME-WAIT: what is not acceptable is acknowledged, and only the
/// FIN that the peer sends again begins the wait anew.
#[test]
fn time_wait_answers_what_is_old_and_is_not_prolonged_by_anything_else() {
    let (mut bed, id) = Bed::accepted(plain());
    bed.engine.close(bed.now, id);
    bed.sent();
    bed.send(FIN.with(ACK), (1, 2), none(), b"");
    assert_eq!(bed.engine.usage().time_wait, 1);
    bed.pass(seconds(30));
    assert_eq!(bed.ack(2, 2), [], "as expected");
    let answer = bed.ack(1, 2);
    assert_eq!(answer[0].numbers(), (2, 2), "a keepalive probe");
    assert_eq!(bed.ack(1, 2), [], "two that disagree do not go on for ever");
    bed.send(FIN.with(ACK), (77, 2), none(), b"");
    bed.pass(seconds(31));
    assert_eq!(bed.engine.usage().time_wait, 0);
}

/// RFC 9293, section 3.6.1: a SYN may end TIME-WAIT if the new initial sequence number is behind
/// all numbers that the old connection used.
#[test]
fn a_connection_in_place_of_time_wait_begins_behind_it() {
    let mut bed = Bed::new();
    let listener = bed.listen(TcpOptions {
        initial_sequence: None,
        ..plain()
    });
    let first = bed.send(SYN, (0, 0), none(), b"")[0].header.sequence;
    let ours = first.0.wrapping_sub(OURS);
    bed.ack(1, ours.wrapping_add(1));
    let id = bed.engine.accept(bed.now, listener).expect("open");
    let mut acked = ours.wrapping_add(1);
    for _ in 0..40 {
        let sent = bed.write(id, &[1; 500]);
        acked = acked.wrapping_add(sent.iter().map(|it| it.payload.len() as u32).sum());
        bed.ack(1, acked);
    }
    bed.engine.close(bed.now, id);
    let end = bed.sent()[0].header.sequence + 1;
    bed.send(FIN.with(ACK), (1, end.0.wrapping_sub(OURS)), none(), b"");
    assert_eq!(bed.engine.usage().time_wait, 1);
    bed.pass(milliseconds(10));
    let again = bed.send(SYN, (100, 0), none(), b"");
    assert_eq!(again[0].header.flags, SYN.with(ACK));
    assert!(end.is_before(again[0].header.sequence), "{end:?} {again:?}");
}

/// RFC 8201, section 4: no IPv6 path is narrower than 1280 bytes.
#[test]
fn an_ipv6_path_is_never_narrower_than_the_least() {
    let mut network = Network::new(Family::V6, Path::default(), 1);
    let (client, _) = network.open(TcpOptions {
        timestamps: false,
        initial_sequence: Some(SeqNumber(OURS)),
        ..options()
    });
    network.pass(milliseconds(100));
    network.engines[0]
        .write(network.now, client, content(0, 0, 5000))
        .expect("open");
    let flow = network.engines[0].flow(client).expect("open");
    // It is under way: handed to the network.
    let mut outgoing = Outgoing::new();
    assert!(network.engines[0].poll_transmit(network.now, &mut outgoing));
    let icmp = TcpIcmp {
        flow,
        sequence: outgoing.header.sequence,
        kind: TcpIcmpKind::TooBig { mtu: 600 },
    };
    assert!(!network.engines[0].handle_icmp(network.now, &icmp));
    let stats = network.engines[0].stats(client).expect("open");
    assert_eq!(stats.segment_size, 1440);
}

/// RFC 7323, section 4.3: the segment counts as it was sent, not as it is after trimming.
#[test]
fn the_timestamp_of_a_segment_that_was_sent_again_is_echoed() {
    let mut bed = Bed::new();
    bed.timestamp = Some(100);
    bed.accept(TcpOptions {
        timestamps: true,
        ..plain()
    });
    // Its acknowledgment is delayed.
    assert_eq!(bed.data(1, 1, &[1; 1000]), []);
    bed.timestamp = Some(200);
    let answer = bed.data(1, 1, &[1; 2000]);
    let echoed = answer[0].header.options.timestamps.map(|it| it.echo);
    assert_eq!((answer[0].numbers().1, echoed), (2001, Some(200)));
}

/// Nothing follows a FIN.
#[test]
fn data_behind_a_fin_is_not_taken() {
    let (mut bed, id) = Bed::accepted(plain());
    bed.send(FIN.with(ACK), (6, 1), none(), b"world");
    bed.data(11, 1, b"more");
    bed.data(1, 1, b"hello");
    assert_eq!(bed.engine.state(id), Some(TcpState::CloseWait));
    assert_eq!(bed.read(id), b"helloworld");
}

/// RFC 9293, section 3.10.5: in CLOSING and LAST-ACK an abort says nothing more.
#[test]
fn an_abort_after_both_have_finished_is_silent() {
    let (mut bed, id) = Bed::accepted(plain());
    bed.send(FIN.with(ACK), (1, 1), none(), b"");
    bed.engine.finish(bed.now, id);
    assert!(bed.sent()[0].has(FIN));
    assert_eq!(bed.engine.state(id), Some(TcpState::LastAck));
    bed.engine.abort(bed.now, id);
    assert_eq!(bed.sent(), []);
    assert_eq!(bed.engine.usage().connections, 0);
}

/// RFC 9293, section 3.10.7.4: a peer that has forgotten the connection takes nothing away from it; but
/// what it did not acknowledge is lost.
#[test]
fn a_reset_after_both_have_finished_is_no_failure_if_the_peer_has_everything() {
    for (acknowledged, expected) in [(6, None), (3, Some(TcpError::Reset))] {
        let (mut bed, id) = Bed::accepted(plain());
        bed.write(id, b"hello");
        bed.send(FIN.with(ACK), (1, acknowledged), none(), b"");
        bed.engine.finish(bed.now, id);
        assert!(bed.sent().iter().any(|sent| sent.has(FIN)));
        assert_eq!(bed.engine.state(id), Some(TcpState::LastAck));
        bed.send(RST, (2, 0), none(), b"");
        assert_eq!(bed.engine.state(id), Some(TcpState::Closed));
        assert_eq!(bed.engine.error(id), expected);
    }
}

/// RFC 7323, section 3.2: what an open connection would drop does not open one.
#[test]
fn an_acknowledgment_without_timestamp_does_not_open_a_connection() {
    let mut bed = Bed::new();
    bed.timestamp = Some(100);
    let listener = bed.listen(TcpOptions {
        timestamps: true,
        ..plain()
    });
    bed.send(SYN, (0, 0), none(), b"");
    // One that is older than that of the SYN is answered, too.
    for (timestamp, answers) in [(None, 0), (Some(99), 1)] {
        bed.timestamp = timestamp;
        assert_eq!(bed.ack(1, 1).len(), answers);
        assert_eq!(bed.engine.accept(bed.now, listener), None);
    }
    bed.timestamp = Some(100);
    bed.ack(1, 1);
    assert!(bed.engine.accept(bed.now, listener).is_some());
}

/// Whatever the numbers, TIME-WAIT and SYN-RECEIVED compute with them modulo 2^32.
#[test]
fn numbers_far_away_are_only_answered() {
    for far in [0x7fff_fffe, 0x7fff_ffff, 0x8000_0000, 0x8000_0001] {
        let mut bed = Bed::new();
        bed.listen(plain());
        bed.send(SYN, (0, 0), none(), b"");
        assert_eq!(bed.data(far, 1, &[1; 1000]).len(), 1);
        assert_eq!(bed.send(SYN.with(RST), (0, 0), none(), b""), []);
        let (mut bed, id) = Bed::accepted(plain());
        bed.engine.close(bed.now, id);
        bed.sent();
        bed.send(FIN.with(ACK), (1, 2), none(), b"");
        let answer = bed.send(FIN.with(ACK), (far, 2), none(), &[1; 1000]);
        assert_eq!(answer[0].numbers(), (2, 2));
        assert_eq!(bed.engine.usage().time_wait, 1);
    }
}

/// The caller's clock may begin anywhere.
#[test]
fn time_may_begin_long_after_the_epoch() {
    let mut bed = Bed::new();
    bed.now = Instant::from_nanos(1_800_000_000_000_000_000);
    bed.listen(plain());
    bed.send(SYN, (0, 0), none(), b"");
    let sent = bed.pass(seconds(100));
    let times: Vec<u64> = sent.iter().map(|(time, _)| time.as_secs()).collect();
    assert_eq!(times, [1, 3, 7, 15, 31]);
}
