//! The ports of a cpu: where its frames come from and go to.
//!
//! This is all in which a cpu with a queue and a proxy differ.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Context;

use virtroupe_driver::QueuePair;
use virtroupe_wire::DropReason;

use crate::crossings::Crossings;
use crate::egress::Egress;
use crate::shard::Shard;

/// What ties one cpu to the device and to the other cpus.
pub(crate) struct Ports {
    /// The way out; for a cpu with a queue also the first way in.
    pub(crate) egress: Egress,
    /// The queue pairs that the cpu owns besides the one that it sends through.
    pub(crate) further: Vec<Rc<RefCell<QueuePair>>>,
    /// The lanes to and from other cpus; `None` if there are none.
    pub(crate) crossings: Option<Crossings>,
}

/// The ports, as shard and poll loops of a cpu share them.
pub(crate) type PortsCell = Rc<RefCell<Ports>>;

impl Ports {
    /// How many cpus the stack has.
    pub(crate) fn cpus(&self) -> u16 {
        let crossings = self.crossings.as_ref();
        crossings.map_or(1, |crossings| crossings.placement.buckets().cpus())
    }

    /// Whether the queues should not be harvested now, because a cpu has no room.
    pub(crate) fn is_blocked(&self) -> bool {
        self.crossings.as_ref().is_some_and(Crossings::is_blocked)
    }

    /// Before the cpu sleeps: asks device and other cpus to wake it. Returns false if there is
    /// work already.
    pub(crate) fn arm(&mut self, shard: &mut Shard, cx: &Context<'_>) -> bool {
        if let Some(crossings) = &self.crossings {
            crossings.bell().announce_sleep(cx.waker());
        }
        // Only now: what came before is seen here, what comes later rings.
        self.egress.arm(shard.needs_room())
            && !shard.owes_notices(&mut self.egress)
            && !shard.misses_room(&self.egress)
            && !shard.has_handed_over()
            && !self.crossings.as_ref().is_some_and(Crossings::has_work)
    }

    /// The cpu is awake.
    pub(crate) fn disarm(&mut self) {
        if let Some(crossings) = &self.crossings {
            crossings.bell().cancel();
        }
        self.egress.disarm();
    }

    /// Lets go of everything that ties the cpu to the others. What waited is counted under
    /// `reason`.
    pub(crate) fn close(&mut self, reason: DropReason) {
        let waiting = self.egress.drop_waiting();
        if let Some(crossings) = &mut self.crossings {
            crossings.count_drop(reason, waiting);
            crossings.close(reason);
        }
    }
}
