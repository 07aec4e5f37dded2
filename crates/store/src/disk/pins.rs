//! Pins: named sets of blobs that outlive every lease, until they are taken back. Within a quota of their own, so that
//! they never crowd out what builds need.
//!
//! A pin is a record of its own (under SHA-256 of its name), and a bit on the use of each blob that it names, and on its
//! own. The bits are set anew at each start; until that is done, nothing is evicted.
//!
//! The content of the record: length of the name (u16), the name, then function (u8), hash and size (u64) of each blob.

use super::{
    DiskStore, Shared,
    frame::Role,
    key::{Key, Space},
    leases::PINNED,
    log::{Append, answered},
    sweep::record_bytes,
    table::Verdict,
    usage,
};
use crate::blocking::hop;
use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use mortar_model::{Context, Digest, DigestFunction, DigestSet, Encoding, Error, Kind, Pins, Result};
use std::{collections::BTreeMap, sync::Arc};

/// The longest name of a pin, in bytes.
const MAX_NAME: usize = 1024;

#[async_trait]
impl Pins for DiskStore {
    async fn pin(&self, context: &Context, name: &str, blobs: &DigestSet) -> Result<()> {
        if name.is_empty() || name.len() > MAX_NAME {
            let message = format!("a pin's name has {} bytes; expected 1 to {MAX_NAME}", name.len());
            return Err(Error::invalid("name", message));
        }
        let shared = self.shared.clone();
        // One after the other, so that two of them do not exceed the quota together.
        let _alone = self.shared.pinning.lock().await;
        let missing = shared.missing(blobs, shared.leases.stamp(context));
        if let Some(first) = missing.iter().next() {
            return Err(Error::not_found("blob", first));
        }
        let (before, others) = shared.clone().pinned_bytes(name.to_owned(), blobs.clone()).await?;
        if before + others > shared.pin_quota {
            let (quota, wanted) = (shared.pin_quota, before + others);
            let message =
                format!("pin `{name}` would bring pinned blobs to {wanted} bytes; at most {quota} may be");
            return Err(Error::new(Kind::ResourceExhausted { message, retry_after: None }));
        }
        let content = encode(name, blobs);
        let key = key_of(name);
        let stamp = shared.leases.own_stamp();
        let size = content.len() as u64;
        let (role, encoding) = (Role::Content, Encoding::Identity);
        let append = Append {
            role,
            key,
            encoding,
            size,
            payload: content,
            blocks: 0,
            incompressible: true,
            stamp,
            instead_of: None,
        };
        let receivers = shared.log.append([append]);
        for receiver in receivers {
            answered(receiver).await?;
        }
        hop(move || {
            shared.set_pins();
            Ok(())
        })
        .await
    }

    async fn unpin(&self, name: &str) -> Result<bool> {
        let _alone = self.shared.pinning.lock().await;
        let removed = self.shared.forget(key_of(name)).await?;
        let shared = self.shared.clone();
        hop(move || {
            shared.set_pins();
            Ok(())
        })
        .await?;
        Ok(removed)
    }

    async fn pinned(&self) -> Result<Vec<(String, DigestSet)>> {
        let shared = self.shared.clone();
        hop(move || Ok(shared.pins().into_iter().collect())).await
    }
}

impl Shared {
    /// Sets the bits of all that is pinned, and takes away those of what is no longer.
    pub(super) fn set_pins(&self) {
        let _alone = self.sweeping.lock();
        let pins = self.pins();
        self.table.clear_promises(PINNED);
        for (name, blobs) in pins {
            let keys = blobs.iter().map(Key::of).chain([key_of(&name)]);
            for key in keys {
                self.table.look(&key, |touch, _| touch | u32::from(PINNED));
            }
        }
    }

    fn pins(&self) -> BTreeMap<String, DigestSet> {
        let mut places = Vec::new();
        self.table.visit(|entry, _| {
            if entry.space == Space::Pin {
                places.push(entry.place);
            }
            Verdict::Keep
        });
        let read = |place| {
            let (header, payload) = self.segments.read_any(place).ok()?;
            decode(self.content(&header, payload).ok()?)
        };
        places.into_iter().filter_map(read).collect()
    }

    /// What all pins but this one take, and what this one would.
    async fn pinned_bytes(self: Arc<Self>, name: String, blobs: DigestSet) -> Result<(u64, u64)> {
        hop(move || {
            let mut others = DigestSet::new();
            for (other, pinned) in self.pins() {
                if other != name {
                    others.extend(pinned);
                }
            }
            let bytes = |digest: Digest| {
                let entry = self.table.get(&Key::of(digest));
                entry.map_or(0, |entry| record_bytes(&entry) + usage::file_bytes(&entry))
            };
            let more = blobs.iter().filter(|digest| !others.contains(digest)).map(bytes).sum();
            Ok((others.iter().map(bytes).sum(), more))
        })
        .await
    }
}

fn key_of(name: &str) -> Key {
    Key { space: Space::Pin, hash: *Digest::of(DigestFunction::Sha256, name.as_bytes()).hash() }
}

fn encode(name: &str, blobs: &DigestSet) -> Bytes {
    let mut bytes = BytesMut::with_capacity(2 + name.len() + blobs.len() * 41);
    bytes.put_u16_le(name.len() as u16);
    bytes.put_slice(name.as_bytes());
    for digest in blobs.iter() {
        bytes.put_u8(Space::from(digest.function()) as u8);
        bytes.put_slice(digest.hash());
        bytes.put_u64_le(digest.size());
    }
    bytes.freeze()
}

/// None if the bytes are no pin.
fn decode(mut bytes: Bytes) -> Option<(String, DigestSet)> {
    let length = usize::from(bytes.try_get_u16_le().ok()?);
    if bytes.len() < length {
        return None;
    }
    let name = String::from_utf8(bytes.split_to(length).to_vec()).ok()?;
    let mut blobs = DigestSet::new();
    while bytes.has_remaining() {
        let function = Space::from_number(bytes.try_get_u8().ok()?)?.function()?;
        let mut hash = [0; 32];
        bytes.try_copy_to_slice(&mut hash).ok()?;
        blobs.insert(Digest::new(function, hash, bytes.try_get_u64_le().ok()?));
    }
    Some((name, blobs))
}
