//! The other cpus of a stack, for what crosses seldom: bindings, and answers of neighbours.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures_util::future::join_all;
use tokio::sync::oneshot;
use virtroupe_wire::placement::{Binding, Flow};

use crate::messages::BindError;
use crate::registry::{Reservation, Sharing};

/// How long another cpu may take to acknowledge a binding.
pub(crate) const ACKNOWLEDGE: Duration = Duration::from_secs(5);

/// A socket was bound or closed on a cpu: all others take note in their own copy of the
/// exceptions.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct ChangeBinding {
    /// The local end.
    pub(crate) binding: Binding,
    /// Where the socket is.
    pub(crate) cpu: u16,
    /// The reservation of a socket that was closed: held until every cpu has taken note, so that
    /// nobody is bound there before. `None` if the socket was bound.
    pub(crate) closed: Option<Arc<Reservation>>,
}

/// The connections of a cpu that stay there, although their port is bound on other cpus, too, to
/// whom they would go: all that it has at this port.
#[derive(Debug, Clone)]
pub(crate) struct KeepFlows {
    /// Their port.
    pub(crate) at: TcpPort,
    /// Where they are.
    pub(crate) cpu: u16,
    /// The connections.
    pub(crate) flows: Arc<[Flow]>,
}

/// Connections stay on a cpu although their port is bound on other cpus, too: the others take note in
/// their own copy of the exceptions.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FlowsKept {
    /// What stays where.
    pub(crate) keep: KeepFlows,
    /// Goes when the cpu has taken note, for who waits for that.
    pub(crate) noted: Option<oneshot::Sender<()>>,
}

/// Connections that a cpu had [kept](FlowsKept) are over: the others let go of them, too.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct FlowsEnded {
    /// Where they were.
    pub(crate) cpu: u16,
    /// The connections.
    pub(crate) flows: Arc<[Flow]>,
}

/// A local TCP port over one IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TcpPort {
    pub(crate) port: u16,
    pub(crate) is_ipv6: bool,
}

/// A neighbour told its address to one cpu; the others may need it, too. Has the frame.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct NeighborHeard(pub(crate) Arc<[u8]>);

/// One other cpu.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its number.
    pub cpu: u16,
    /// Takes note of bindings.
    pub bindings: Recipient<ChangeBinding>,
    /// Takes note of connections that stay where they are.
    pub kept: Recipient<FlowsKept>,
    /// Takes note of those that have ended.
    pub ended: Recipient<FlowsEnded>,
    /// Hears neighbours.
    pub neighbors: Recipient<NeighborHeard>,
}

impl Peer {
    /// One for each change of a binding and a few a minute, so the mailbox's bound is not needed. What
    /// waited for room in it would be overtaken by what says that these connections have ended.
    fn tell_kept(&self, keep: KeepFlows, noted: Option<oneshot::Sender<()>>) {
        self.kept.do_send(FlowsKept { keep, noted });
    }
}

/// All other cpus.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peers(Vec<Peer>);

impl Peers {
    pub(crate) fn new(peers: Vec<Peer>) -> Self {
        Peers(peers)
    }

    /// Tells all others of a socket that was bound; done when each has taken note. A cpu that has
    /// ended needs none.
    pub(crate) fn announce(
        &self,
        binding: Binding,
        cpu: u16,
    ) -> impl Future<Output = Result<(), BindError>> + use<> {
        let change = ChangeBinding {
            binding,
            cpu,
            closed: None,
        };
        let notes: Vec<_> = self
            .0
            .iter()
            .map(|peer| (peer.cpu, peer.bindings.send(change.clone())))
            .collect();
        async move {
            match all_answers(notes).await {
                Some(cpu) => Err(BindError::NoAnswer { cpu }),
                None => Ok(()),
            }
        }
    }

    /// Tells all others of connections that stay; done when each has taken note, or does not answer.
    pub(crate) fn keep(&self, keep: KeepFlows) -> impl Future<Output = ()> + use<> {
        let tell = |peer: &Peer| {
            let (noted, is_noted) = oneshot::channel();
            peer.tell_kept(keep.clone(), Some(noted));
            // Who has ended drops it.
            (peer.cpu, is_noted)
        };
        let notes: Vec<_> = self.0.iter().map(tell).collect();
        async move {
            // Who changes a binding asks it, too, and learns that it does not answer.
            let _ = all_answers(notes).await;
        }
    }

    /// As [`keep`](Self::keep), but nobody waits for it.
    pub(crate) fn note_kept(&self, keep: &KeepFlows) {
        for peer in &self.0 {
            peer.tell_kept(keep.clone(), None);
        }
    }

    /// Tells all others of connections that stayed on `cpu` and have ended.
    pub(crate) fn note_ended(&self, cpu: u16, flows: &Arc<[Flow]>) {
        for peer in &self.0 {
            // One a turn at most, and a flow in one only: so the mailbox's bound is not needed.
            peer.ended.do_send(FlowsEnded {
                cpu,
                flows: flows.clone(),
            });
        }
    }

    /// Tells all others of a socket that was closed. Nobody waits for it; the address is free
    /// when the last has taken note.
    pub(crate) fn retract(&self, mut reservation: Reservation, cpu: u16) {
        let binding = reservation.binding();
        if reservation.sharing() == Sharing::Connected {
            // Nobody was told of it.
            return;
        }
        reservation.start_closing();
        let closed = Some(Arc::new(reservation));
        for peer in &self.0 {
            // One for each close: bounded by the binds, so the mailbox's bound is not needed.
            peer.bindings.do_send(ChangeBinding {
                binding,
                cpu,
                closed: closed.clone(),
            });
        }
    }

    /// Lets all others hear what a neighbour said. Strangers may cause this, so the bound of the
    /// mailbox holds: who is too busy misses it, and asks.
    pub(crate) fn share(&self, frame: &Arc<[u8]>) {
        for peer in &self.0 {
            let _ = peer.neighbors.try_send(NeighborHeard(frame.clone()));
        }
    }
}

/// Waits for all at once, for [`ACKNOWLEDGE`] at most. The first cpu that has not answered by then; one
/// that has ended need not.
async fn all_answers<F: Future>(notes: Vec<(u16, F)>) -> Option<u16> {
    let answers = notes.into_iter().map(|(cpu, note)| async move {
        let answer = tokio::time::timeout(ACKNOWLEDGE, note).await;
        answer.is_err().then_some(cpu)
    });
    join_all(answers).await.into_iter().flatten().next()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::pin::{Pin, pin};
    use std::task::Poll;

    use super::*;

    #[actix::test]
    async fn everybody_is_waited_for_at_once() {
        let (asked, has_answer) = (Cell::new(0), Cell::new(false));
        let note = |cpu| {
            let (asked, has_answer) = (&asked, &has_answer);
            let answer = poll_fn(move |_| {
                asked.set(asked.get() + 1);
                match has_answer.get() {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            });
            (cpu, answer)
        };
        let mut answers = pin!(all_answers(vec![note(1), note(4), note(6)]));
        assert!(poll_once(answers.as_mut()).await.is_pending());
        assert_eq!(asked.get(), 3, "those behind one that does not answer, too");
        has_answer.set(true);
        assert_eq!(poll_once(answers.as_mut()).await, Poll::Ready(None));
    }

    /// A cpu that notes in which order it hears what.
    struct Listener(Vec<&'static str>);

    impl Actor for Listener {
        type Context = Context<Self>;
    }

    impl Handler<FlowsKept> for Listener {
        type Result = ();

        fn handle(&mut self, _: FlowsKept, _: &mut Self::Context) {
            self.0.push("kept");
        }
    }

    impl Handler<FlowsEnded> for Listener {
        type Result = ();

        fn handle(&mut self, _: FlowsEnded, _: &mut Self::Context) {
            self.0.push("ended");
        }
    }

    impl Handler<ChangeBinding> for Listener {
        type Result = ();

        fn handle(&mut self, _: ChangeBinding, _: &mut Self::Context) {}
    }

    impl Handler<NeighborHeard> for Listener {
        type Result = ();

        fn handle(&mut self, _: NeighborHeard, _: &mut Self::Context) {}
    }

    /// What it has heard.
    #[derive(Message)]
    #[rtype(result = "Vec<&'static str>")]
    struct Heard;

    impl Handler<Heard> for Listener {
        type Result = MessageResult<Heard>;

        fn handle(&mut self, _: Heard, _: &mut Self::Context) -> Self::Result {
            MessageResult(self.0.clone())
        }
    }

    #[actix::test]
    async fn the_end_of_a_kept_flow_does_not_overtake_that_it_is_kept() {
        let listener = Listener(Vec::new()).start();
        let peers = Peers::new(vec![Peer {
            cpu: 1,
            bindings: listener.clone().recipient(),
            kept: listener.clone().recipient(),
            ended: listener.clone().recipient(),
            neighbors: listener.clone().recipient(),
        }]);
        // More than its mailbox should hold.
        let frame: Arc<[u8]> = Arc::new([]);
        (0..64).for_each(|_| listener.do_send(NeighborHeard(frame.clone())));
        let flows: Arc<[Flow]> = Arc::new([]);
        let at = TcpPort {
            port: 80,
            is_ipv6: false,
        };
        let keep = || {
            peers.keep(KeepFlows {
                at,
                cpu: 0,
                flows: flows.clone(),
            })
        };
        // A mailbox takes one request beyond its bound from each sender.
        let (first, second) = (keep(), keep());
        peers.note_ended(0, &flows);
        first.await;
        second.await;
        let heard = listener.send(Heard).await;
        assert_eq!(heard.expect("it runs"), ["kept", "kept", "ended"]);
    }

    async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
        poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
    }
}
