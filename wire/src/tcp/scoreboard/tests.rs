use proptest::prelude::*;

use super::*;

const MSS: u16 = 10;

fn at(milliseconds: u64) -> Instant {
    Instant::from_nanos(milliseconds * 1_000_000)
}

fn range(start: u64, end: u64) -> Range {
    Range { start, end }
}

#[derive(Debug, Clone)]
enum Step {
    Send(u64),
    Sack(u64, u64),
    Acknowledge(u64),
    Resend,
    Probe,
    Detect(u64),
    LoseAll(bool),
    LoseFirst,
    LoseLonger,
    LoseNothing,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1_u64..60).prop_map(Step::Send),
        (0_u64..500, 1_u64..80).prop_map(|(start, length)| Step::Sack(start, start + length)),
        (0_u64..500).prop_map(Step::Acknowledge),
        Just(Step::Resend),
        Just(Step::Probe),
        (0_u64..20).prop_map(Step::Detect),
        any::<bool>().prop_map(Step::LoseAll),
        Just(Step::LoseFirst),
        Just(Step::LoseLonger),
        Just(Step::LoseNothing),
    ]
}

proptest! {
    /// Whatever a peer reports: records stay sorted and without gap, the sums are right, bytes
    /// are delivered once, and the number of records is bounded.
    #[test]
    fn the_sums_are_right_and_the_number_of_records_is_bounded(
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let mut board = Scoreboard::new();
        let (mut una, mut nxt, mut sends) = (0, 0, 0);
        let mut delivered = 0;
        let mut newest: Option<Newest> = None;
        for (time, step) in steps.into_iter().enumerate() {
            let now = at(time as u64);
            let mut delivery = Delivery::default();
            let mut is_reneging = false;
            match step {
                Step::Send(length) => {
                    board.sent(range(nxt, nxt + length), MSS, now);
                    nxt += length;
                    sends += 1;
                }
                Step::Sack(start, end) => {
                    let block = range(start.max(una), end.min(nxt));
                    if block.start < block.end {
                        board.sack(block, now, Span::ZERO, &mut delivery);
                    }
                }
                Step::Acknowledge(position) => {
                    una = position.clamp(una, nxt);
                    board.acknowledge(una, now, Span::ZERO, &mut delivery);
                }
                Step::Resend => {
                    if let Some(lost) = board.first_lost() {
                        let end = lost.end.min(lost.start + u64::from(MSS));
                        board.resent(range(lost.start, end), MSS, now);
                    }
                }
                Step::Probe => {
                    if let Some(last) = board.last(MSS.into()) {
                        board.resent(last, MSS, now);
                    }
                }
                Step::Detect(wait) => {
                    if let Some(newest) = newest {
                        let next = board.detect(newest, Span::from_millis(wait), now);
                        prop_assert!(next.is_none_or(|next| next > now));
                        check_detected(&board, newest, Span::from_millis(wait), next)?;
                    }
                }
                Step::LoseAll(renege) => {
                    is_reneging = renege;
                    board.lose_all(renege);
                    prop_assert_eq!(board.in_flight(), 0);
                }
                Step::LoseFirst => board.lose_first(MSS.into()),
                Step::LoseNothing => {
                    board.lose_nothing();
                    prop_assert_eq!(board.lost(), 0);
                }
                Step::LoseLonger => board.lose_longer(MSS.into()),
            }
            delivered += delivery.bytes;
            newest = newest.or(delivery.newest);
            if is_reneging {
                // What was SACKed may be delivered again.
                delivered = una;
            }
            prop_assert_eq!(delivered, una + board.sacked());
            let mut end = una;
            for record in &board.records {
                prop_assert_eq!(record.start, end);
                prop_assert!(record.end > record.start);
                end = record.end;
            }
            prop_assert_eq!(end, nxt);
            let sum = |fate| {
                let of_it = board.records.iter().filter(|record| record.fate == fate);
                of_it.map(Record::length).sum::<u64>()
            };
            prop_assert_eq!(board.in_flight(), sum(Fate::InFlight));
            prop_assert_eq!(board.sacked(), sum(Fate::Sacked));
            prop_assert_eq!(board.lost(), sum(Fate::Lost));
            let again = board.records.iter().filter(|record| record.is_retransmitted);
            prop_assert_eq!(board.retransmitted, again.map(Record::length).sum::<u64>());
            // Two more than one for each segment of each burst: TLP may cut the last off.
            prop_assert!(board.records() as u64 <= sends * (60 / u64::from(MSS) + 3));
        }
    }
}

/// Whether what is due by RACK counts as lost, and the next that will be is known: as looking at
/// every record tells.
fn check_detected(
    board: &Scoreboard,
    newest: Newest,
    wait: Span,
    next: Option<Instant>,
) -> Result<(), TestCaseError> {
    let is_before = |record: &&Record| (record.sent, record.end) < (newest.sent, newest.end);
    let in_flight = board.records.iter().filter(|it| it.fate == Fate::InFlight);
    let due = in_flight.filter(is_before).map(|it| it.sent + wait).min();
    // Nothing can have been lost without a gap and without having been sent again.
    if board.sacked > 0 || board.retransmitted > 0 {
        prop_assert_eq!(due, next);
    }
    Ok(())
}

#[test]
fn what_was_sent_in_shorter_segments_is_reported_in_those() {
    // With SACK blocks in its header each segment of a burst is shorter than others.
    let mut board = Scoreboard::new();
    board.sent(range(0, 70), 7, at(0));
    let mut delivery = Delivery::default();
    board.sack(range(14, 21), at(50), Span::ZERO, &mut delivery);
    assert_eq!((delivery.bytes, board.sacked_segments()), (7, 1));
    board.sack(range(28, 41), at(50), Span::ZERO, &mut delivery);
    assert_eq!(delivery.bytes, 14, "a part of a segment does not count");
}

/// What a look for losses costs must not grow with what is under way: it goes on where it stopped.
#[test]
fn looking_for_losses_stops_at_the_first_that_is_not_due() {
    let mut board = Scoreboard::new();
    for segment in 0..2000 {
        board.sent(
            range(segment * 10, segment * 10 + 10),
            MSS,
            at(segment / 100),
        );
    }
    let mut delivery = Delivery::default();
    board.sack(range(10, 20_000), at(50), Span::ZERO, &mut delivery);
    let newest = delivery.newest.expect("segments arrived");
    assert_eq!(board.detect(newest, Span::from_millis(40), at(50)), None);
    assert_eq!((board.lost(), board.once_from), (10, 20_000));
    assert_eq!(board.records(), 2, "a gap, and what is behind it");
}

#[test]
fn rack_marks_what_was_sent_before_what_arrived() {
    let mut board = Scoreboard::new();
    for segment in 0..4 {
        board.sent(range(segment * 10, segment * 10 + 10), MSS, at(segment));
    }
    let mut delivery = Delivery::default();
    board.sack(range(20, 30), at(50), Span::ZERO, &mut delivery);
    let newest = delivery.newest.expect("a segment arrived");
    assert_eq!(
        newest,
        Newest {
            sent: at(2),
            end: 30
        }
    );
    assert_eq!(delivery.rtt, Some(Span::from_millis(48)));
    let wait = Span::from_millis(50);
    let next = board.detect(newest, wait, at(50));
    assert_eq!(next, Some(at(51)));
    assert_eq!(board.first_lost(), Some(range(0, 10)));
    assert_eq!(board.detect(newest, wait, at(51)), None);
    assert_eq!(board.lost(), 20);
    board.resent(range(0, 10), MSS, at(52));
    assert_eq!(board.first_lost(), Some(range(10, 20)));
}
