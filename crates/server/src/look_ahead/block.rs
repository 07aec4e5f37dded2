//! A piece of a trail as it is kept: opaque values, by names that nobody can meet by chance.
//!
//! A block holds the keys of up to [`LENGTH`] actions in the order in which one invocation asked for them, and the name of
//! the block after it. A pointer holds the name of the block in which an action is found, and when it was made; not every
//! action of a block has one.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use mortar_model::{ActionKey, Digest, DigestFunction, InstanceName, clock::since_epoch};
use std::time::{Duration, SystemTime};

/// Actions in a block.
pub(super) const LENGTH: usize = 128;
/// A pointer is kept for each of the first actions of a block, where builds begin, and for some of the others.
const FIRST: usize = 16;
const EVERY: usize = 8;
const VERSION: u8 = 1;

/// The name of a value.
pub(super) type Name = [u8; 32];

/// Actions of one invocation in the order in which it asked for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) name: Name,
    pub(super) next: Name,
    pub(super) keys: Vec<ActionKey>,
}

impl Block {
    /// The `number`th block of an invocation.
    pub(super) fn of(instance: &InstanceName, invocation: &str, number: u64) -> Self {
        let name = |number: u64| name("block", &[instance.as_str(), invocation, &number.to_string()]);
        Self { name: name(number), next: name(number + 1), keys: Vec::new() }
    }

    /// The actions by which it can be found.
    pub(super) fn pointed(&self) -> impl Iterator<Item = ActionKey> {
        let keys = self.keys.iter().enumerate();
        keys.filter(|(place, _)| *place < FIRST || place % EVERY == 0).map(|(_, key)| *key)
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(34 + 33 * self.keys.len());
        bytes.put_u8(VERSION);
        bytes.put_slice(&self.next);
        for key in &self.keys {
            bytes.put_u8(function_code(key.function));
            bytes.put_slice(&key.hash);
        }
        bytes.freeze()
    }

    /// The block in these bytes; none if they hold no such thing.
    pub(super) fn decode(name: Name, mut bytes: Bytes) -> Option<Self> {
        if bytes.try_get_u8().ok()? != VERSION {
            return None;
        }
        let mut next = Name::default();
        bytes.try_copy_to_slice(&mut next).ok()?;
        let mut keys = Vec::with_capacity((bytes.len() / 33).min(LENGTH));
        while bytes.has_remaining() && keys.len() < LENGTH {
            let function = function_of(bytes.try_get_u8().ok()?)?;
            let mut hash = [0; 32];
            bytes.try_copy_to_slice(&mut hash).ok()?;
            keys.push(ActionKey { function, hash });
        }
        Some(Self { name, next, keys })
    }
}

/// Where an action is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pointer {
    pub(super) block: Name,
    pub(super) made: SystemTime,
}

impl Pointer {
    /// The name of the pointer of an action.
    pub(super) fn name(key: ActionKey) -> Name {
        name("pointer", &[&key.function.to_string(), &key.hex()])
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(41);
        bytes.put_u8(VERSION);
        bytes.put_slice(&self.block);
        bytes.put_u64_le(since_epoch(self.made).as_secs());
        bytes.freeze()
    }

    pub(super) fn decode(mut bytes: Bytes) -> Option<Self> {
        if bytes.try_get_u8().ok()? != VERSION {
            return None;
        }
        let mut block = Name::default();
        bytes.try_copy_to_slice(&mut block).ok()?;
        let seconds = Duration::from_secs(bytes.try_get_u64_le().ok()?);
        Some(Self { block, made: SystemTime::UNIX_EPOCH.checked_add(seconds)? })
    }
}

fn name(kind: &str, parts: &[&str]) -> Name {
    let text = parts.iter().fold(format!("mortar look-ahead {kind}"), |text, part| text + "\n" + part);
    *Digest::of(DigestFunction::Sha256, text.as_bytes()).hash()
}

fn function_code(function: DigestFunction) -> u8 {
    match function {
        DigestFunction::Sha256 => 1,
        DigestFunction::Blake3 => 2,
    }
}

fn function_of(code: u8) -> Option<DigestFunction> {
    match code {
        1 => Some(DigestFunction::Sha256),
        2 => Some(DigestFunction::Blake3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> ActionKey {
        let function = if number.is_multiple_of(2) { DigestFunction::Sha256 } else { DigestFunction::Blake3 };
        ActionKey { function, hash: [number; 32] }
    }

    #[test]
    fn blocks_and_pointers_come_back_and_what_is_none_is_refused() {
        let mut block = Block::of(&InstanceName::default(), "invocation", 7);
        block.keys = (0..100).map(key).collect();
        let bytes = block.encode();
        assert_eq!(Block::decode(block.name, bytes.clone()), Some(block.clone()));
        assert_eq!(Block::decode(block.name, bytes.slice(..bytes.len() - 1)), None);
        assert_eq!(Block::decode(block.name, bytes.slice(..20)), None);
        assert_eq!(Block::decode(block.name, Bytes::from_static(b"what somebody put")), None);
        assert_eq!(Block::of(&InstanceName::default(), "invocation", 8).name, block.next);
        assert_ne!(Block::of(&InstanceName::default(), "another", 8).name, block.next);
        let pointer = Pointer { block: block.name, made: SystemTime::UNIX_EPOCH + Duration::from_secs(9) };
        assert_eq!(Pointer::decode(pointer.encode()), Some(pointer));
        assert_eq!(Pointer::decode(pointer.encode().slice(..40)), None);
    }

    #[test]
    fn the_start_of_a_block_is_found_by_each_action() {
        let mut block = Block::of(&InstanceName::default(), "invocation", 0);
        block.keys = (0..128).map(key).collect();
        let pointed: Vec<_> = block.pointed().collect();
        assert_eq!(pointed[..16], block.keys[..16]);
        assert_eq!(pointed.len(), 16 + 14);
    }
}
