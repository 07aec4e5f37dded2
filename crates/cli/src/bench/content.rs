//! Random content that costs next to nothing to make: blobs of one size share all but their last bytes, whose hash is
//! computed once and continued for each. No two blobs are equal, none can be compressed; a server that stores blobs in
//! chunks, each once, has less to write than one that stores them whole.

use bytes::Bytes;
use mortar_model::{Digest, DigestFunction, Hasher};

/// The bytes in which blobs of one size differ.
pub(super) const TAIL: usize = 64;

/// A cheap source of bits that are random enough to be incompressible (xorshift64*).
pub(super) struct Random(u64);

impl Random {
    /// A source that is unlike any other.
    pub(super) fn new() -> Self {
        let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
        Self((high ^ low.rotate_left(32)) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    /// A digest of no blob that anybody has.
    pub(super) fn digest(&mut self, function: DigestFunction) -> Digest {
        Digest::of(function, &self.bytes(TAIL))
    }
}

/// Makes blobs of one size.
#[derive(Clone)]
pub(super) struct Mint {
    head: Bytes,
    hasher: Hasher,
}

/// A blob in two parts, of which the first is shared.
pub(super) struct Minted {
    pub(super) digest: Digest,
    pub(super) head: Bytes,
    pub(super) tail: Bytes,
}

impl Mint {
    /// `size` is at least [`TAIL`].
    pub(super) fn new(function: DigestFunction, size: usize) -> Self {
        let head = Random::new().bytes(size.saturating_sub(TAIL));
        let mut hasher = Hasher::new(function);
        hasher.update(&head);
        Self { head: head.into(), hasher }
    }

    /// A new blob.
    pub(super) fn blob(&self, random: &mut Random) -> Minted {
        let tail = random.bytes(TAIL);
        let mut hasher = self.hasher.clone();
        hasher.update(&tail);
        Minted { digest: hasher.finish(), head: self.head.clone(), tail: tail.into() }
    }
}

impl Minted {
    /// The whole, in one piece.
    pub(super) fn into_bytes(self) -> Bytes {
        [self.head, self.tail].concat().into()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn minted_blobs_have_their_digests_and_differ() {
        for function in DigestFunction::ALL {
            let (mint, mut random) = (Mint::new(function, 4096), Random::new());
            let (first, second) = (mint.blob(&mut random), mint.blob(&mut random));
            assert_ne!(first.digest, second.digest);
            let digest = first.digest;
            let bytes = first.into_bytes();
            assert_eq!((bytes.len(), Digest::of(function, &bytes)), (4096, digest));
        }
    }
}
