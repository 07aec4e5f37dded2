//! Opaque values as records: each with whose it is and where it came from, so that values can be purged as results are.

use crate::{
    records::{self, Record, RecordKind, Records},
    results::purge::Selection,
};
use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use mortar_model::{
    Clock, Context, Digest, DigestFunction, InstanceName, Result, Values, clock::since_epoch,
};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

const VERSION: u8 = 1;
/// Names of invocations that are longer are cut.
const LONGEST: usize = 1024;

/// Values in records, each instance's own.
///
/// A record is a version (1), the key (32 bytes), seconds since the epoch (8), the instance and the invocation that put
/// it, each after its length (2), and the value. Numbers are little-endian.
pub struct NamedValues {
    records: Arc<dyn Records>,
    clock: Arc<dyn Clock>,
}

impl NamedValues {
    /// Values kept in `records`.
    pub fn new(records: Arc<dyn Records>, clock: Arc<dyn Clock>) -> Self {
        Self { records, clock }
    }

    /// Removes the selected values, durably, or only counts them; how many there were.
    pub async fn purge(&self, selection: &Selection, only_count: bool) -> Result<u64> {
        let takes = |content| Head::decode(content).is_some_and(|(head, _)| head.is_selected(selection));
        records::purge(&*self.records, RecordKind::Value, only_count, takes).await
    }
}

#[async_trait]
impl Values for NamedValues {
    async fn get(&self, context: &Context, key: &[u8; 32]) -> Result<Option<Bytes>> {
        let content = self.records.record(context, RecordKind::Value, name(&context.instance, key)).await?;
        Ok(content.and_then(Head::decode).map(|(_, value)| value))
    }

    async fn put(&self, context: &Context, key: &[u8; 32], value: Bytes) -> Result<()> {
        let head = Head {
            key: *key,
            stored: self.clock.wall(),
            instance: context.instance.as_str().into(),
            invocation: context.request.tool_invocation_id.clone(),
        };
        let (name, content) = (name(&context.instance, key), head.encode(&value));
        self.records.put_records(context, vec![Record { kind: RecordKind::Value, name, content }]).await
    }
}

/// Instance names hold no control characters, so a newline divides without doubt.
fn name(instance: &InstanceName, key: &[u8; 32]) -> [u8; 32] {
    let name = [instance.as_str().as_bytes(), b"\n\n", key].concat();
    *Digest::of(DigestFunction::Sha256, &name).hash()
}

/// At most `LONGEST` bytes of it, in whole characters.
fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(LONGEST)).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Head {
    key: [u8; 32],
    stored: SystemTime,
    instance: String,
    invocation: String,
}

impl Head {
    fn is_selected(&self, selection: &Selection) -> bool {
        match selection {
            Selection::Action(key) => self.key == key.hash,
            Selection::Instance(instance) => self.instance == instance.as_str(),
            Selection::StoredBefore(time) => self.stored < *time,
            Selection::Invocation(invocation) => self.invocation == *invocation,
            // Nobody knows what a value means.
            Selection::Worker(_) | Selection::Needing(_) => false,
        }
    }

    fn encode(&self, value: &[u8]) -> Bytes {
        let mut bytes = BytesMut::with_capacity(64 + self.instance.len() + value.len());
        bytes.put_u8(VERSION);
        bytes.put_slice(&self.key);
        bytes.put_u64_le(since_epoch(self.stored).as_secs());
        for text in [&self.instance, &self.invocation] {
            let text = cut(text);
            bytes.put_u16_le(text.len() as u16);
            bytes.put_slice(text.as_bytes());
        }
        bytes.put_slice(value);
        bytes.freeze()
    }

    fn decode(mut content: Bytes) -> Option<(Self, Bytes)> {
        if content.try_get_u8().ok()? != VERSION {
            return None;
        }
        let mut key = [0; 32];
        content.try_copy_to_slice(&mut key).ok()?;
        let stored = SystemTime::UNIX_EPOCH + Duration::from_secs(content.try_get_u64_le().ok()?);
        let mut text = || {
            let length = usize::from(content.try_get_u16_le().ok()?);
            let bytes = (content.len() >= length).then(|| content.split_to(length))?;
            String::from_utf8(bytes.into()).ok()
        };
        let (instance, invocation) = (text()?, text()?);
        Some((Self { key, stored, instance, invocation }, content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_come_back_and_what_is_none_is_refused() {
        let stored = SystemTime::UNIX_EPOCH + Duration::from_secs(77);
        let head = Head { key: [7; 32], stored, instance: "main".into(), invocation: "i-1".into() };
        let bytes = head.encode(b"value");
        assert_eq!(Head::decode(bytes.clone()), Some((head.clone(), "value".into())));
        for length in 0..bytes.len() - b"value".len() {
            assert_eq!(Head::decode(bytes.slice(..length)), None, "{length}");
        }
        let long = Head { invocation: "ü".repeat(LONGEST), ..head };
        let (back, value) = Head::decode(long.encode(b"value")).unwrap();
        assert_eq!((back.invocation.len(), &value[..]), (LONGEST, &b"value"[..]));
    }
}
