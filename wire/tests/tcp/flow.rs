//! Windows and acknowledgments (RFC 9293, sections 3.7.4 and 3.8.6; RFC 5681, section 4.2).

use virtroupe_wire::tcp::{
    ConnectionId, HeaderOptions, Keepalive, Readiness, Segment, TcpConfig, TcpError, TcpEvent,
    TcpOptions, TcpState,
};

use crate::bed::{ACK, Bed, FIN, RST, Sent, plain};
use crate::network::{Network, Path};
use crate::support::{FAMILY, content, milliseconds, options, seconds};

fn lengths(sent: &[Sent]) -> Vec<usize> {
    sent.iter().map(|sent| sent.payload.len()).collect()
}

#[test]
fn every_second_full_segment_is_acknowledged_at_once() {
    let (mut bed, _) = Bed::accepted(plain());
    assert_eq!(bed.data(1, 1, &[1; 1000]), []);
    let answer = bed.data(1001, 1, &[1; 1000]);
    assert_eq!(answer.len(), 1);
    assert_eq!(answer[0].numbers(), (1, 2001));
    assert_eq!(bed.data(2001, 1, &[1; 1000]), []);
    let late = bed.pass(milliseconds(100));
    assert_eq!(late.len(), 1);
    assert!((40..42).contains(&late[0].0.as_millis()), "{:?}", late[0].0);
    assert_eq!(late[0].1.numbers(), (1, 3001));
}

#[test]
fn a_merged_segment_counts_as_what_it_was_made_of() {
    let (mut bed, _) = Bed::accepted(plain());
    let segment = bed.segment(ACK, (1, 1), HeaderOptions::default(), &[1; 4000]);
    bed.engine.receive_one(
        bed.now,
        Segment {
            merged: 4,
            ..segment
        },
    );
    assert_eq!(bed.sent().len(), 1);
    // Without being told, by its length.
    let segment = bed.segment(ACK, (4001, 1), HeaderOptions::default(), &[1; 3000]);
    bed.engine.receive_one(bed.now, segment);
    assert_eq!(bed.sent().len(), 1);
}

#[test]
fn a_reply_carries_the_acknowledgment() {
    let (mut bed, id) = Bed::accepted(plain());
    bed.data(1, 1, b"request");
    let reply = bed.write(id, b"reply");
    assert_eq!(reply.len(), 1);
    assert_eq!(reply[0].numbers(), (1, 8));
    bed.ack(8, 6);
    assert_eq!(bed.pass(seconds(10)), []);
}

/// A bed whose engine waits with the acknowledgment of an end, and an open connection.
fn waiting_for_our_end() -> (Bed, ConnectionId) {
    let mut bed = Bed::with(TcpConfig {
        delay_end_acks: true,
        ..TcpConfig::default()
    });
    let id = bed.accept(plain());
    (bed, id)
}

#[test]
fn our_end_carries_the_acknowledgment_of_the_peers_if_so_set() {
    let (mut bed, id) = waiting_for_our_end();
    let none = HeaderOptions::default;
    assert_eq!(bed.send(FIN.with(ACK), (1, 1), none(), b""), []);
    bed.engine.finish(bed.now, id);
    let end = bed.sent();
    assert_eq!(end.len(), 1);
    assert!(end[0].has(FIN.with(ACK)));
    assert_eq!(end[0].numbers(), (1, 2));
    bed.ack(2, 2);
    assert_eq!(bed.pass(seconds(10)), []);
}

#[test]
fn an_end_is_acknowledged_in_time_though_ours_does_not_come() {
    let (mut bed, id) = waiting_for_our_end();
    let none = HeaderOptions::default;
    assert_eq!(bed.send(FIN.with(ACK), (1, 1), none(), b""), []);
    let late = bed.pass(milliseconds(100));
    assert_eq!(late.len(), 1);
    assert!((40..42).contains(&late[0].0.as_millis()), "{:?}", late[0].0);
    assert_eq!(late[0].1.numbers(), (1, 2));
    // It was lost: now it is not waited for.
    let again = bed.send(FIN.with(ACK), (1, 1), none(), b"");
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].numbers(), (1, 2));
    assert_eq!(bed.engine.state(id), Some(TcpState::CloseWait));
}

#[test]
fn an_end_that_answers_ours_or_comes_too_early_is_acknowledged_at_once() {
    let none = HeaderOptions::default;
    let (mut bed, _) = waiting_for_our_end();
    // The byte before it is missing.
    let early = bed.send(FIN.with(ACK), (2, 1), none(), b"");
    assert_eq!(early.len(), 1);
    assert_eq!(early[0].numbers(), (1, 1));
    let (mut bed, id) = waiting_for_our_end();
    bed.engine.finish(bed.now, id);
    assert_eq!(bed.sent().len(), 1);
    let answer = bed.send(FIN.with(ACK), (1, 2), none(), b"");
    assert_eq!(answer.len(), 1);
    assert_eq!(answer[0].numbers(), (2, 2));
}

/// Who sleeps until the next deadline is not woken at once by a timer that has fired.
#[test]
fn a_timer_that_has_fired_is_no_deadline_any_more() {
    let (mut bed, _) = Bed::accepted(plain());
    assert_eq!(bed.data(1, 1, b"x"), []);
    while bed.sent().is_empty() {
        let deadline = bed.engine.next_deadline();
        bed.now = deadline.expect("an acknowledgment is due");
        bed.engine.handle_timeout(bed.now);
    }
    let soon = bed.now + milliseconds(10);
    let next = bed.engine.next_deadline();
    assert!(next.is_none_or(|next| next > soon), "{next:?}");
}

#[test]
fn acknowledgments_are_not_delayed_if_so_set() {
    let options = TcpOptions {
        ack_delay: milliseconds(0),
        ..plain()
    };
    let mut bed = Bed::with(TcpConfig {
        delay_end_acks: true,
        ..TcpConfig::default()
    });
    bed.accept(options);
    assert_eq!(bed.data(1, 1, b"x").len(), 1);
    let end = bed.send(FIN.with(ACK), (2, 1), HeaderOptions::default(), b"");
    assert_eq!(end.len(), 1);
    assert_eq!(end[0].numbers(), (1, 3));
}

#[test]
fn the_window_closes_when_nobody_reads_and_its_opening_is_announced() {
    let options = TcpOptions {
        receive_buffer: 16_384,
        initial_receive_buffer: 16_384,
        ..plain()
    };
    let (mut bed, id) = Bed::accepted(options);
    let mut sequence = 1;
    let window = loop {
        let answers = bed.data(sequence, 1, &content(0, 0, 1000));
        sequence += 1000;
        let window = answers.last().map(|answer| answer.header.window);
        if window.is_some_and(|window| window < 1000) {
            break window;
        }
        assert!(sequence < 100_000, "the window does not close");
    };
    // What was announced is kept, and no more is: not the 500 bytes that would fit.
    let left = window.unwrap_or(0);
    bed.data(sequence, 1, &content(0, 0, left.into()));
    sequence += u32::from(left);
    bed.pass(milliseconds(50));
    // A probe is answered, and not taken.
    let answer = bed.data(sequence, 1, b"p");
    assert_eq!(answer[0].numbers(), (1, sequence));
    assert_eq!(answer[0].header.window, 0);
    bed.read(id);
    let update = bed.sent();
    assert_eq!(update.len(), 1);
    assert!(
        update[0].header.window > 8000,
        "{}",
        update[0].header.window
    );
    assert_eq!(update[0].numbers(), (1, sequence));
}

#[test]
fn the_right_edge_of_the_window_never_moves_back() {
    let options = TcpOptions {
        receive_buffer: 65_536,
        initial_receive_buffer: 65_536,
        ack_delay: milliseconds(0),
        ..plain()
    };
    let (mut bed, _) = Bed::accepted(options);
    let mut edge = 0;
    for segment in 0..60 {
        // Short payloads in long buffers: memory goes faster than the window.
        let answer = bed.data(1 + segment * 300, 1, &[0; 300]);
        let (_, ack) = answer[0].numbers();
        let new = ack + u32::from(answer[0].header.window);
        assert!(new >= edge, "{new} after {edge}");
        edge = new;
    }
}

#[test]
fn a_closed_window_is_probed_ever_less_often_and_for_as_long_as_it_takes() {
    let (mut bed, id) = Bed::accepted(plain());
    bed.window = 0;
    bed.ack(1, 1);
    assert_eq!(bed.write(id, b"waiting"), []);
    let mut times = Vec::new();
    let start = bed.now;
    while bed.now.since(start) < seconds(1000) {
        for (_, probe) in bed.pass(milliseconds(100)) {
            assert_eq!((probe.numbers().0, probe.payload.len()), (1, 1));
            times.push(bed.now.since(start).as_millis());
            // Alive, but not reading.
            bed.ack(1, 1);
        }
    }
    let gaps: Vec<u128> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(
        gaps.windows(2).all(|pair| pair[1] + 100 >= pair[0]),
        "{gaps:?}"
    );
    assert!(gaps.iter().all(|gap| *gap <= 60_100), "{gaps:?}");
    assert!((10..40).contains(&times.len()), "{times:?}");
    assert_eq!(bed.engine.state(id), Some(TcpState::Established));
    bed.window = 1000;
    let sent = bed.ack(1, 1);
    let all: Vec<u8> = sent.iter().flat_map(|sent| sent.payload.clone()).collect();
    assert_eq!(all, b"waiting", "at once when it opens: {sent:?}");
}

#[test]
fn a_silent_peer_with_a_closed_window_is_given_up() {
    let (mut bed, id) = Bed::accepted(plain());
    bed.window = 0;
    bed.ack(1, 1);
    bed.write(id, b"waiting");
    bed.pass(seconds(400));
    assert_eq!(bed.engine.error(id), Some(TcpError::TimedOut));
}

#[test]
fn nagle_holds_a_short_segment_back_while_another_is_under_way() {
    let (mut bed, id) = Bed::accepted(plain());
    assert_eq!(
        lengths(&bed.write(id, &[1; 1100])),
        [1000],
        "the rest waits"
    );
    assert_eq!(lengths(&bed.write(id, &[1; 900])), [1000], "now it is full");
    assert_eq!(lengths(&bed.write(id, b"short")), [0; 0]);
    assert_eq!(lengths(&bed.ack(1, 2001)), [5]);
    assert_eq!(lengths(&bed.write(id, b"short")), [0; 0]);
    bed.engine.set_nodelay(bed.now, id, true);
    assert_eq!(lengths(&bed.sent()), [5]);
    assert_eq!(lengths(&bed.write(id, b"x")), [1]);
    assert_eq!(lengths(&bed.write(id, b"y")), [1]);
}

#[test]
fn no_silly_segment_fills_a_small_window() {
    let (mut bed, id) = Bed::accepted(plain());
    bed.window = 1500;
    bed.ack(1, 1);
    assert_eq!(
        lengths(&bed.write(id, &[1; 5000])),
        [1000],
        "500 bytes of window stay"
    );
    bed.window = 1000;
    assert_eq!(lengths(&bed.ack(1, 1001)), [1000]);
}

#[test]
fn a_full_send_buffer_refuses_and_tells_when_there_is_room() {
    let options = TcpOptions {
        send_buffer: 10_000,
        ..plain()
    };
    let (mut bed, id) = Bed::accepted(options);
    bed.write(id, &[1; 10_000]);
    assert_eq!(bed.engine.room(id), 0);
    let refused = bed.engine.write(bed.now, id, content(0, 0, 1));
    assert!(refused.is_err_and(|(_, chunk)| chunk.len() == 1));
    while bed.engine.poll_event().is_some() {}
    bed.ack(1, 5001);
    let writable = Readiness {
        writable: true,
        ..Readiness::default()
    };
    assert_eq!(
        bed.engine.poll_event(),
        Some(TcpEvent::Connection(id, writable))
    );
    assert_eq!(bed.engine.room(id), 5000);
}

#[test]
fn keepalive_finds_out_that_the_peer_has_gone() {
    let options = TcpOptions {
        keepalive: Some(Keepalive {
            idle: seconds(60),
            interval: seconds(10),
            probes: 3,
        }),
        ..plain()
    };
    let (mut bed, id) = Bed::accepted(options);
    bed.pass(seconds(30));
    bed.data(1, 1, b"alive");
    let sent = bed.pass(seconds(200));
    let probes: Vec<(u64, (u32, u32))> = sent
        .iter()
        .filter(|(_, sent)| sent.numbers().0 == 0)
        .map(|(time, sent)| (time.as_secs(), sent.numbers()))
        .collect();
    assert_eq!(probes, [(60, (0, 6)), (70, (0, 6)), (80, (0, 6))]);
    assert!(
        sent.last()
            .is_some_and(|(time, last)| last.has(RST) && time.as_secs() == 90)
    );
    assert_eq!(bed.engine.error(id), Some(TcpError::KeepaliveTimedOut));
}

#[test]
fn keepalive_goes_on_while_the_peer_answers() {
    let options = TcpOptions {
        keepalive: Some(Keepalive {
            idle: seconds(60),
            interval: seconds(10),
            probes: 3,
        }),
        ..plain()
    };
    let (mut bed, id) = Bed::accepted(options);
    for _ in 0..20 {
        let probe = bed.pass(seconds(61));
        assert!(probe.len() <= 1);
        if !probe.is_empty() {
            bed.ack(1, 1);
        }
    }
    assert_eq!(bed.engine.state(id), Some(TcpState::Established));
}

#[test]
fn what_is_not_acknowledged_for_the_user_timeout_ends_the_connection() {
    let options = TcpOptions {
        user_timeout: seconds(20),
        ..plain()
    };
    let (mut bed, id) = Bed::accepted(options);
    bed.write(id, b"hello?");
    bed.pass(seconds(19));
    assert_eq!(bed.engine.state(id), Some(TcpState::Established));
    bed.pass(seconds(2));
    assert_eq!(bed.engine.error(id), Some(TcpError::TimedOut));
    assert_eq!(bed.engine.next_deadline(), None);
}

#[test]
fn short_segments_share_memory() {
    let (mut bed, id) = Bed::accepted(plain());
    for sequence in 0..1000 {
        bed.data(1 + sequence, 1, &[sequence as u8]);
    }
    assert!(bed.engine.usage().receive_memory <= 4096);
    let read = bed.read(id);
    assert!(read.iter().enumerate().all(|(at, byte)| *byte == at as u8) && read.len() == 1000);
    assert_eq!(bed.engine.usage().receive_memory, 0);
}

#[test]
fn a_reader_that_keeps_up_gets_a_larger_window() {
    let path = Path {
        delay: milliseconds(50),
        ..Path::default()
    };
    let mut network = Network::new(FAMILY, path, 1);
    let (client, server) = network.open(options());
    let before = network.engines[1]
        .stats(server)
        .expect("it is there")
        .receive_window;
    for _ in 0..5000 {
        let chunk = content(0, 0, 100_000);
        let _ = network.engines[0].write(network.now, client, chunk);
        network.step();
        while network.engines[1].read(network.now, server).is_some() {}
    }
    let after = network.engines[1]
        .stats(server)
        .expect("it is there")
        .receive_window;
    assert!(after >= 8 * before, "{before} became {after}");
    assert_eq!(network.engines[0].counters().retransmits, 0);
}
