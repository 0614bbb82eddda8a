//! The way in: from bursts of frames to subscriptions and engines, and what the engines hand to
//! other cpus.

use std::mem::take;

use virtroupe_driver::{Frame, Pool};
use virtroupe_wire::filter::Filter;
use virtroupe_wire::{Buffer, Instant};

use super::{Capture, Shard};
use crate::crossings::{Crossings, Heard, is_made_by_engines};

impl Shard {
    /// Starts fetching frames that the engines will read, but not those that subscriptions may
    /// take without a look at them.
    pub(crate) fn expect(&self, frames: &[Frame]) {
        if self.subscriptions.is_empty() {
            frames.iter().for_each(Frame::prefetch);
        }
    }

    /// Lets subscriptions and engines have received frames. Drains them.
    pub(crate) fn receive(&mut self, now: Instant, burst: &mut Vec<Frame>, pool: &mut Pool) {
        if !self.subscriptions.is_empty() {
            self.capture(burst, false);
            burst.iter().for_each(Frame::prefetch);
        }
        if !burst.is_empty() {
            self.host.receive(now, burst, pool);
        }
    }

    /// As [`receive`](Self::receive), for frames that other cpus received for this one.
    pub(crate) fn receive_handed_over(
        &mut self,
        now: Instant,
        burst: &mut Vec<Frame>,
        pool: &mut Pool,
    ) {
        if !self.subscriptions.is_empty() {
            self.capture(burst, true);
        }
        if !burst.is_empty() {
            burst.iter().for_each(Frame::prefetch);
            self.host.receive_handed_over(now, burst, pool);
        }
    }

    /// Hands what the engines have for other cpus, datagrams put together from fragments and
    /// packets to ourselves, to the cpus that own them.
    pub(crate) fn hand_over(&mut self, now: Instant, crossings: &mut Crossings, pool: &mut Pool) {
        while self.host.has_handed_over() {
            let mut own = take(&mut self.kept);
            while let Some(frame) = self.host.take_handed_over() {
                own.extend(crossings.route(frame));
            }
            // What is ours may make the engines answer, but an answer is not answered again.
            self.host.receive_handed_over(now, &mut own, pool);
            self.kept = own;
            crossings.flush(now);
        }
    }

    /// Lets subscriptions have what matches. Frames from other cpus may be such that no device
    /// delivered; those pass by.
    fn capture(&mut self, burst: &mut Vec<Frame>, from_cpu: bool) {
        if let [only] = &mut self.subscriptions[..]
            && only.capture == Capture::Take
            && only.filter == Filter::All
            && !from_cpu
        {
            self.taken += burst.len() as u64;
            only.pending.append(burst);
            return;
        }
        let mut kept = take(&mut self.kept);
        'frames: for frame in burst.drain(..) {
            if from_cpu && is_made_by_engines(&frame) {
                kept.push(frame);
                continue;
            }
            for subscription in &mut self.subscriptions {
                if !subscription.filter.matches(frame.head()) {
                    continue;
                }
                match subscription.capture {
                    Capture::Copy => subscription.pending.push(frame.copy_to_heap()),
                    Capture::Take => {
                        subscription.pending.push(frame);
                        self.taken += 1;
                        continue 'frames;
                    }
                }
            }
            kept.push(frame);
        }
        self.kept = std::mem::replace(burst, kept);
    }

    /// Lets the other cpus hear what neighbours said in the burst that was just received: all
    /// answers, and questions if the engines learned from them.
    pub(crate) fn share_neighbors(&mut self, heard: &mut Heard) {
        let learned = self.host.counters().neighbors_learned;
        let is_new = learned != std::mem::replace(&mut self.neighbors_learned, learned);
        let answers = heard.answers.drain(..);
        let questions = heard.questions.drain(..).filter(|_| is_new);
        for frame in answers.chain(questions) {
            self.peers.share(&frame);
        }
    }

    /// Lets the engines hear what a neighbour told another cpu.
    pub(crate) fn hear_neighbor(&mut self, now: Instant, frame: &[u8]) {
        self.host.hear_neighbor(now, frame);
        self.wake();
    }
}
