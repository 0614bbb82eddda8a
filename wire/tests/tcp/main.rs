//! The TCP engine: two of them over a simulated link, and one against crafted segments.

mod network;
mod streams;
mod support;
