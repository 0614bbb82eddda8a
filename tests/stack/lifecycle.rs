//! The life of a stack: what applications are told, and what is left afterwards.

use actix::prelude::*;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use virtroupe::driver::embedded::{Link, LinkConfig};
use virtroupe::{CloseReason, Lifecycle, SocketEvent, Stack};

use super::support::{Probe, Seen, config, start, within};

struct Watcher(UnboundedSender<Lifecycle>);

impl Actor for Watcher {
    type Context = Context<Self>;
}

impl Handler<Lifecycle> for Watcher {
    type Result = ();

    fn handle(&mut self, event: Lifecycle, _: &mut Self::Context) {
        let _ = self.0.send(event);
    }
}

/// Subscribes to a stack that runs, which is what it says first.
async fn watch(stack: &Stack) -> UnboundedReceiver<Lifecycle> {
    let (sender, mut receiver) = unbounded_channel();
    stack.subscribe(Watcher(sender).start());
    let ready = Lifecycle::Ready(stack.features().clone());
    assert_eq!(within(receiver.recv()).await, Some(ready));
    receiver
}

#[actix::test]
async fn sockets_learn_that_the_stack_is_shut_down() {
    let (end, _other) = Link::pair(LinkConfig::default());
    let (stack, _) = start(config(1), end).await;
    let mut lifecycle = watch(&stack).await;
    let (_probe, mut seen) = Probe::start(&stack, "0.0.0.0:7", false)
        .await
        .expect("bound");
    within(stack.shutdown()).await;
    let closed = Seen::Event(SocketEvent::Closed(CloseReason::Shutdown));
    assert_eq!(within(seen.recv()).await, Some(closed));
    assert_eq!(within(lifecycle.recv()).await, Some(Lifecycle::Stopped));
    assert_eq!(within(stack.ended()).await, Lifecycle::Stopped);
    assert!(stack.stats().await.is_err());
    within(stack.shutdown()).await;
}

#[actix::test]
async fn a_lost_device_closes_the_sockets_and_is_told() {
    let (end, _other) = Link::pair(LinkConfig::default());
    let (stack, device) = start(config(1), end).await;
    let mut lifecycle = watch(&stack).await;
    let (_probe, mut seen) = Probe::start(&stack, "0.0.0.0:7", false)
        .await
        .expect("bound");
    device.unplug();
    match within(seen.recv()).await {
        Some(Seen::Event(SocketEvent::Closed(CloseReason::DeviceLost(_)))) => {}
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        within(lifecycle.recv()).await,
        Some(Lifecycle::DeviceLost(_))
    ));
    assert!(matches!(
        within(stack.ended()).await,
        Lifecycle::DeviceLost(_)
    ));
    within(stack.shutdown()).await;
}

#[actix::test]
async fn link_changes_are_told() {
    let (end, _other) = Link::pair(LinkConfig::default());
    let (stack, device) = start(config(1), end).await;
    let mut lifecycle = watch(&stack).await;
    device.set_link(false);
    assert_eq!(within(lifecycle.recv()).await, Some(Lifecycle::LinkDown));
    device.set_link(true);
    assert_eq!(within(lifecycle.recv()).await, Some(Lifecycle::LinkUp));
    within(stack.shutdown()).await;
}

/// Also one that asks while somebody else's shutdown is under way returns when all is done.
#[actix::test]
async fn shutting_down_twice_at_once_is_as_once() {
    let (end, _other) = Link::pair(LinkConfig::default());
    let (stack, _) = start(config(1), end).await;
    let mut lifecycle = watch(&stack).await;
    let (probe, mut seen) = Probe::start(&stack, "0.0.0.0:7", false)
        .await
        .expect("bound");
    within(async { tokio::join!(stack.shutdown(), stack.shutdown(), stack.shutdown()) }).await;
    let closed = Seen::Event(SocketEvent::Closed(CloseReason::Shutdown));
    assert_eq!(within(seen.recv()).await, Some(closed));
    assert_eq!(within(lifecycle.recv()).await, Some(Lifecycle::Stopped));
    // The arbiter has ended, and with it what lived there.
    assert_eq!(within(seen.recv()).await, None);
    drop(probe);
}

#[actix::test]
async fn an_actor_that_blocks_its_cpu_does_not_keep_the_stack_from_ending() {
    let (end, _other) = Link::pair(LinkConfig::default());
    let mut config = config(1);
    config.limits.drain_ms = 10;
    let (stack, _) = start(config, end).await;
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let (entered, inside) = tokio::sync::oneshot::channel();
    let block = stack.run_on(0, |_| async move {
        let _ = entered.send(());
        let _ = blocked.recv();
    });
    let other = stack.clone();
    let end = async move {
        inside.await.expect("it runs");
        within(other.shutdown()).await;
        drop(release);
    };
    let _ = tokio::join!(block, end);
}

#[actix::test]
async fn who_subscribes_after_the_device_was_lost_is_told_so() {
    let (end, _other) = Link::pair(LinkConfig::default());
    let (stack, device) = start(config(1), end).await;
    let mut first = watch(&stack).await;
    device.unplug();
    let lost = within(first.recv()).await.expect("an event");
    assert!(matches!(lost, Lifecycle::DeviceLost(_)));
    let (sender, mut late) = unbounded_channel();
    stack.subscribe(Watcher(sender).start());
    assert_eq!(within(late.recv()).await, Some(lost));
    within(stack.shutdown()).await;
}
