//! Who gets what of a device: the plan of the cpus, and the queues, virtual queues and lanes that
//! follow from it once the device has answered.

use std::sync::Arc;

use virtroupe_driver::{Features, UnboundPool, UnboundQueuePair};
use virtroupe_wire::placement::{Buckets, Placement, PlacementError, Ties, Toeplitz};

use crate::bell::Bell;
use crate::credits::Credits;
use crate::crossings::LaneEnds;
use crate::lane::{LaneReceiver, LaneSender, lane};

/// Frames in a lane from a cpu that owns no queue: it only hands over what it put together.
const SELDOM: usize = 128;

/// The cpus of a stack, and how they share the device.
#[derive(Debug, Clone)]
pub struct CpuPlan {
    /// For each cpu its share of the flows, in proportion to the others'; 0 for none. As many as
    /// there are cpus.
    pub weights: Vec<u32>,
    /// The cpu that owns the first queue pair; the next ones own the others.
    pub first: u16,
    /// Seeds the key of the hash that places flows; must not be guessable.
    pub seed: u64,
    /// Packets that a cpu without a queue may have under way.
    pub credits: u32,
    /// Frames that wait in the lane between two cpus.
    pub lane_frames: u32,
}

impl CpuPlan {
    /// A plan for one cpu.
    pub fn single() -> Self {
        CpuPlan {
            weights: vec![1],
            first: 0,
            seed: 0,
            credits: 1,
            lane_frames: 1,
        }
    }

    fn cpus(&self) -> u16 {
        self.weights.len() as u16
    }

    /// How many cpus own no queue, of a device with so many queue pairs.
    pub(crate) fn proxies(&self, queue_pairs: u16) -> u16 {
        self.cpus().saturating_sub(queue_pairs)
    }
}

/// What a cpu is given: its queue pairs or a virtual queue, its lanes, and the device's facts.
pub struct LocalQueues {
    /// What was negotiated.
    pub features: Features,
    pub(crate) way_out: WayOut,
    /// Further pairs that the cpu owns.
    pub(crate) further: Vec<UnboundQueuePair>,
    /// Lanes and tables; `None` for the only cpu of a stack.
    pub(crate) crossings: Option<(LaneEnds, Placement)>,
}

/// Through what a cpu sends.
pub(crate) enum WayOut {
    /// Its own pair, and the virtual queues of others that it serves.
    Queue(Box<UnboundQueuePair>, Vec<ServedEnd>),
    /// The virtual queue to the owner of another's, and a pool.
    Virtual(LaneSender, Arc<Credits>, UnboundPool),
}

/// The owner's end of a virtual queue.
pub(crate) struct ServedEnd {
    pub(crate) lane: LaneReceiver,
    pub(crate) credits: Arc<Credits>,
    pub(crate) bell: Arc<Bell>,
}

/// Divides the queue pairs and pools of a device among the cpus of `plan`, by cpu.
///
/// # Errors
/// When the plan has no cpu or no weight, or names a first cpu that does not exist.
pub(crate) fn local_queues(
    plan: &CpuPlan,
    features: &Features,
    pairs: Vec<UnboundQueuePair>,
    pools: Vec<UnboundPool>,
) -> Result<Vec<LocalQueues>, PlacementError> {
    let cpus = plan.cpus();
    let buckets = Buckets::new(&plan.weights)?;
    let ties = Ties::starting_at(plan.first, pairs.len() as u16, cpus)?;
    let placement = Placement::new(Toeplitz::from_seed(plan.seed), buckets, ties)?;
    let bells: Vec<Arc<Bell>> = (0..cpus).map(|_| Arc::default()).collect();
    let mut lanes = lanes(plan, ties, &bells);
    let mut pairs: Vec<_> = pairs.into_iter().map(Some).collect();
    let mut pools = pools.into_iter();
    let mut served: Vec<Vec<ServedEnd>> = (0..cpus).map(|_| Vec::new()).collect();
    let mut locals: Vec<Option<LocalQueues>> = (0..cpus).map(|_| None).collect();
    // Proxies first: their owners then have all virtual queues to serve.
    let (proxies, owners): (Vec<u16>, Vec<u16>) = (0..cpus).partition(|cpu| ties.is_proxy(*cpu));
    for cpu in proxies.into_iter().chain(owners) {
        let at = usize::from(cpu);
        let owner = ties
            .transmit_queue(cpu)
            .and_then(|queue| ties.owner_of_queue(queue))
            .unwrap_or(cpu);
        let mut own = ties
            .owned_queues(cpu)
            .filter_map(|queue| pairs.get_mut(usize::from(queue))?.take());
        let way_out = match own.next() {
            Some(pair) => Some(WayOut::Queue(
                Box::new(pair),
                std::mem::take(&mut served[at]),
            )),
            None => pools.next().map(|pool| {
                let credits = Arc::new(Credits::new(plan.credits));
                let bell = bells[usize::from(owner)].clone();
                let (sender, receiver) = lane(plan.credits as usize, bell);
                served[usize::from(owner)].push(ServedEnd {
                    lane: receiver,
                    credits: credits.clone(),
                    bell: bells[at].clone(),
                });
                WayOut::Virtual(sender, credits, pool)
            }),
        };
        let further = own.collect();
        locals[at] = way_out.map(|way_out| LocalQueues {
            features: features.clone(),
            way_out,
            further,
            crossings: (cpus > 1).then(|| (std::mem::take(&mut lanes[at]), placement.clone())),
        });
    }
    Ok(locals.into_iter().flatten().collect())
}

/// A lane from each cpu to each other one; the ends by cpu.
fn lanes(plan: &CpuPlan, ties: Ties, bells: &[Arc<Bell>]) -> Vec<LaneEnds> {
    let mut ends: Vec<LaneEnds> = bells
        .iter()
        .map(|bell| LaneEnds {
            bell: bell.clone(),
            ..LaneEnds::default()
        })
        .collect();
    for from in 0..plan.cpus() {
        let frames = match ties.is_proxy(from) {
            true => SELDOM.min(plan.lane_frames as usize),
            false => plan.lane_frames as usize,
        };
        for to in 0..plan.cpus() {
            let lane = (from != to).then(|| lane(frames, bells[usize::from(to)].clone()));
            let (sender, receiver) = lane.unzip();
            ends[usize::from(to)].inbound.extend(receiver);
            ends[usize::from(from)].outbound.push(sender);
        }
    }
    ends
}
