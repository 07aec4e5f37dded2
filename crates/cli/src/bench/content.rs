//! Content that costs next to nothing to make: blobs of one size share all but their last bytes, whose hash is
//! computed once and continued for each. No two blobs are equal; a server that stores blobs in chunks, each once, has less
//! to write than one that stores them whole.

use bytes::Bytes;
use mortar_model::{Digest, DigestFunction, Hasher};

/// The bytes in which blobs of one size differ.
pub(super) const TAIL: usize = 64;

/// What blobs consist of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Content {
    /// Random bytes, which nothing compresses.
    #[default]
    Random,
    /// Random words of C++, which zstd compresses to about a quarter.
    Text,
}

/// The words of a text: what generated code is full of.
const WORDS: [&str; 32] = [
    "static_assert(",
    "namespace ",
    "return ",
    "const ",
    "std::string_view ",
    "absl::",
    "inline ",
    "int64_t ",
    "template <typename T>\n",
    "#include \"",
    ".h\"\n",
    "if (",
    ") {\n    ",
    ";\n  ",
    "}\n",
    " = ",
    "size_t ",
    "internal::",
    "struct ",
    "class ",
    "// The ",
    " of the ",
    "void ",
    "unsigned ",
    "nullptr",
    "buffer",
    "value",
    "offset",
    "length",
    "count",
    "_",
    "0x",
];

impl Content {
    /// So many bytes.
    pub(super) fn bytes(self, random: &mut Random, length: usize) -> Vec<u8> {
        match self {
            Self::Random => random.bytes(length),
            Self::Text => {
                let mut text = Vec::with_capacity(length + 24);
                while text.len() < length {
                    text.extend_from_slice(WORDS[random.below(WORDS.len())].as_bytes());
                    if random.below(4) == 0 {
                        text.extend_from_slice(random.below(100_000).to_string().as_bytes());
                    }
                }
                text.truncate(length);
                text
            }
        }
    }
}

/// A cheap source of bits that are random enough to be incompressible (xorshift64*).
pub(super) struct Random(u64);

impl Random {
    /// A source that is unlike any other.
    pub(super) fn new() -> Self {
        let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
        Self((high ^ low.rotate_left(32)) | 1)
    }

    /// A source that gives the same for the same number.
    pub(super) fn of(number: u64) -> Self {
        // Neighbouring numbers are spread; none becomes 0, on which the source would stand still.
        Self(number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1 << 63)
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
    content: Content,
}

/// A blob in two parts, of which the first is shared.
pub(super) struct Minted {
    pub(super) digest: Digest,
    pub(super) head: Bytes,
    pub(super) tail: Bytes,
}

impl Mint {
    /// `size` is at least [`TAIL`].
    pub(super) fn new(function: DigestFunction, size: usize, content: Content) -> Self {
        let head = content.bytes(&mut Random::new(), size.saturating_sub(TAIL));
        let mut hasher = Hasher::new(function);
        hasher.update(&head);
        Self { head: head.into(), hasher, content }
    }

    /// A new blob.
    pub(super) fn blob(&self, random: &mut Random) -> Minted {
        // Random in either case, or blobs of text would soon be equal; written as hex where it is text.
        let mut tail = random.bytes(TAIL);
        if self.content == Content::Text {
            tail = tail.iter().map(|byte| b"0123456789abcdef"[usize::from(byte & 15)]).collect();
        }
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
            for content in [Content::Random, Content::Text] {
                let (mint, mut random) = (Mint::new(function, 4096, content), Random::new());
                let (first, second) = (mint.blob(&mut random), mint.blob(&mut random));
                assert_ne!(first.digest, second.digest);
                let digest = first.digest;
                let bytes = first.into_bytes();
                assert_eq!((bytes.len(), Digest::of(function, &bytes)), (4096, digest));
                assert_eq!(bytes.is_ascii(), content == Content::Text);
            }
        }
    }

    #[test]
    fn a_number_is_a_source_of_its_own() {
        let first: std::collections::HashSet<u64> =
            (0..100_000).map(|number| Random::of(number).next()).collect();
        assert_eq!(first.len(), 100_000);
        assert_eq!(Random::of(7).next(), Random::of(7).next());
    }
}
