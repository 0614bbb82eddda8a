use super::*;

#[test]
fn every_pair_of_numbers_is_tied_fully_and_evenly() {
    for queues in 1..=16 {
        for cpus in 1..=16 {
            check(queues, cpus);
        }
    }
    check(3, 300);
    check(300, 7);
}

fn check(queues: u16, cpus: u16) {
    let ties = Ties::new(queues, cpus).unwrap();
    let what = format!("{queues} queues, {cpus} cpus");
    let mut owners = vec![0; usize::from(queues)];
    for cpu in 0..cpus {
        for queue in ties.owned_queues(cpu) {
            owners[usize::from(queue)] += 1;
            assert_eq!(ties.owner_of_queue(queue), Some(cpu), "{what}");
        }
    }
    assert!(
        owners.iter().all(|owners| *owners == 1),
        "{what}: {owners:?}"
    );
    let owned: Vec<_> = (0..cpus)
        .map(|cpu| ties.owned_queues(cpu).count())
        .collect();
    assert!(is_balanced(&owned), "{what}: {owned:?}");
    let senders: Vec<_> = (0..queues)
        .map(|queue| ties.senders(queue).count())
        .collect();
    // Who has several queues sends through one of them, and nobody sends through the others.
    assert!(is_balanced(&senders), "{what}: {senders:?}");
    assert_eq!(senders.iter().sum::<usize>(), usize::from(cpus), "{what}");
    for cpu in 0..cpus {
        let queue = ties.transmit_queue(cpu).expect("every cpu sends");
        assert!(ties.senders(queue).any(|sender| sender == cpu), "{what}");
        assert_eq!(ties.is_proxy(cpu), owned[usize::from(cpu)] == 0, "{what}");
        let owner = ties.owner_of_queue(queue).expect("there is such a queue");
        assert!(!ties.is_proxy(owner), "{what}");
        assert_eq!(owner == cpu, !ties.is_proxy(cpu), "{what}");
    }
}

fn is_balanced(counts: &[usize]) -> bool {
    let (least, most) = (counts.iter().min(), counts.iter().max());
    least
        .zip(most)
        .is_some_and(|(least, most)| most - least <= 1)
}

#[test]
fn what_does_not_exist_is_tied_to_nothing() {
    let ties = Ties::new(2, 3).unwrap();
    assert_eq!(ties.owner_of_queue(2), None);
    assert_eq!(ties.transmit_queue(3), None);
    assert!(!ties.is_proxy(3));
    assert_eq!(ties.owned_queues(3).count(), 0);
    assert_eq!(ties.senders(2).count(), 0);
    assert_eq!(Ties::new(0, 1), Err(PlacementError::NoQueues));
    assert_eq!(Ties::new(1, 0), Err(PlacementError::NoCpus));
}
