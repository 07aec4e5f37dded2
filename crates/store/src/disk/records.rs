//! Records and opaque values: small files whose names do not hash their content, so that each begins with a
//! hash of the rest. Damaged ones are put aside and count as unknown.

use super::{
    DiskStore, Shared,
    index::{Entry, Stamp},
    layout::{Key, Space},
    write::Draft,
};
use crate::{
    blocking::hop,
    records::{Record, RecordKind, Records},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use mortar_model::{Context, Digest, DigestFunction, InstanceName, Result, Values, context::Promise};
use std::{
    fs::File,
    io::{self, Read},
    sync::Arc,
};

const HASH_LENGTH: usize = 32;

#[async_trait]
impl Values for DiskStore {
    async fn get(&self, context: &Context, key: &[u8; 32]) -> Result<Option<Bytes>> {
        let record = record_key(Space::Values, &context.instance, "", key);
        self.shared.get_record(record, context.promise).await
    }

    async fn put(&self, context: &Context, key: &[u8; 32], value: Bytes) -> Result<()> {
        let record = record_key(Space::Values, &context.instance, "", key);
        self.shared.put_record(record, value).await
    }
}

/// Instance names hold no control characters, so a newline divides without doubt.
fn record_key(space: Space, instance: &InstanceName, function: &str, hash: &[u8; 32]) -> Key {
    let name = [instance.as_str().as_bytes(), b"\n", function.as_bytes(), b"\n", hash].concat();
    Key { space, hash: *Digest::of(DigestFunction::Sha256, &name).hash() }
}

#[async_trait]
impl Records for DiskStore {
    async fn record(&self, kind: RecordKind, name: [u8; 32], keep: bool) -> Result<Option<Bytes>> {
        let promise = if keep { Promise::Lease } else { Promise::Glance };
        self.shared.get_record(Key { space: kind.into(), hash: name }, promise).await
    }

    async fn put_records(&self, records: Vec<Record>) -> Result<()> {
        for Record { kind, name, content } in records {
            self.shared.put_record(Key { space: kind.into(), hash: name }, content).await?;
        }
        Ok(())
    }

    async fn remove_record(&self, kind: RecordKind, name: [u8; 32]) -> Result<bool> {
        let (shared, key) = (self.shared.clone(), Key { space: kind.into(), hash: name });
        hop(move || {
            shared.index.lock().remove(key);
            Ok(std::fs::remove_file(shared.layout.path(key)).is_ok())
        })
        .await
    }

    fn all_records(&self, _: RecordKind) -> BoxStream<'_, Result<Record>> {
        futures::stream::empty().boxed()
    }
}

impl From<RecordKind> for Space {
    fn from(kind: RecordKind) -> Self {
        match kind {
            RecordKind::Result => Self::Results,
            RecordKind::Value => Self::Values,
            RecordKind::Producer => Self::Producers,
            RecordKind::Recipe => Self::Recipes,
        }
    }
}

impl Shared {
    async fn put_record(self: &Arc<Self>, key: Key, payload: Bytes) -> Result<()> {
        self.check_fits(payload.len() as u64 + HASH_LENGTH as u64)?;
        let shared = self.clone();
        hop(move || {
            let mut draft = Draft::create(shared, key)?;
            draft.append(Digest::of(DigestFunction::Blake3, &payload).hash())?;
            draft.append(&payload)?;
            draft.publish()
        })
        .await
    }

    async fn get_record(self: &Arc<Self>, key: Key, promise: Promise) -> Result<Option<Bytes>> {
        let shared = self.clone();
        hop(move || Ok(shared.read_record(key, promise == Promise::Lease))).await
    }

    fn read_record(&self, key: Key, keep: bool) -> Option<Bytes> {
        let known = self.touch(key, keep).is_some();
        let read = || -> io::Result<_> {
            let mut file = File::open(self.layout.path(key))?;
            let stamp = Stamp::of(&file.metadata()?);
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok((stamp, Bytes::from(bytes)))
        };
        let (stamp, bytes) = read().inspect_err(|error| self.file_failed(key, error)).ok()?;
        if bytes.len() < HASH_LENGTH
            || Digest::of(DigestFunction::Blake3, &bytes[HASH_LENGTH..]).hash() != &bytes[..HASH_LENGTH]
        {
            self.quarantine(key, stamp, "its content does not match the hash that it begins with");
            return None;
        }
        if !known {
            self.discover(key, Entry::found(bytes.len() as u64, self.now(), 0));
        }
        Some(bytes.slice(HASH_LENGTH..))
    }
}
