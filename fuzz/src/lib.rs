//! What the fuzz targets share.

#![forbid(unsafe_code)]

pub mod frame;
pub mod invariants;
pub mod tcp;
