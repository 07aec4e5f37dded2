//! Records: like small blobs, but under names that do not hash them, so that a later one replaces an
//! earlier one. Damaged ones are put aside and count as unknown.

use super::{
    DiskStore, Shared,
    frame::Role,
    key::{Key, Space},
    leases::Stamp,
    log::{Append, answered},
    read::Found,
    table::{Form, Verdict},
};
use crate::{
    blocking::hop,
    records::{Record, RecordKind, Records},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use mortar_model::{Context, Encoding, Error, Kind, Result};
use std::sync::Arc;

/// A record is no larger, in bytes; it is read and written as a whole.
const MAX_RECORD: usize = 64 << 20;

#[async_trait]
impl Records for DiskStore {
    async fn record(&self, context: &Context, kind: RecordKind, name: [u8; 32]) -> Result<Option<Bytes>> {
        let stamp = self.shared.leases.stamp(context);
        self.shared.get_record(Key::new(kind, name), stamp).await
    }

    fn promise_records(
        &self,
        context: &Context,
        kind: RecordKind,
        names: &mut dyn Iterator<Item = [u8; 32]>,
    ) {
        let stamp = self.shared.leases.stamp(context);
        for name in names {
            self.shared.look(&Key::new(kind, name), stamp);
        }
    }

    async fn put_records(&self, context: &Context, records: Vec<Record>) -> Result<()> {
        let stamp = self.shared.leases.stamp(context);
        self.shared.put_records(stamp, records).await
    }

    async fn remove_record(&self, kind: RecordKind, name: [u8; 32]) -> Result<bool> {
        self.shared.forget(Key::new(kind, name)).await
    }

    fn all_records(&self, kind: RecordKind) -> BoxStream<'_, Result<Record>> {
        let shared = self.shared.clone();
        let places = async move {
            hop(move || {
                let mut places = Vec::new();
                shared.table.visit(|entry, _| {
                    if entry.space == Space::from(kind) && entry.form == Form::Record {
                        places.push((entry.place, entry.stored));
                    }
                    Verdict::Keep
                });
                places.sort_unstable();
                Ok((shared, places))
            })
            .await
        };
        let each = move |(shared, places): (Arc<Shared>, Vec<_>)| {
            stream::iter(places).map(move |at| Ok((shared.clone(), at))).try_filter_map(
                move |(shared, at)| {
                    // What was replaced or removed meanwhile is passed over.
                    hop(move || Ok(shared.record_at(kind, at)))
                },
            )
        };
        stream::once(places).map_ok(each).try_flatten().boxed()
    }
}

impl Shared {
    async fn put_records(self: &Arc<Self>, stamp: Stamp, records: Vec<Record>) -> Result<()> {
        let length = records.iter().map(|record| record.content.len() as u64).sum();
        self.check_fits(length)?;
        if let Some(record) = records.iter().find(|record| record.content.len() > MAX_RECORD) {
            let message =
                format!("{} bytes are too many for a record: at most {MAX_RECORD}", record.content.len());
            return Err(Error::new(Kind::ResourceExhausted { message, retry_after: None }));
        }
        let room = self.reserve(length).await?;
        let appends = records.into_iter().map(|Record { kind, name, content }| Append {
            role: Role::Content,
            key: Key::new(kind, name),
            encoding: Encoding::Identity,
            size: content.len() as u64,
            payload: content,
            blocks: 0,
            incompressible: false,
            stamp,
            instead_of: None,
        });
        for receiver in self.log.append(appends) {
            answered(receiver).await?;
        }
        drop(room);
        Ok(())
    }

    async fn get_record(self: &Arc<Self>, key: Key, stamp: Stamp) -> Result<Option<Bytes>> {
        let Some(entry) = self.look(&key, stamp) else { return Ok(None) };
        if let Some(Ok((header, payload))) = self.segments.read_now(entry.place, entry.stored)
            && header.key == key
        {
            return self.content(&header, payload).map(Some);
        }
        let shared = self.clone();
        let found = hop(move || match shared.find_blocking(key, None, stamp) {
            Ok(Some(Found::Record(header, payload))) => shared.content(&header, payload).map(Some),
            Ok(_) => Ok(None),
            // It is set aside by now.
            Err(error) if matches!(error.kind(), Kind::DataLoss { .. }) => Ok(None),
            Err(error) => Err(error),
        });
        found.await
    }

    fn record_at(&self, kind: RecordKind, (place, stored): (super::frame::Place, u32)) -> Option<Record> {
        let (header, payload) = self.segments.read(place, stored).ok()?;
        let is_current = self.table.get(&header.key).is_some_and(|entry| entry.place == place);
        let content = self.content(&header, payload).ok()?;
        (is_current && header.key.space == Space::from(kind)).then_some(Record {
            kind,
            name: header.key.hash,
            content,
        })
    }

    /// Drops a thing, so that it never comes back. Whether there was one.
    pub(super) async fn forget(self: &Arc<Self>, key: Key) -> Result<bool> {
        let shared = self.clone();
        hop(move || shared.forget_blocking(key)).await
    }

    pub(super) fn forget_blocking(&self, key: Key) -> Result<bool> {
        let Some(entry) = self.table.get(&key) else { return Ok(false) };
        if entry.form == Form::File && !self.names.begin_removal(key) {
            let message = format!("`{}` is in use this moment", key.hex());
            let retry_after = Some(std::time::Duration::from_secs(1));
            return Err(Error::new(Kind::Unavailable { message, retry_after }));
        }
        let removed = self.table.remove(&key, |_, _| true);
        self.usage.replaced(removed.as_ref(), None);
        let logged: Result<Vec<_>> =
            self.log.append([self.removal(key)]).into_iter().map(super::log::answered_blocking).collect();
        if entry.form == Form::File {
            self.remove_files(key);
            self.names.end_removal(key);
        }
        logged.map(|_| removed.is_some())
    }
}
