//! TCP (RFC 9293): a sans-IO engine for many connections.

#[allow(dead_code)]
pub mod checksum;
pub mod header;
pub mod payload;
#[allow(dead_code)]
mod rtt;
#[allow(dead_code)]
mod secrets;
pub mod segment;
pub mod sequence;
#[allow(dead_code)]
mod slab;
#[allow(dead_code)]
mod wheel;
