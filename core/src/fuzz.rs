//! Decoders that are not public, for the fuzz targets. Each says whether the bytes could be read.

pub use crate::state::fuzz::record;
