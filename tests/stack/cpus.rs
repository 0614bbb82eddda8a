//! Several cpus: any number of queues and cpus, and every flow on its owner.

mod bindings;
mod link;
mod owners;
mod wire;
