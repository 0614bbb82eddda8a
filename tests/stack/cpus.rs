//! Several cpus: any number of queues and cpus, and every flow on its owner.

mod bindings;
mod churn;
mod counts;
mod echo;
mod engines;
mod fragments;
mod ipv6;
mod link;
mod listeners;
mod lost;
mod open;
mod owners;
mod virtual_queue;
mod wire;
