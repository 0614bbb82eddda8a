//! What the fuzz targets share.

#![forbid(unsafe_code)]

pub mod frame;
pub mod frame6;
pub mod invariants;
pub mod segment;
pub mod tcp;
