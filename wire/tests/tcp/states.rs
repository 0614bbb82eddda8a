//! Opening and closing (RFC 9293, sections 3.5, 3.6 and 3.10).

use virtroupe_wire::tcp::{
    Flow, HeaderOptions, Readiness, SeqNumber, TcpConnectError, TcpError, TcpEvent, TcpFlags,
    TcpIcmp, TcpIcmpKind, TcpOptions, TcpState, WindowScale, WindowScaling, WriteError,
};
use virtroupe_wire::{Buffer, DropReason};

use crate::bed::{ACK, Bed, FIN, OURS, PSH, RST, SYN, flow, plain};
use crate::network::{Network, Path};
use crate::support::{
    FAMILIES, FAMILY, Family, HEADERS, address, content, milliseconds, options, seconds,
};

fn none() -> HeaderOptions {
    HeaderOptions::default()
}

#[test]
fn a_syn_offers_what_is_set() {
    let mut bed = Bed::new();
    bed.connect(TcpOptions {
        initial_sequence: Some(SeqNumber(OURS)),
        mss: Some(1200),
        window_scaling: WindowScaling::Fixed(WindowScale::new(3)),
        dscp: 46,
        ..options()
    });
    let syn = &bed.sent()[0];
    assert_eq!(syn.header.sequence, SeqNumber(OURS));
    assert_eq!(syn.dscp, 46);
    assert_eq!(
        syn.header.flags,
        SYN.with(TcpFlags::ECE).with(TcpFlags::CWR)
    );
    let offered = syn.header.options;
    assert_eq!(offered.mss, Some(1200));
    assert_eq!(offered.window_scale, Some(WindowScale::new(3)));
    assert!(offered.sack_permitted);
    assert_eq!(offered.timestamps.expect("offered").echo, 0);

    let mut bed = Bed::new();
    bed.connect(TcpOptions {
        window_scaling: WindowScaling::Off,
        ..plain()
    });
    let offered = bed.sent()[0].header.options;
    let bare = HeaderOptions {
        mss: Some(1500 - HEADERS),
        ..none()
    };
    assert_eq!(offered, bare);
}

#[test]
fn nothing_is_used_that_the_peer_did_not_offer() {
    let mut bed = Bed::new();
    bed.listen(TcpOptions {
        initial_sequence: Some(SeqNumber(OURS)),
        ..options()
    });
    let answer = bed.send(SYN, (0, 0), none(), b"");
    assert_eq!(
        answer[0].header.options,
        HeaderOptions {
            mss: Some(1500 - HEADERS),
            ..none()
        }
    );
    assert_eq!(answer[0].header.flags, SYN.with(ACK));
    // The window of a SYN is not scaled (RFC 7323, section 2.2), nor are those behind it here.
    assert_eq!(answer[0].header.window, 65_535);
    bed.ack(1, 1);
    let answer = bed.data(1, 1, &[7; 1000]);
    assert_eq!(answer, []);
    let answer = bed.data(1001, 1, &[7; 1000]);
    assert_eq!(answer[0].header.window, 65_535);
    assert_eq!(answer[0].header.options, none());
}

#[test]
fn windows_are_scaled_if_both_offer_it() {
    let mut bed = Bed::new();
    let listener = bed.listen(TcpOptions {
        window_scaling: WindowScaling::Fixed(WindowScale::new(4)),
        ..plain()
    });
    bed.window = 1000;
    let offer = HeaderOptions {
        window_scale: Some(WindowScale::new(2)),
        ..none()
    };
    let answer = bed.send(SYN, (0, 0), offer, b"");
    assert_eq!(
        answer[0].header.options.window_scale,
        Some(WindowScale::new(4))
    );
    bed.ack(1, 1);
    let id = bed.engine.accept(bed.now, listener).expect("it is open");
    assert_eq!(bed.engine.stats(id).expect("it is there").peer_window, 4000);
    // 4000 bytes in segments of 536 or 1220, as the peer names no length: the rest is too short to
    // be worth one.
    let segments = match FAMILY {
        Family::V4 => 7,
        Family::V6 => 3,
    };
    assert_eq!(bed.write(id, &[1; 10_000]).len(), segments);
}

#[test]
fn an_unanswered_syn_is_sent_again_and_given_up() {
    let mut bed = Bed::new();
    let id = bed.connect(plain());
    let sent = bed.pass(seconds(400));
    let times: Vec<u64> = sent.iter().map(|(time, _)| time.as_secs()).collect();
    assert_eq!(times, [0, 1, 3, 7, 15, 31, 63, 123]);
    assert!(sent.iter().all(|(_, syn)| syn.header.flags == SYN));
    assert_eq!(bed.engine.error(id), Some(TcpError::ConnectTimedOut));
    let closed = Readiness {
        closed: true,
        ..Readiness::default()
    };
    assert_eq!(
        bed.engine.poll_event(),
        Some(TcpEvent::Connection(id, closed))
    );
}

#[test]
fn a_port_nobody_listens_on_refuses() {
    for family in FAMILIES {
        let mut network = Network::new(family, Path::default(), 1);
        let id = network.connect(options());
        network.pass(milliseconds(100));
        assert_eq!(network.engines[0].error(id), Some(TcpError::Refused));
        assert_eq!(network.engines[1].drops()[DropReason::NoSocket], 1);
    }
}

#[test]
fn resets_answer_what_belongs_nowhere() {
    let mut bed = Bed::new();
    // RFC 9293, section 3.10.7.1: as the segment has an ACK, or not.
    let answer = bed.ack(5, 70);
    assert_eq!(
        (answer[0].header.flags, answer[0].header.sequence),
        (RST, SeqNumber(OURS + 70))
    );
    let answer = bed.send(SYN, (5, 0), none(), b"abc");
    assert_eq!(answer[0].header.flags, RST.with(ACK));
    assert_eq!(
        (answer[0].header.sequence, answer[0].numbers().1),
        (SeqNumber(0), 5 + 4)
    );
    assert_eq!(bed.send(RST, (5, 0), none(), b""), []);
    // In SYN-SENT, an acknowledgment of what was not sent.
    bed.connect(plain());
    bed.sent();
    let answer = bed.send(SYN.with(ACK), (0, 99), none(), b"");
    assert_eq!((answer[0].header.flags, answer[0].numbers().0), (RST, 99));
    assert_eq!(bed.send(RST.with(ACK), (0, 99), none(), b""), []);
    assert_eq!(bed.send(RST, (0, 0), none(), b""), []);
    let answer = bed.send(SYN.with(ACK), (0, 1), none(), b"");
    assert_eq!(answer[0].numbers(), (1, 1), "still connecting");
}

#[test]
fn both_may_connect_at_once() {
    for family in FAMILIES {
        let mut network = Network::new(family, Path::default(), 1);
        let ends = [address(family, 0, 1000), address(family, 1, 2000)];
        let now = network.now;
        let ids = [0, 1].map(|of: usize| {
            network.engines[of]
                .connect(now, ends[of], ends[1 - of], options(), |_| true)
                .expect("the port is free")
        });
        network.pass(milliseconds(100));
        for (of, id) in ids.into_iter().enumerate() {
            assert_eq!(network.engines[of].state(id), Some(TcpState::Established));
            assert_eq!(network.engines[of].counters().resets_sent, 0);
            assert_eq!(network.engines[of].counters().retransmits, 1, "the SYN-ACK");
            let connected = Readiness {
                connected: true,
                ..Readiness::default()
            };
            assert_eq!(network.events(of), [TcpEvent::Connection(id, connected)]);
        }
        network.engines[0]
            .write(network.now, ids[0], content(0, 0, 5000))
            .expect("open");
        network.pass(milliseconds(100));
        let read = network.engines[1]
            .read(network.now, ids[1])
            .expect("it arrived");
        assert!(read.len() > 1000);
    }
}

#[test]
fn both_may_close_at_once() {
    let mut network = Network::new(FAMILY, Path::default(), 1);
    let (client, server) = network.open(options());
    network.pass(milliseconds(100));
    network.engines[0].finish(network.now, client);
    network.engines[1].finish(network.now, server);
    network.pass(milliseconds(15));
    assert_eq!(network.engines[0].state(client), Some(TcpState::Closing));
    network.pass(milliseconds(15));
    assert_eq!(network.engines[0].state(client), Some(TcpState::TimeWait));
    assert_eq!(network.engines[1].state(server), Some(TcpState::TimeWait));
    assert_eq!(network.engines[0].usage().time_wait, 1);
    network.pass(seconds(61));
    assert_eq!(network.engines[0].usage().time_wait, 0);
}

#[test]
fn one_side_may_finish_and_go_on_reading() {
    let (mut bed, id) = Bed::accepted(plain());
    bed.engine.finish(bed.now, id);
    let fin = bed.sent();
    assert_eq!(fin[0].header.flags, FIN.with(ACK));
    assert_eq!(bed.engine.state(id), Some(TcpState::FinWait1));
    bed.ack(1, 2);
    assert_eq!(bed.engine.state(id), Some(TcpState::FinWait2));
    let refused = bed.engine.write(bed.now, id, content(0, 0, 1));
    assert_eq!(
        refused.map_err(|(error, _)| error),
        Err(WriteError::Finished)
    );
    bed.data(1, 2, b"still here");
    assert_eq!(bed.read(id), b"still here");
    assert!(!bed.engine.is_at_end(id));
    let answer = bed.send(FIN.with(ACK), (11, 2), none(), b"");
    assert_eq!(answer[0].numbers(), (2, 12));
    assert!(bed.engine.is_at_end(id));
    assert_eq!(bed.engine.state(id), Some(TcpState::TimeWait));
}

#[test]
fn the_peer_may_finish_first() {
    let (mut bed, id) = Bed::accepted(plain());
    let answer = bed.send(FIN.with(ACK).with(PSH), (1, 1), none(), b"last words");
    assert_eq!(answer[0].numbers(), (1, 12));
    assert_eq!(bed.engine.state(id), Some(TcpState::CloseWait));
    assert!(!bed.engine.is_at_end(id), "there is something to read");
    assert_eq!(bed.read(id), b"last words");
    assert!(bed.engine.is_at_end(id));
    assert_eq!(bed.write(id, b"reply")[0].payload, b"reply");
    bed.engine.finish(bed.now, id);
    let fin = bed.sent();
    assert_eq!(
        (fin[0].header.flags, fin[0].numbers()),
        (FIN.with(ACK), (6, 12))
    );
    assert_eq!(bed.engine.state(id), Some(TcpState::LastAck));
    bed.ack(12, 7);
    assert_eq!(bed.engine.state(id), Some(TcpState::Closed));
    assert_eq!(bed.engine.error(id), None);
    bed.engine.close(bed.now, id);
    assert_eq!(bed.engine.usage().connections, 0);
}

#[test]
fn a_fin_that_comes_too_early_waits_for_what_is_missing() {
    let (mut bed, id) = Bed::accepted(plain());
    let answer = bed.send(FIN.with(ACK), (6, 1), none(), b"world");
    assert_eq!(answer[0].numbers(), (1, 1));
    assert_eq!(bed.engine.state(id), Some(TcpState::Established));
    let answer = bed.data(1, 1, b"hello");
    assert_eq!(answer[0].numbers(), (1, 12));
    assert_eq!(bed.engine.state(id), Some(TcpState::CloseWait));
    assert_eq!(bed.read(id), b"helloworld");
}

#[test]
fn a_lost_fin_is_sent_again() {
    let (mut bed, id) = Bed::accepted(plain());
    bed.engine.finish(bed.now, id);
    assert!(bed.sent()[0].has(FIN));
    let again = bed.pass(seconds(2));
    assert!(
        again
            .iter()
            .all(|(_, sent)| sent.has(FIN) && sent.numbers().0 == 1)
    );
    assert!(!again.is_empty());
    bed.ack(1, 2);
    assert_eq!(bed.engine.state(id), Some(TcpState::FinWait2));
}

#[test]
fn closing_with_unread_data_resets() {
    let (mut bed, id) = Bed::accepted(plain());
    bed.data(1, 1, b"unread");
    bed.engine.close(bed.now, id);
    let reset = bed.sent();
    assert!(reset[0].has(RST));
    assert_eq!(reset[0].numbers().0, 1);
    assert_eq!(bed.engine.usage().connections, 0);
    assert_eq!(bed.engine.usage().receive_memory, 0);
}

#[test]
fn data_for_nobody_resets() {
    let (mut bed, id) = Bed::accepted(plain());
    bed.engine.close(bed.now, id);
    assert!(bed.sent()[0].has(FIN));
    let answer = bed.data(1, 2, b"too late");
    assert!(answer[0].has(RST));
    assert_eq!(bed.engine.drops()[DropReason::SocketClosed], 1);
    assert_eq!(bed.engine.counters().resets_sent, 1);
    assert_eq!(bed.engine.usage().connections, 0);
}

#[test]
fn an_abort_resets_and_a_reset_ends() {
    let mut network = Network::new(Family::V6, Path::default(), 1);
    let (client, server) = network.open(options());
    network.pass(milliseconds(50));
    network.engines[0].abort(network.now, client);
    network.pass(milliseconds(50));
    assert_eq!(network.engines[0].state(client), None);
    assert_eq!(network.engines[1].error(server), Some(TcpError::Reset));
    assert_eq!(network.engines[1].state(server), Some(TcpState::Closed));
}

#[test]
fn time_wait_acknowledges_a_fin_again_and_ignores_resets() {
    let (mut bed, id) = Bed::accepted(plain());
    bed.engine.close(bed.now, id);
    bed.sent();
    bed.send(FIN.with(ACK), (1, 2), none(), b"");
    assert_eq!(bed.engine.usage().time_wait, 1);
    assert_eq!(bed.engine.usage().connections, 0);
    bed.pass(seconds(30));
    let answer = bed.send(FIN.with(ACK), (1, 2), none(), b"");
    assert_eq!(answer[0].numbers(), (2, 2));
    assert_eq!(bed.send(RST, (2, 0), none(), b""), []);
    bed.pass(seconds(59));
    assert_eq!(
        bed.engine.usage().time_wait,
        1,
        "the FIN has restarted the timer"
    );
    bed.pass(seconds(2));
    assert_eq!(bed.engine.usage().time_wait, 0);
}

#[test]
fn a_new_syn_ends_time_wait_if_it_can_not_be_an_old_one() {
    let (mut bed, id) = Bed::accepted(plain());
    bed.engine.close(bed.now, id);
    bed.sent();
    bed.send(FIN.with(ACK), (1, 2), none(), b"");
    let answer = bed.send(SYN, (0, 0), none(), b"");
    assert_eq!(
        answer[0].header.flags, ACK,
        "an old SYN is acknowledged, no more"
    );
    assert_eq!(bed.engine.usage().time_wait, 1);
    let answer = bed.send(SYN, (100, 0), none(), b"");
    assert_eq!(answer[0].header.flags, SYN.with(ACK));
    assert_eq!(bed.engine.usage().time_wait, 0);
}

#[test]
fn a_repeated_syn_is_answered_again_and_another_is_not_believed() {
    let mut bed = Bed::new();
    let listener = bed.listen(plain());
    bed.send(SYN, (0, 0), none(), b"");
    let again = bed.send(SYN, (0, 0), none(), b"");
    assert_eq!(
        (again[0].header.flags, again[0].numbers()),
        (SYN.with(ACK), (0, 1))
    );
    bed.send(SYN, (7, 0), none(), b"");
    assert_eq!(bed.engine.usage().half_open, 1);
    bed.ack(1, 1);
    let id = bed.engine.accept(bed.now, listener).expect("it is open");
    // Which of the two was acknowledged is not known (Karn), so begin carefully.
    let stats = bed.engine.stats(id).expect("it is there");
    assert_eq!(stats.rtt, seconds(0));
    assert_eq!(stats.timeout, seconds(3));
}

#[test]
fn an_unanswered_syn_ack_is_sent_again_and_given_up() {
    let mut bed = Bed::new();
    bed.listen(plain());
    bed.send(SYN, (0, 0), none(), b"");
    let sent = bed.pass(seconds(100));
    let times: Vec<u64> = sent.iter().map(|(time, _)| time.as_secs()).collect();
    assert_eq!(times, [1, 3, 7, 15, 31]);
    assert_eq!(bed.engine.usage().half_open, 0);
    assert_eq!(bed.engine.next_deadline(), None);
}

#[test]
fn the_last_acknowledgment_of_a_handshake_may_carry_data() {
    let mut bed = Bed::new();
    let listener = bed.listen(plain());
    bed.send(SYN, (0, 0), none(), b"");
    bed.send(FIN.with(ACK), (1, 1), none(), b"request");
    let id = bed.engine.accept(bed.now, listener).expect("it is open");
    assert_eq!(bed.engine.state(id), Some(TcpState::CloseWait));
    assert_eq!(bed.read(id), b"request");
}

#[test]
fn what_is_written_before_the_connection_is_open_is_sent_then() {
    let mut bed = Bed::new();
    let id = bed.connect(plain());
    bed.engine
        .write(bed.now, id, content(0, 0, 10))
        .expect("there is room");
    bed.engine.finish(bed.now, id);
    assert_eq!(bed.sent().len(), 1, "the SYN");
    let sent = bed.send(SYN.with(ACK), (0, 1), none(), b"");
    assert_eq!(sent.len(), 1);
    assert!(sent[0].has(FIN) && sent[0].payload.len() == 10);
    assert_eq!(bed.engine.state(id), Some(TcpState::FinWait1));
}

#[test]
fn a_port_is_chosen_among_those_that_are_acceptable() {
    let mut bed = Bed::new();
    let (local, remote) = (address(FAMILY, 1, 0), address(FAMILY, 2, 9000));
    let mut ports = std::collections::BTreeSet::new();
    let is_home = |port: u16| port.is_multiple_of(4096);
    let home = (32_768_u16..=60_999).filter(|port| is_home(*port)).count();
    for _ in 0..home {
        let id = bed
            .engine
            .connect(bed.now, local, remote, plain(), is_home)
            .expect("free");
        let port = bed.engine.flow(id).expect("it is there").local().port();
        assert!(is_home(port));
        assert!(ports.insert(port), "used twice");
    }
    let full = bed.engine.connect(bed.now, local, remote, plain(), is_home);
    assert_eq!(full, Err(TcpConnectError::NoPort));
    let other = bed
        .engine
        .connect(bed.now, local, address(FAMILY, 3, 9000), plain(), is_home);
    assert!(other.is_ok(), "another peer is another matter");
}

#[test]
fn icmp_ends_an_attempt_to_connect_but_no_open_connection() {
    let refused = |flow: virtroupe_wire::tcp::Flow, sequence| TcpIcmp {
        flow,
        sequence: SeqNumber(sequence),
        kind: TcpIcmpKind::Refused,
    };
    let mut bed = Bed::new();
    let id = bed.connect(plain());
    bed.sent();
    let flow = bed.engine.flow(id).expect("it is there");
    assert!(
        !bed.engine.handle_icmp(bed.now, &refused(flow, OURS + 7)),
        "nothing of ours"
    );
    assert!(bed.engine.handle_icmp(bed.now, &refused(flow, OURS)));
    assert_eq!(bed.engine.error(id), Some(TcpError::Refused));

    let (mut bed, id) = Bed::connected(plain());
    bed.write(id, b"hello");
    let flow = bed.engine.flow(id).expect("it is there");
    assert!(!bed.engine.handle_icmp(bed.now, &refused(flow, OURS + 1)));
    assert_eq!(bed.engine.state(id), Some(TcpState::Established));
}

#[test]
fn urgent_data_is_data() {
    let (mut bed, id) = Bed::accepted(plain());
    let mut segment = bed.segment(ACK.with(TcpFlags::URG), (1, 1), none(), b"urgent");
    segment.header.urgent = 3;
    bed.engine.receive_one(bed.now, segment);
    assert_eq!(bed.read(id), b"urgent");
}

#[test]
fn closing_a_listener_resets_what_nobody_accepted() {
    let mut bed = Bed::new();
    let listener = bed.listen(plain());
    bed.send(SYN, (0, 0), none(), b"");
    bed.ack(1, 1);
    assert_eq!(
        bed.engine.poll_event(),
        Some(TcpEvent::Acceptable(listener))
    );
    bed.engine.close_listener(bed.now, listener);
    assert!(bed.sent()[0].has(RST));
    assert_eq!(bed.engine.usage().connections, 0);
    assert!(
        bed.send(SYN, (0, 0), none(), b"")[0].has(RST),
        "nobody listens"
    );
}

/// Of several engines that share an address, one may not know yet whose connections are its own.
#[test]
fn a_listener_that_is_held_answers_nobody_until_it_is_released() {
    let mut bed = Bed::new();
    let listener = bed.listen(plain());
    bed.engine.hold_listener(listener, true);
    assert_eq!(bed.send(SYN, (0, 0), none(), b""), []);
    assert_eq!(bed.ack(1, 1), [], "what is not known is not reset");
    assert_eq!(bed.engine.drops()[DropReason::ListenerNotReady], 2);
    assert_eq!(bed.engine.flows(true).count(), 0);
    bed.engine.hold_listener(listener, false);
    assert_eq!(bed.send(SYN, (0, 0), none(), b"").len(), 1);
    let flow = Flow::new(bed.flow.remote(), bed.flow.local());
    assert!(bed.engine.flows(true).eq([flow]), "it is half-open");
    bed.ack(1, 1);
    assert!(bed.engine.accept(bed.now, listener).is_some());
    assert!(bed.engine.flows(true).eq([flow]));
}

/// Strangers can make up as many half-open ones as there is room for.
#[test]
fn flows_begin_with_connections_and_end_with_those_in_time_wait() {
    let mut bed = Bed::new();
    let listener = bed.listen(plain());
    let mut expected = [const { Vec::new() }; 3];
    for port in 9000..9030 {
        bed.flow = flow(port);
        bed.send(SYN, (0, 0), none(), b"");
        let place = usize::from((port + 2) % 3);
        if place != 1 {
            bed.ack(1, 1);
            let id = bed.engine.accept(bed.now, listener).expect("it is open");
            if place == 2 {
                bed.engine.close(bed.now, id);
                bed.sent();
                bed.send(FIN.with(ACK), (1, 2), none(), b"");
            }
        }
        expected[place].push(Flow::new(bed.flow.remote(), bed.flow.local()));
    }
    let [connections, half_open, time_wait] = expected;
    assert_eq!(bed.engine.usage().time_wait, time_wait.len());
    let most = [connections, half_open].concat();
    assert!(bed.engine.flows(false).eq(most.iter().copied()));
    assert!(bed.engine.flows(true).eq(most.into_iter().chain(time_wait)));
}
