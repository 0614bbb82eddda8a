//! The TCP engine: two of them over a simulated link, and one against crafted segments.

mod bed;
mod flow;
mod network;
mod recovery;
mod states;
mod streams;
mod support;
