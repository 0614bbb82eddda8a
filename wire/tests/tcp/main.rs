//! The TCP engine: two of them over a simulated link, and one against crafted segments.

mod attacks;
mod bed;
mod conformance;
mod flow;
mod hosts;
mod lifecycles;
mod network;
mod pacing;
mod paths;
mod recovery;
mod spurious;
mod states;
mod streams;
mod support;
mod unreachable;
