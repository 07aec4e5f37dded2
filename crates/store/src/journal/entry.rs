//! The bytes of an entry. Numbers are little-endian; what does not decode is passed over.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | 1 a blob, 2 a result, 0 done |
//! | 8 | number; of a done one there is no more |
//! | 2 + n | instance |
//! | 41 | of a blob: function (1 SHA-256, 2 BLAKE3), hash, size (8) |
//! | 33 | of a result: function and hash of the action |
//! | 4 + 41 each | of a result: the blobs without which it is of no use |
//! | the rest | of a result: its bytes, as a codec wrote them |

use bytes::{Buf, BufMut, Bytes};
use mortar_model::{ActionKey, Digest, DigestFunction, DigestSet, Error, InstanceName, Result};
use std::sync::Arc;

const DONE: u8 = 0;
const BLOB: u8 = 1;
const RESULT: u8 = 2;

/// Something that is to be uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owed {
    /// A blob, which is in the store.
    Blob(Digest),
    /// The result of an action, once all blobs of its closure are there.
    Result {
        /// The action.
        key: ActionKey,
        /// The result as a codec wrote it.
        bytes: Bytes,
        /// The blobs without which it is of no use.
        closure: Arc<DigestSet>,
    },
}

/// Something that is owed, as it was found in a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwedEntry {
    /// Entries are numbered in the order in which they came.
    pub number: u64,
    /// The instance that was addressed.
    pub instance: InstanceName,
    /// What it is.
    pub owed: Owed,
}

pub(super) fn encode(number: u64, instance: &InstanceName, owed: &Owed) -> Vec<u8> {
    let mut to = Vec::with_capacity(128);
    to.put_u8(if matches!(owed, Owed::Blob(_)) { BLOB } else { RESULT });
    to.put_u64_le(number);
    to.put_u16_le(instance.as_str().len() as u16);
    to.put_slice(instance.as_str().as_bytes());
    match owed {
        Owed::Blob(digest) => put_digest(*digest, &mut to),
        Owed::Result { key, bytes, closure } => {
            to.put_u8(function_number(key.function));
            to.put_slice(&key.hash);
            to.put_u32_le(closure.len() as u32);
            closure.iter().for_each(|digest| put_digest(digest, &mut to));
            to.put_slice(bytes);
        }
    }
    to
}

pub(super) fn encode_done(number: u64) -> Vec<u8> {
    let mut to = vec![DONE];
    to.put_u64_le(number);
    to
}

/// The number of an entry, and whether it begins or ends there.
pub(super) fn numbers(entry: &[u8]) -> Option<(u64, bool)> {
    let mut from = entry;
    let kind = from.try_get_u8().ok()?;
    Some((from.try_get_u64_le().ok()?, kind != DONE))
}

impl OwedEntry {
    pub(super) fn decode(mut from: Bytes) -> Result<Self> {
        decode(&mut from).ok_or_else(|| Error::internal("an entry of the journal makes no sense"))
    }
}

fn decode(from: &mut Bytes) -> Option<OwedEntry> {
    let kind = from.try_get_u8().ok()?;
    let number = from.try_get_u64_le().ok()?;
    let length = usize::from(from.try_get_u16_le().ok()?);
    if from.len() < length {
        return None;
    }
    let instance = String::from_utf8(from.split_to(length).to_vec()).ok()?;
    let instance = InstanceName::parse(&instance).ok()?;
    let owed = match kind {
        BLOB => Owed::Blob(digest(from)?),
        RESULT => {
            let key = ActionKey { function: function(from)?, hash: hash(from)? };
            let blobs = from.try_get_u32_le().ok()?;
            let closure = (0..blobs).map(|_| digest(from)).collect::<Option<DigestSet>>()?;
            Owed::Result { key, bytes: from.clone(), closure: Arc::new(closure) }
        }
        _ => return None,
    };
    Some(OwedEntry { number, instance, owed })
}

fn put_digest(digest: Digest, to: &mut Vec<u8>) {
    to.put_u8(function_number(digest.function()));
    to.put_slice(digest.hash());
    to.put_u64_le(digest.size());
}

fn digest(from: &mut Bytes) -> Option<Digest> {
    Some(Digest::new(function(from)?, hash(from)?, from.try_get_u64_le().ok()?))
}

fn hash(from: &mut Bytes) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    from.try_copy_to_slice(&mut hash).ok()?;
    Some(hash)
}

fn function_number(function: DigestFunction) -> u8 {
    match function {
        DigestFunction::Sha256 => 1,
        DigestFunction::Blake3 => 2,
    }
}

fn function(from: &mut Bytes) -> Option<DigestFunction> {
    match from.try_get_u8().ok()? {
        1 => Some(DigestFunction::Sha256),
        2 => Some(DigestFunction::Blake3),
        _ => None,
    }
}
