//! What our own host says about peers that it can not reach (RFC 1122, section 4.2.3.9).

use virtroupe_wire::tcp::{SeqNumber, TcpError, TcpIcmp, TcpIcmpKind, TcpOptions, TcpState};

use crate::bed::{Bed, OURS, plain};
use crate::hosts::{Station, open};
use crate::support::{Family, START, milliseconds, seconds};

#[test]
fn an_attempt_to_connect_to_a_neighbour_that_is_not_there_ends_soon() {
    let mut station = Station::new(1);
    let mut now = START;
    let id = open(&mut station, Family::V4, 9, now);
    let start = now;
    while station.engine.error(id).is_none() && now.since(start) < seconds(60) {
        station.turn(now, Vec::new());
        now = now + milliseconds(50);
    }
    assert_eq!(station.engine.error(id), Some(TcpError::Unreachable));
    assert!(now.since(start) < seconds(5), "{:?}", now.since(start));
    assert_eq!(station.engine.state(id), Some(TcpState::Closed));
    // Nobody waits for the neighbour any more: the next attempt learns of it at once.
    let id = open(&mut station, Family::V4, 9, now);
    station.turn(now, Vec::new());
    assert_eq!(station.engine.error(id), Some(TcpError::Unreachable));
}

#[test]
fn an_open_connection_survives_it() {
    let (mut bed, id) = Bed::accepted(plain());
    bed.write(id, b"hello");
    let icmp = TcpIcmp {
        flow: bed.engine.flow(id).expect("it is there"),
        sequence: SeqNumber(OURS + 1),
        kind: TcpIcmpKind::NoNeighbor,
    };
    assert!(!bed.engine.handle_icmp(bed.now, &icmp));
    assert_eq!(bed.engine.state(id), Some(TcpState::Established));
    assert_eq!(bed.engine.error(id), None);
    assert!(!bed.pass(seconds(1)).is_empty(), "it is sent again");
}

/// RFC 5482: what a listener announces and learns.
#[test]
fn user_timeouts_are_exchanged_by_both_sides_if_they_are_announced() {
    let announcing = |timeout| TcpOptions {
        announce_user_timeout: true,
        user_timeout: seconds(timeout),
        ..plain()
    };
    for (ours, theirs, in_use) in [(200, 300, 300), (400, 300, 400), (120, 10, 120)] {
        let mut bed = Bed::new();
        let listener = bed.listen(announcing(ours));
        let options = virtroupe_wire::tcp::HeaderOptions {
            user_timeout: Some(theirs),
            ..Default::default()
        };
        let answer = bed.send(crate::bed::SYN, (0, 0), options, b"");
        assert_eq!(answer[0].header.options.user_timeout, Some(ours as u16));
        // The half-open record does not keep it: the first segment behind the SYN tells it again.
        bed.send(crate::bed::ACK, (1, 1), options, b"");
        let id = bed.engine.accept(bed.now, listener).expect("it is open");
        let first = bed.write(id, b"hello");
        assert_eq!(first[0].header.options.user_timeout, Some(ours as u16));
        let start = bed.now;
        while bed.engine.error(id).is_none() && bed.now.since(start) < seconds(1000) {
            let sent = bed.pass(seconds(1));
            let announced = sent
                .iter()
                .any(|(_, it)| it.header.options.user_timeout.is_some());
            assert!(!announced, "once is enough");
        }
        let took = bed.now.since(start).as_secs();
        assert!((in_use..in_use + 3).contains(&took), "{took} of {in_use}");
    }
    // Who does not announce does not learn either.
    let (mut bed, id) = Bed::accepted(plain());
    bed.send(
        crate::bed::ACK,
        (1, 1),
        virtroupe_wire::tcp::HeaderOptions {
            user_timeout: Some(1000),
            ..Default::default()
        },
        b"",
    );
    assert_eq!(bed.write(id, b"hello")[0].header.options.user_timeout, None);
    bed.pass(seconds(310));
    assert_eq!(bed.engine.error(id), Some(TcpError::TimedOut));
}
