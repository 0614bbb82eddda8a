//! The table *cpu -> queue*: who serves a queue pair, and through which one a cpu sends.

use super::PlacementError;

/// How queue pairs and cpus are tied, whatever their numbers.
///
/// Queue pair `q` is owned by cpu `q` modulo the number of cpus, and cpu `c` sends through queue
/// pair `c` modulo the number of queue pairs. So with as many queues as cpus each cpu has its own;
/// with fewer, the surplus cpus are proxies, spread evenly over the queues; with more, they are
/// spread evenly over the cpus, and a cpu that owns several sends through its first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ties {
    queues: u16,
    cpus: u16,
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
            _ => Ok(Ties { queues, cpus }),
        }
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
        (queue < self.queues).then_some(queue % self.cpus)
    }

    /// The queue through which `cpu` sends, itself or, if it is a proxy, by way of the queue's
    /// owner. `None` if there is no such cpu.
    pub fn transmit_queue(&self, cpu: u16) -> Option<u16> {
        (cpu < self.cpus).then_some(cpu % self.queues)
    }

    /// Whether `cpu` owns no queue, and sends and receives through another cpu's. False if there is
    /// no such cpu.
    pub fn is_proxy(&self, cpu: u16) -> bool {
        cpu < self.cpus && cpu >= self.queues
    }

    /// The queues that `cpu` owns, in ascending order; the first is the one through which it sends.
    pub fn owned_queues(&self, cpu: u16) -> impl Iterator<Item = u16> + Clone + use<> {
        let start = if cpu < self.cpus { cpu } else { self.queues };
        (start..self.queues).step_by(usize::from(self.cpus))
    }

    /// The cpus that send through `queue`, in ascending order: its owner, if that is its only or
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
