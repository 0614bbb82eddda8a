//! The table *cpu -> queue*: who serves a queue pair, and through which one a cpu sends.

use super::PlacementError;

/// How queue pairs and cpus are tied, whatever their numbers.
///
/// Queue pair `q` is owned by cpu `q` modulo the number of cpus, and cpu `c` sends through queue
/// pair `c` modulo the number of queue pairs, if the cpus are counted from the first one on. So with as many queues as cpus each cpu has its own;
/// with fewer, the surplus cpus are proxies, spread evenly over the queues; with more, they are
/// spread evenly over the cpus, and a cpu that owns several sends through its first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ties {
    queues: u16,
    cpus: u16,
    /// The owner of queue pair 0.
    first: u16,
}

impl Ties {
    /// The ties of `queues` queue pairs and `cpus` cpus.
    ///
    /// # Errors
    /// `NoQueues` or `NoCpus` if one is 0.
    pub fn new(queues: u16, cpus: u16) -> Result<Self, PlacementError> {
        match (queues, cpus) {
            (0, _) => Err(PlacementError::NoQueues),
            (_, 0) => Err(PlacementError::NoCpus),
            _ => Ok(Ties {
                queues,
                cpus,
                first: 0,
            }),
        }
    }

    /// As [`new`](Ties::new), but queue pair 0 is owned by cpu `first`, and the next ones by the
    /// cpus behind it, in a circle.
    ///
    /// # Errors
    /// Those of `new`, and `UnknownCpu` if there is no cpu `first`.
    pub fn starting_at(first: u16, queues: u16, cpus: u16) -> Result<Self, PlacementError> {
        let ties = Ties::new(queues, cpus)?;
        match first < cpus {
            true => Ok(Ties { first, ..ties }),
            false => Err(PlacementError::UnknownCpu { cpu: first, cpus }),
        }
    }

    /// The place of `cpu` in the circle.
    fn place(&self, cpu: u16) -> u16 {
        ((u32::from(cpu) + u32::from(self.cpus) - u32::from(self.first)) % u32::from(self.cpus))
            as u16
    }

    /// The cpu at `place` in the circle.
    fn cpu(&self, place: u16) -> u16 {
        ((u32::from(place) + u32::from(self.first)) % u32::from(self.cpus)) as u16
    }

    /// The number of queue pairs; they are numbered from 0.
    pub fn queues(&self) -> u16 {
        self.queues
    }

    /// The number of cpus; they are numbered from 0.
    pub fn cpus(&self) -> u16 {
        self.cpus
    }

    /// The cpu that owns `queue`: it alone touches the rings. `None` if there is no such queue.
    pub fn owner_of_queue(&self, queue: u16) -> Option<u16> {
        (queue < self.queues).then(|| self.cpu(queue % self.cpus))
    }

    /// The queue through which `cpu` sends, itself or, if it is a proxy, by way of the queue's
    /// owner. `None` if there is no such cpu.
    pub fn transmit_queue(&self, cpu: u16) -> Option<u16> {
        (cpu < self.cpus).then(|| self.place(cpu) % self.queues)
    }

    /// Whether `cpu` owns no queue, and sends and receives through another cpu's. False if there is
    /// no such cpu.
    pub fn is_proxy(&self, cpu: u16) -> bool {
        cpu < self.cpus && self.place(cpu) >= self.queues
    }

    /// The queues that `cpu` owns, in ascending order; the first is the one through which it sends.
    pub fn owned_queues(&self, cpu: u16) -> impl Iterator<Item = u16> + Clone + use<> {
        let start = if cpu < self.cpus {
            self.place(cpu)
        } else {
            self.queues
        };
        (start..self.queues).step_by(usize::from(self.cpus))
    }

    /// The cpus that send through `queue`, in the order of the circle: its owner, if that is its only or
    /// first queue, and its proxies.
    pub fn senders(&self, queue: u16) -> impl Iterator<Item = u16> + Clone + use<> {
        let start = if queue < self.queues {
            queue
        } else {
            self.cpus
        };
        (start..self.cpus).step_by(usize::from(self.queues))
    }
}

#[cfg(test)]
mod tests;
