//! The virtual queue of a proxy: credits bound what is under way, what exceeds them comes back, and
//! who waits is told.
//!
//! The device takes nothing while the test does not step it.

use actix::prelude::*;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use virtroupe::actors::services::CollectStats;
use virtroupe::{
    Config, DropReason, Payload, SendOutcome, SocketEvent, TxReadyPolicy, UdpSend, UdpSocket,
};

use super::counts::check_at_rest;
use super::wire::{Rig, parse_udp, rig_config};
use crate::stack::support::{address, within};

const CREDITS: usize = 64;

fn few_credits(cpus: u16, policy: TxReadyPolicy) -> Config {
    let mut config = rig_config(1, cpus);
    config.poll.credits = CREDITS as u32;
    config.poll.tx_ready = policy;
    config
}

/// A sender on a proxy, which tells under its number when it is told.
struct Sender {
    number: usize,
    socket: UdpSocket,
    told: UnboundedSender<usize>,
}

impl Actor for Sender {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.socket.events_to(ctx.address());
    }
}

impl Handler<SocketEvent> for Sender {
    type Result = ();

    fn handle(&mut self, event: SocketEvent, _: &mut Self::Context) {
        assert_eq!(event, SocketEvent::TxReady);
        let _ = self.told.send(self.number);
    }
}

/// Offers so many datagrams. Answers the outcome, and the reasons of those that came back.
#[derive(Message)]
#[rtype(result = "(SendOutcome, Vec<Option<DropReason>>)")]
struct Offer(usize);

impl Handler<Offer> for Sender {
    type Result = MessageResult<Offer>;

    fn handle(&mut self, Offer(count): Offer, _: &mut Self::Context) -> Self::Result {
        let datagram = |_| {
            let payload = Payload::Bytes(vec![0; 18].into());
            UdpSend::new(address("10.1.0.1:9"), payload)
        };
        let mut burst: Vec<_> = (0..count).map(datagram).collect();
        let outcome = self.socket.send(&mut burst);
        let refused = burst.iter().map(|send| send.refused).collect();
        MessageResult((outcome, refused))
    }
}

/// Asks for the port.
#[derive(Message)]
#[rtype(result = "u16")]
struct Port;

impl Handler<Port> for Sender {
    type Result = u16;

    fn handle(&mut self, _: Port, _: &mut Self::Context) -> u16 {
        self.socket.local().expect("open").port()
    }
}

/// Asks for a notice.
#[derive(Message)]
#[rtype(result = "bool")]
struct Wait;

impl Handler<Wait> for Sender {
    type Result = bool;

    fn handle(&mut self, _: Wait, _: &mut Self::Context) -> bool {
        self.socket.notify_when_ready()
    }
}

/// Lets another actor have the notices from now on.
#[derive(Message)]
#[rtype(result = "()")]
struct EventsTo(Recipient<SocketEvent>);

impl Handler<EventsTo> for Sender {
    type Result = ();

    fn handle(&mut self, EventsTo(other): EventsTo, _: &mut Self::Context) {
        self.socket.events_to(other);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Stop;

impl Handler<Stop> for Sender {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

/// Starts so many senders on `cpu`.
async fn senders(
    rig: &Rig,
    cpu: u16,
    count: usize,
) -> (Vec<Addr<Sender>>, UnboundedReceiver<usize>) {
    let (told, receiver) = unbounded_channel();
    let started = rig.stack.run_on(cpu, move |local| async move {
        let mut senders = Vec::new();
        for number in 0..count {
            let socket = local.bind_udp(address("0.0.0.0:0")).await.expect("free");
            let told = told.clone();
            senders.push(
                Sender {
                    number,
                    socket,
                    told,
                }
                .start(),
            );
        }
        senders
    });
    (within(started).await.expect("running"), receiver)
}

async fn offer(sender: &Addr<Sender>, count: usize) -> (SendOutcome, Vec<Option<DropReason>>) {
    let (outcome, refused) = within(sender.send(Offer(count))).await.expect("alive");
    assert_eq!(outcome.accepted + outcome.refused, count);
    assert_eq!(
        refused.len(),
        outcome.refused,
        "all that was refused came back"
    );
    (outcome, refused)
}

/// Credits of `cpu` that are free, asked in a way that wakes no other cpu.
async fn free_credits(rig: &Rig, cpu: u16) -> usize {
    let proxy = rig.stack.cpu(cpu).expect("a cpu");
    let stats = within(proxy.send(CollectStats)).await.expect("alive");
    stats.virtual_queue.expect("a proxy").credits_free
}

/// A wait that only looks at the sender's side: the owner of the ring sleeps if it can.
async fn until_free(rig: &Rig, cpu: u16, least: usize) {
    within(async {
        while free_credits(rig, cpu).await < least {
            rig.step();
            tokio::time::sleep(std::time::Duration::from_micros(100)).await;
        }
    })
    .await;
}

#[actix::test]
async fn credits_bound_what_is_under_way_and_the_rest_comes_back_counted_once() {
    let rig = Rig::start(few_credits(2, TxReadyPolicy::Fair)).await;
    let (senders, mut told) = senders(&rig, 1, 1).await;
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..20 {
        let (outcome, reasons) = offer(&senders[0], 500).await;
        assert_eq!(outcome.accepted, CREDITS, "round {round}");
        assert_eq!(outcome.reason, Some(DropReason::NoCredit));
        assert!(outcome.would_block());
        assert!(reasons.iter().all(|why| *why == Some(DropReason::NoCredit)));
        // Over and over: nothing more is under way, whatever is offered.
        for _ in 0..3 {
            assert_eq!(offer(&senders[0], 10).await.0.accepted, 0);
        }
        assert!(within(senders[0].send(Wait)).await.expect("alive"));
        assert!(told.try_recv().is_err(), "there is no room yet");
        accepted += CREDITS;
        refused += outcome.refused + 30;
        rig.until(|_| told.try_recv().is_ok()).await;
        until_free(&rig, 1, CREDITS).await;
    }
    rig.until(|rig| rig.device.stats().from_driver.frames == accepted as u64)
        .await;
    let stats = rig.stack.stats().await.expect("running");
    assert_eq!(stats.drops()[DropReason::NoCredit], refused as u64);
    let queue = stats.cpus[1].virtual_queue.expect("a proxy");
    assert_eq!(queue.frames, accepted as u64);
    assert_eq!(queue.credits_free, CREDITS);
    assert_eq!(stats.cpus[1].pool_free, stats.cpus[1].pool_size);
    check_at_rest(&stats, &rig.device.stats());
    rig.stack.shutdown().await;
}

/// The owner of the ring sleeps when the device has taken all. A sender that has a credit left asks
/// for none, and would find only that one.
#[actix::test]
async fn half_of_the_credits_come_back_while_everybody_sleeps() {
    let rig = Rig::start(few_credits(2, TxReadyPolicy::Fair)).await;
    let (senders, _told) = senders(&rig, 1, 1).await;
    let mut sent = 0;
    for _ in 0..30 {
        let left = free_credits(&rig, 1).await - 1;
        let (outcome, _) = offer(&senders[0], left).await;
        assert_eq!(outcome.refused, 0);
        assert!(left >= CREDITS / 2 - 1, "{left}");
        sent += left as u64;
        rig.until(|rig| rig.device.stats().from_driver.frames == sent)
            .await;
        until_free(&rig, 1, CREDITS / 2).await;
    }
    rig.stack.shutdown().await;
}

/// Fills the virtual queue of cpu 1, lets all senders wait in order, and gives who was told.
async fn who_is_told(policy: TxReadyPolicy, expected: usize) -> Vec<usize> {
    let rig = Rig::start(few_credits(3, policy)).await;
    let (senders, mut told) = senders(&rig, 1, 6).await;
    for sender in &senders {
        offer(sender, 40).await;
    }
    let mut noted = 0;
    for sender in &senders {
        for _ in 0..2 {
            // At most one is outstanding for each.
            noted += usize::from(within(sender.send(Wait)).await.expect("alive"));
        }
    }
    let most = if policy == TxReadyPolicy::First {
        2
    } else {
        12
    };
    assert_eq!(noted, most);
    let mut numbers = Vec::new();
    rig.until(|_| {
        numbers.extend(told.try_recv());
        numbers.len() == expected
    })
    .await;
    // There is room now, and nobody waits: whoever asks is told.
    until_free(&rig, 1, CREDITS).await;
    assert!(within(senders[5].send(Wait)).await.expect("alive"));
    rig.until(|_| match told.try_recv() {
        Ok(number) => {
            assert_eq!(number, 5, "nobody is told twice");
            true
        }
        Err(_) => false,
    })
    .await;
    rig.stack.shutdown().await;
    numbers
}

#[actix::test]
async fn the_policy_says_who_is_told() {
    assert_eq!(who_is_told(TxReadyPolicy::First, 1).await, [0]);
    let mut all = who_is_told(TxReadyPolicy::All, 6).await;
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3, 4, 5]);
    // In the order in which they were refused: the first was not, but asked all the same.
    assert_eq!(
        who_is_told(TxReadyPolicy::Fair, 6).await,
        [1, 2, 3, 4, 5, 0]
    );
}

#[actix::test]
async fn a_waiter_that_died_passes_its_turn_on() {
    for policy in [TxReadyPolicy::First, TxReadyPolicy::Fair] {
        let rig = Rig::start(few_credits(2, policy)).await;
        let (senders, mut told) = senders(&rig, 1, 3).await;
        offer(&senders[0], CREDITS).await;
        // The first closes its socket; of the second, only who listens is gone.
        assert!(within(senders[0].send(Wait)).await.expect("alive"));
        within(senders[0].send(Stop)).await.expect("alive");
        within(async {
            while senders[0].connected() {
                tokio::task::yield_now().await
            }
        })
        .await;
        if policy == TxReadyPolicy::Fair {
            let (told, _) = unbounded_channel();
            let gone = rig.stack.run_on(1, |local| async move {
                let socket = local.bind_udp(address("0.0.0.0:0")).await.expect("free");
                let number = 9;
                Sender {
                    number,
                    socket,
                    told,
                }
                .start()
            });
            let gone = within(gone).await.expect("running");
            let listener = gone.clone().recipient();
            within(senders[1].send(EventsTo(listener)))
                .await
                .expect("alive");
            assert!(within(senders[1].send(Wait)).await.expect("alive"));
            within(gone.send(Stop)).await.expect("alive");
            within(async {
                while gone.connected() {
                    tokio::task::yield_now().await
                }
            })
            .await;
        }
        assert!(within(senders[2].send(Wait)).await.expect("alive"));
        let mut number = None;
        rig.until(|_| {
            number = told.try_recv().ok();
            number.is_some()
        })
        .await;
        assert_eq!(number, Some(2));
        rig.stack.shutdown().await;
    }
}

/// Two proxies and the owner share one ring, of which each wants more than there is. Each offers
/// more when it is told that there is room, and is told when half of its packets are out.
#[actix::test]
async fn the_senders_of_a_ring_take_turns_and_none_waits_for_ever() {
    const ROOM: usize = 256;
    let mut config = rig_config(1, 3);
    config.poll.credits = ROOM as u32;
    let rig = Rig::start(config).await;
    let mut all = Vec::new();
    for cpu in 0..3 {
        let (mut senders, mut told) = senders(&rig, cpu, 1).await;
        let sender = senders.remove(0);
        let port = within(sender.send(Port)).await.expect("alive");
        let (outcome, _) = offer(&sender, 2 * ROOM).await;
        assert_eq!(outcome.accepted, ROOM);
        assert!(within(sender.send(Wait)).await.expect("alive"));
        assert!(told.try_recv().is_err(), "there is no room");
        all.push((sender, told, port, outcome.accepted, 0));
    }
    while all.iter().map(|sender| sender.4).sum::<usize>() < 10_000 {
        rig.until(|rig| rig.step() > 0).await;
        for frame in rig.wire.take_sent() {
            let (source, ..) = parse_udp(&frame.frame).expect("a datagram");
            let sender = all.iter_mut().find(|sender| sender.2 == source.port());
            sender.expect("one of the three").4 += 1;
        }
        for (sender, told, _, accepted, sent) in &mut all {
            if *accepted - *sent <= ROOM / 2 {
                within(told.recv()).await.expect("told");
                *accepted += offer(sender, 2 * ROOM).await.0.accepted;
                assert!(within(sender.send(Wait)).await.expect("alive"));
            }
        }
    }
    // Who has nothing in its lane at its turn loses it, and how soon a sender that was told offers
    // more is up to the machine: so the shares are alike, and not the same.
    let shares: Vec<_> = all.iter().map(|sender| sender.4).collect();
    assert!(shares.iter().all(|share| *share > 2000), "{shares:?}");
    rig.stack.shutdown().await;
}
