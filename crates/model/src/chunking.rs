//! How blobs are cut into chunks, and what came of it.

use crate::Digest;

/// Finds the ends of chunks by the content of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChunkingFunction {
    /// FastCDC as of 2020, at normalization level 2.
    FastCdc2020,
    /// RepMaxCDC.
    RepMaxCdc,
}

/// The parameters of every function, which clients are told: those who cut alike share chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkingParameters {
    /// Those of FastCDC.
    pub fast_cdc_2020: FastCdc2020,
    /// Those of RepMaxCDC.
    pub rep_max_cdc: RepMaxCdc,
}

/// The parameters of FastCDC. Chunks have from a quarter of the average size to four times as much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FastCdc2020 {
    /// In bytes, a power of two from 1 KiB to 8 MiB.
    pub average: u64,
    /// Changes where chunks end.
    pub seed: u32,
}

/// As the protocol recommends.
impl Default for FastCdc2020 {
    fn default() -> Self {
        Self { average: 512 << 10, seed: 0 }
    }
}

/// The parameters of RepMaxCDC. Chunks have at least the minimum and less than twice that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepMaxCdc {
    /// In bytes, at least 64.
    pub minimum: u64,
    /// How many bytes beyond the minimum are looked at for the best end.
    pub horizon: u64,
}

/// As the protocol recommends.
impl Default for RepMaxCdc {
    fn default() -> Self {
        Self { minimum: 256 << 10, horizon: 2 << 20 }
    }
}

/// Of which chunks a blob consists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkMapping {
    /// By which function it was cut; none if that is not known.
    pub function: Option<ChunkingFunction>,
    /// Concatenated, they are the blob.
    pub chunks: Vec<Digest>,
}
