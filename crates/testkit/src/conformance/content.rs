//! Content that nobody has seen before.

use bytes::Bytes;
use mortar_model::{Digest, DigestFunction};
use std::hash::{BuildHasher, Hasher, RandomState};

/// Random bytes (SplitMix64), seeded by the process.
#[derive(Debug)]
pub struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self::new()
    }
}

impl Random {
    /// A generator with a random seed.
    pub fn new() -> Self {
        Self(RandomState::new().build_hasher().finish())
    }

    /// A generator that gives the same for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// So many bytes.
    pub fn bytes(&mut self, length: usize) -> Bytes {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.number().to_le_bytes());
        }
        bytes.truncate(length);
        bytes.into()
    }

    /// So many bytes and their digest.
    pub fn blob(&mut self, function: DigestFunction, length: usize) -> (Digest, Bytes) {
        let bytes = self.bytes(length);
        (Digest::of(function, &bytes), bytes)
    }
}
