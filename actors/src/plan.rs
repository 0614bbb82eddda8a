//! Who gets what of a device: the plan of the cpus, and the queues, virtual queues and lanes that
//! follow from it once the device has answered.

use std::collections::HashMap;
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
    let lanes = lanes(plan, ties);
    let bells: Vec<_> = lanes.iter().map(|ends| ends.bell.clone()).collect();
    let (mut virtual_ends, mut served) = virtual_queues(plan, ties, &bells, pools);
    let mut pairs: Vec<_> = pairs.into_iter().map(Some).collect();
    let mut locals = Vec::new();
    for (cpu, ends) in (0..cpus).zip(lanes) {
        let mut own = ties
            .owned_queues(cpu)
            .filter_map(|queue| pairs.get_mut(usize::from(queue))?.take());
        let way_out = match own.next() {
            Some(pair) => {
                let served = served.remove(&cpu).unwrap_or_default();
                Some(WayOut::Queue(Box::new(pair), served))
            }
            None => virtual_ends.remove(&cpu),
        };
        let further = own.collect();
        locals.extend(way_out.map(|way_out| LocalQueues {
            features: features.clone(),
            way_out,
            further,
            crossings: (cpus > 1).then(|| (ends, placement.clone())),
        }));
    }
    Ok(locals)
}

/// A virtual queue for each proxy, with a pool: its ends by proxy, and by the cpu that serves it.
fn virtual_queues(
    plan: &CpuPlan,
    ties: Ties,
    bells: &[Arc<Bell>],
    pools: Vec<UnboundPool>,
) -> (HashMap<u16, WayOut>, HashMap<u16, Vec<ServedEnd>>) {
    let mut senders = HashMap::new();
    let mut served: HashMap<u16, Vec<ServedEnd>> = HashMap::new();
    let proxies = (0..).zip(bells).filter(|(cpu, _)| ties.is_proxy(*cpu));
    for ((cpu, bell), pool) in proxies.zip(pools) {
        let queue = ties.transmit_queue(cpu);
        let owner = queue.and_then(|queue| ties.owner_of_queue(queue));
        let Some((owner, owners_bell)) =
            owner.and_then(|owner| Some((owner, bells.get(usize::from(owner))?)))
        else {
            continue;
        };
        let credits = Arc::new(Credits::new(plan.credits));
        let (sender, receiver) = lane(plan.credits as usize, owners_bell.clone());
        served.entry(owner).or_default().push(ServedEnd {
            lane: receiver,
            credits: credits.clone(),
            bell: bell.clone(),
        });
        senders.insert(cpu, WayOut::Virtual(sender, credits, pool));
    }
    (senders, served)
}

/// A lane from each cpu to each other one; the ends by cpu.
fn lanes(plan: &CpuPlan, ties: Ties) -> Vec<LaneEnds> {
    let mut ends: Vec<LaneEnds> = (0..plan.cpus()).map(|_| LaneEnds::default()).collect();
    for from in 0..plan.cpus() {
        let frames = match ties.is_proxy(from) {
            true => SELDOM.min(plan.lane_frames as usize),
            false => plan.lane_frames as usize,
        };
        let mut outbound = Vec::new();
        for (to, end) in (0..).zip(&mut ends) {
            let lane = (from != to).then(|| lane(frames, end.bell.clone()));
            let (sender, receiver) = lane.unzip();
            end.inbound.extend(receiver);
            outbound.push(sender);
        }
        if let Some(end) = ends.get_mut(usize::from(from)) {
            end.outbound = outbound;
        }
    }
    ends
}
