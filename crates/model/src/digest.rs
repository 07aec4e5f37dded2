//! Digests: a hash function, its hash, and the size of what was hashed. Valid by construction.

use crate::{Error, Result};
use std::{collections::HashSet, fmt, str::FromStr};

/// The name of a blob: function, hash and exact size in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    function: DigestFunction,
    hash: [u8; 32],
    size: u64,
}

impl Digest {
    /// A digest of known parts.
    pub fn new(function: DigestFunction, hash: [u8; 32], size: u64) -> Self {
        Self { function, hash, size }
    }

    /// Parses the parts as the protocol spells them: lower-case hex and a size that is not negative.
    pub fn parse(function: DigestFunction, hash: &str, size: i64) -> Result<Self> {
        let bytes = parse_hash(hash)?;
        let size = u64::try_from(size).map_err(|_| {
            Error::invalid("size_bytes", format!("the size of digest `{hash}` is {size}; expected 0 or more"))
        })?;
        Ok(Self::new(function, bytes, size))
    }

    /// The digest of these bytes.
    pub fn of(function: DigestFunction, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(function);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The digest of no bytes at all; this blob always exists.
    pub fn empty(function: DigestFunction) -> Self {
        Self::of(function, b"")
    }

    /// Whether this names the blob of no bytes.
    pub fn is_empty(&self) -> bool {
        self.size == 0 && *self == Self::empty(self.function)
    }

    /// The hash function.
    pub fn function(&self) -> DigestFunction {
        self.function
    }

    /// The raw hash.
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// The hash in lower-case hex.
    pub fn hex(&self) -> String {
        to_hex(&self.hash)
    }

    /// The size of the blob in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// `HASH/SIZE`, as in resource names; the function goes without saying for people.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.hex(), self.size)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:{self}", self.function)
    }
}

/// The hash functions that are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DigestFunction {
    /// SHA-256, what every client speaks.
    #[default]
    Sha256,
    /// BLAKE3 with 32 bytes of output.
    Blake3,
}

impl DigestFunction {
    /// All that are served, preferred first.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Blake3];

    /// The name in resource names and directories.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Blake3 => "blake3",
        }
    }
}

impl fmt::Display for DigestFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DigestFunction {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|function| function.name() == name).ok_or_else(|| {
            Error::invalid("digest_function", format!("`{name}` is no digest function served here"))
                .hint("this server speaks sha256 and blake3")
        })
    }
}

/// The key of an action result: the hash of an Action message. Its size plays no part, since HTTP clients do not tell it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ActionKey {
    /// The function of the action's digest.
    pub function: DigestFunction,
    /// The hash of the action.
    pub hash: [u8; 32],
}

impl ActionKey {
    /// Parses a hex hash.
    pub fn parse(function: DigestFunction, hash: &str) -> Result<Self> {
        Ok(Self { function, hash: parse_hash(hash)? })
    }

    /// The hash in lower-case hex.
    pub fn hex(&self) -> String {
        to_hex(&self.hash)
    }
}

impl From<Digest> for ActionKey {
    fn from(digest: Digest) -> Self {
        Self { function: digest.function, hash: digest.hash }
    }
}

impl fmt::Debug for ActionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.function, self.hex())
    }
}

/// Hashes bytes as they come.
#[derive(Clone)]
pub struct Hasher {
    state: State,
    size: u64,
}

#[derive(Clone)]
enum State {
    Sha256(sha2::Sha256),
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new(function: DigestFunction) -> Self {
        let state = match function {
            DigestFunction::Sha256 => State::Sha256(sha2::Digest::new()),
            DigestFunction::Blake3 => State::Blake3(Box::default()),
        };
        Self { state, size: 0 }
    }

    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Sha256(hasher) => sha2::Digest::update(hasher, bytes),
            State::Blake3(hasher) => {
                hasher.update(bytes);
            }
        }
        self.size += bytes.len() as u64;
    }

    /// How many bytes were taken.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The digest of all that was taken.
    pub fn finish(self) -> Digest {
        match self.state {
            State::Sha256(hasher) => {
                Digest::new(DigestFunction::Sha256, sha2::Digest::finalize(hasher).into(), self.size)
            }
            State::Blake3(hasher) => Digest::new(DigestFunction::Blake3, hasher.finalize().into(), self.size),
        }
    }
}

/// Digests without repetition, in the order in which they were first named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DigestSet {
    ordered: Vec<Digest>,
    known: HashSet<Digest>,
}

impl DigestSet {
    /// A set of none.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a digest; false if it was there.
    pub fn insert(&mut self, digest: Digest) -> bool {
        let new = self.known.insert(digest);
        if new {
            self.ordered.push(digest);
        }
        new
    }

    /// Whether the digest is in the set.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.known.contains(digest)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ordered.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ordered.is_empty()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Digest> + '_ {
        self.ordered.iter().copied()
    }
}

impl FromIterator<Digest> for DigestSet {
    fn from_iter<I: IntoIterator<Item = Digest>>(digests: I) -> Self {
        let mut set = Self::new();
        set.extend(digests);
        set
    }
}

impl Extend<Digest> for DigestSet {
    fn extend<I: IntoIterator<Item = Digest>>(&mut self, digests: I) {
        for digest in digests {
            self.insert(digest);
        }
    }
}

impl IntoIterator for DigestSet {
    type Item = Digest;
    type IntoIter = std::vec::IntoIter<Digest>;

    fn into_iter(self) -> Self::IntoIter {
        self.ordered.into_iter()
    }
}

fn parse_hash(hex: &str) -> Result<[u8; 32]> {
    let malformed = |why: String| Error::invalid("hash", format!("`{hex}` is no hash: {why}"));
    if hex.len() != 64 {
        return Err(malformed(format!("it has {} characters; expected 64 lower-case hex digits", hex.len())));
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        match (nibble(pair[0]), nibble(pair[1])) {
            (Some(high), Some(low)) => *byte = high << 4 | low,
            _ => return Err(malformed("only the digits 0-9 and a-f may occur".into())),
        }
    }
    Ok(bytes)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [DIGITS[usize::from(byte >> 4)] as char, DIGITS[usize::from(byte & 15)] as char])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_digests() {
        let sha = Digest::of(DigestFunction::Sha256, b"abc");
        assert_eq!(sha.hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(sha.size(), 3);
        let blake = Digest::of(DigestFunction::Blake3, b"");
        assert_eq!(blake.hex(), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
        assert!(blake.is_empty());
    }

    #[test]
    fn parsing_names_what_is_wrong() {
        let good = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(
            Digest::parse(DigestFunction::Sha256, good, 3).unwrap(),
            Digest::of(DigestFunction::Sha256, b"abc")
        );
        for (hash, size, needle) in [
            ("", 0, "0 characters"),
            (&good[1..], 3, "63 characters"),
            (&good.to_uppercase(), 3, "0-9 and a-f"),
            (&good.replace('b', "x"), 3, "0-9 and a-f"),
            (good, -1, "-1"),
        ] {
            let error = Digest::parse(DigestFunction::Sha256, hash, size).unwrap_err();
            assert!(error.to_string().contains(needle), "{error}");
        }
    }

    #[test]
    fn a_set_keeps_the_first_of_each_in_order() {
        let [a, b] = [b"a", b"b"].map(|bytes| Digest::of(DigestFunction::Sha256, bytes));
        let set: DigestSet = [b, a, b].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [b, a]);
        assert!(set.contains(&a));
    }
}
