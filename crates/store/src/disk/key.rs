//! What the store names: blobs of each digest function and records of each kind, by 32 bytes each.

use crate::records::RecordKind;
use mortar_model::{Digest, DigestFunction};

/// The kinds of things that are kept. The numbers are part of the disk format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Space {
    Sha256 = 1,
    Blake3 = 2,
    Result = 3,
    Value = 4,
    Producer = 5,
    Recipe = 6,
    Pin = 7,
}

impl Space {
    pub const ALL: [Self; 7] =
        [Self::Sha256, Self::Blake3, Self::Result, Self::Value, Self::Producer, Self::Recipe, Self::Pin];

    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|space| *space as u8 == number)
    }

    /// The function of its blobs; none if it holds records.
    pub fn function(self) -> Option<DigestFunction> {
        match self {
            Self::Sha256 => Some(DigestFunction::Sha256),
            Self::Blake3 => Some(DigestFunction::Blake3),
            Self::Result | Self::Value | Self::Producer | Self::Recipe | Self::Pin => None,
        }
    }

    /// As it is spelled in names of files and for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Blake3 => "blake3",
            Self::Result => "result",
            Self::Value => "value",
            Self::Producer => "producer",
            Self::Recipe => "recipe",
            Self::Pin => "pin",
        }
    }
}

impl From<DigestFunction> for Space {
    fn from(function: DigestFunction) -> Self {
        match function {
            DigestFunction::Sha256 => Self::Sha256,
            DigestFunction::Blake3 => Self::Blake3,
        }
    }
}

impl From<RecordKind> for Space {
    fn from(kind: RecordKind) -> Self {
        match kind {
            RecordKind::Result => Self::Result,
            RecordKind::Value => Self::Value,
            RecordKind::Producer => Self::Producer,
            RecordKind::Recipe => Self::Recipe,
        }
    }
}

/// Names one thing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub space: Space,
    pub hash: [u8; 32],
}

impl Key {
    pub fn new(space: impl Into<Space>, hash: [u8; 32]) -> Self {
        Self { space: space.into(), hash }
    }

    pub fn of(digest: Digest) -> Self {
        Self::new(digest.function(), *digest.hash())
    }

    /// The blob's digest, if it names one.
    pub fn digest(&self, size: u64) -> Option<Digest> {
        self.space.function().map(|function| Digest::new(function, self.hash, size))
    }

    pub fn hex(&self) -> String {
        // The function and size play no part in the spelling of a hash.
        Digest::new(DigestFunction::Sha256, self.hash, 0).hex()
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.space.name(), self.hex())
    }
}
