//! TCP through the whole stack: listeners, streams and messages, on one cpu and on several.

mod accept;
mod bulk;
mod cpus;
mod elsewhere;
mod life;
mod moved;
mod pressure;
mod segmentation;
mod send;
mod support;
