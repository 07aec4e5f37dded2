//! Stores in memory, bounded, forgetting what was not used for longest: for tests, and where little is to be kept
//! for a short time. Nothing survives the process.

use crate::records::{Record, RecordKind, Records};
use crate::{
    inflating::Incoming,
    intake::{Intake, stream_into},
    sessions::Sessions,
    transcoding::{deflated, inflated},
};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use mortar_model::{
    Blame, Blob, BlobStore, ByteStream, Context, Digest, DigestFunction, DigestSet, EncodedBlobs, Encoding,
    Error, Forget, HashIndex, Hasher, InstanceName, Kind, Range, Result, SystemClock, Upload, UploadId,
    UploadSessions, Values,
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::Arc,
    time::Duration,
};

const KEEP_UPLOADS: Duration = Duration::from_secs(60 * 60);
const MAX_IDLE_UPLOADS: usize = 128;

/// Blobs, uploads, opaque values and records in memory.
pub struct MemoryStore {
    kept: Arc<Mutex<Kept>>,
    max_size: u64,
    uploads: Sessions<Incoming<Buffer>>,
}

type Kept = Recent<Name, Bytes>;

#[derive(Clone, PartialEq, Eq, Hash)]
enum Name {
    Blob(DigestFunction, [u8; 32]),
    Value(InstanceName, [u8; 32]),
    Record(RecordKind, [u8; 32]),
}

impl From<Digest> for Name {
    fn from(digest: Digest) -> Self {
        Self::Blob(digest.function(), *digest.hash())
    }
}

impl MemoryStore {
    /// A store of at most `max_size` bytes; overhead is not counted.
    pub fn new(max_size: u64) -> Arc<Self> {
        let uploads = Sessions::new(KEEP_UPLOADS, MAX_IDLE_UPLOADS, Arc::new(SystemClock));
        Arc::new(Self { kept: Arc::new(Mutex::new(Recent::new(max_size))), max_size, uploads })
    }

    /// How many bytes it holds, blobs, values and records together.
    pub fn size(&self) -> u64 {
        self.kept.lock().size
    }

    fn get(&self, digest: Digest) -> Option<Bytes> {
        match digest.is_empty() {
            true => Some(Bytes::new()),
            false => self.kept.lock().get(&digest.into()).filter(|bytes| bytes.len() as u64 == digest.size()),
        }
    }

    fn check_fits(&self, length: u64) -> Result<()> {
        if length <= self.max_size {
            return Ok(());
        }
        let message = format!("{length} bytes do not fit into the store of {} bytes", self.max_size);
        Err(Error::new(Kind::ResourceExhausted { message, retry_after: None }))
    }
}

#[async_trait]
impl BlobStore for MemoryStore {
    async fn read(&self, _: &Context, digest: Digest, range: Range) -> Result<Blob> {
        let (offset, length) = range.within(digest)?;
        let whole = self.get(digest).ok_or_else(|| Error::not_found("blob", digest))?;
        Ok(Blob::bytes(whole.slice(offset as usize..(offset + length) as usize)))
    }

    async fn write(&self, _: &Context, digest: Digest, blob: Blob) -> Result<()> {
        if blob.len() != digest.size() {
            return Err(Error::mismatch(digest, format!("{} bytes", blob.len()), Blame::Client));
        }
        self.check_fits(digest.size())?;
        match self.get(digest) {
            Some(_) => Ok(()),
            None => stream_into(Buffer::new(self.kept.clone(), digest), blob).await,
        }
    }

    async fn find_missing(&self, _: &Context, digests: &DigestSet) -> Result<DigestSet> {
        Ok(digests.iter().filter(|digest| self.get(*digest).is_none()).collect())
    }
}

/// Compressed when it is asked for: what is in memory is kept as it is.
#[async_trait]
impl EncodedBlobs for MemoryStore {
    async fn read_zstd(&self, context: &Context, digest: Digest, range: Range) -> Result<ByteStream> {
        Ok(deflated(digest, self.read(context, digest, range).await?))
    }

    async fn write_zstd(&self, context: &Context, digest: Digest, frames: Bytes) -> Result<()> {
        self.write(context, digest, inflated(digest, frames)).await
    }
}

#[async_trait]
impl Forget for MemoryStore {
    async fn forget(&self, _: &Context, digest: Digest) -> Result<bool> {
        Ok(self.get(digest).is_some() && self.kept.lock().remove(&digest.into()).is_some())
    }
}

#[async_trait]
impl HashIndex for MemoryStore {
    async fn lookup(&self, _: &Context, function: DigestFunction, hash: &[u8; 32]) -> Result<Option<Digest>> {
        let empty = Digest::empty(function);
        let found = self.kept.lock().get(&Name::Blob(function, *hash));
        let digest = found.map(|bytes| Digest::new(function, *hash, bytes.len() as u64));
        Ok(digest.or_else(|| (empty.hash() == hash).then_some(empty)))
    }
}

#[async_trait]
impl Values for MemoryStore {
    async fn get(&self, context: &Context, key: &[u8; 32]) -> Result<Option<Bytes>> {
        Ok(self.kept.lock().get(&Name::Value(context.instance.clone(), *key)))
    }

    async fn put(&self, context: &Context, key: &[u8; 32], value: Bytes) -> Result<()> {
        self.check_fits(value.len() as u64)?;
        let size = value.len() as u64;
        self.kept.lock().insert(Name::Value(context.instance.clone(), *key), value, size);
        Ok(())
    }
}

#[async_trait]
impl Records for MemoryStore {
    async fn record(&self, _: &Context, kind: RecordKind, name: [u8; 32]) -> Result<Option<Bytes>> {
        Ok(self.kept.lock().get(&Name::Record(kind, name)))
    }

    fn promise_records(&self, _: &Context, _: RecordKind, _: &mut dyn Iterator<Item = [u8; 32]>) {}

    async fn put_records(&self, _: &Context, records: Vec<Record>) -> Result<()> {
        for Record { kind, name, content } in records {
            let size = content.len() as u64;
            self.check_fits(size)?;
            self.kept.lock().insert(Name::Record(kind, name), content, size);
        }
        Ok(())
    }

    async fn remove_record(&self, kind: RecordKind, name: [u8; 32]) -> Result<bool> {
        Ok(self.kept.lock().remove(&Name::Record(kind, name)).is_some())
    }

    fn all_records(&self, kind: RecordKind) -> BoxStream<'_, Result<Record>> {
        let of_kind = |(name, content): (&Name, Bytes)| match name {
            Name::Record(found, name) if *found == kind => Some(Ok(Record { kind, name: *name, content })),
            _ => None,
        };
        let records: Vec<_> = self.kept.lock().iter().filter_map(of_kind).collect();
        stream::iter(records).boxed()
    }
}

#[async_trait]
impl UploadSessions for MemoryStore {
    async fn open(
        &self,
        context: &Context,
        id: &UploadId,
        digest: Digest,
        encoding: Encoding,
    ) -> Result<Box<dyn Upload>> {
        self.check_fits(digest.size())?;
        let content = Buffer::new(self.kept.clone(), digest);
        let begin = move || Ok(Incoming::new(content, digest, encoding));
        self.uploads.open(context, id, (digest, encoding), begin).await
    }

    async fn committed(&self, context: &Context, id: &UploadId) -> Result<Option<u64>> {
        Ok(self.uploads.committed(context, id).await)
    }
}

/// A blob on its way in.
struct Buffer {
    kept: Arc<Mutex<Kept>>,
    digest: Digest,
    hasher: Hasher,
    bytes: BytesMut,
}

impl Buffer {
    fn new(kept: Arc<Mutex<Kept>>, digest: Digest) -> Self {
        Self { kept, digest, hasher: Hasher::new(digest.function()), bytes: BytesMut::new() }
    }
}

impl Intake for Buffer {
    fn take(&mut self, pieces: &[Bytes]) -> Result<()> {
        for piece in pieces {
            let length = self.hasher.size() + piece.len() as u64;
            if length > self.digest.size() {
                let actual = format!("at least {length} bytes");
                return Err(Error::mismatch(self.digest, actual, Blame::Client));
            }
            self.hasher.update(piece);
            self.bytes.extend_from_slice(piece);
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        let actual = self.hasher.finish();
        if actual != self.digest {
            return Err(Error::mismatch(self.digest, actual.to_string(), Blame::Client));
        }
        self.kept.lock().insert(self.digest.into(), self.bytes.freeze(), self.digest.size());
        Ok(())
    }

    fn taken(&self) -> u64 {
        self.hasher.size()
    }
}

/// A map that forgets what was not used for longest when its sizes exceed a limit.
struct Recent<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// Every key by its last use.
    order: BTreeMap<u64, K>,
    uses: u64,
    size: u64,
    max_size: u64,
}

struct Entry<V> {
    value: V,
    size: u64,
    used: u64,
}

impl<K: Clone + Eq + Hash, V: Clone> Recent<K, V> {
    fn new(max_size: u64) -> Self {
        Self { entries: HashMap::new(), order: BTreeMap::new(), uses: 0, size: 0, max_size }
    }

    fn get(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.get_mut(key)?;
        self.uses += 1;
        if let Some(key) = self.order.remove(&entry.used) {
            self.order.insert(self.uses, key);
        }
        entry.used = self.uses;
        Some(entry.value.clone())
    }

    fn iter(&self) -> impl Iterator<Item = (&K, V)> {
        self.entries.iter().map(|(key, entry)| (key, entry.value.clone()))
    }

    fn remove(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.remove(key)?;
        self.order.remove(&entry.used);
        self.size -= entry.size;
        Some(entry.value)
    }

    fn insert(&mut self, key: K, value: V, size: u64) {
        self.uses += 1;
        self.size += size;
        self.order.insert(self.uses, key.clone());
        if let Some(older) = self.entries.insert(key, Entry { value, size, used: self.uses }) {
            self.order.remove(&older.used);
            self.size -= older.size;
        }
        while self.size > self.max_size {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            self.size -= self.entries.remove(&oldest).map_or(0, |entry| entry.size);
        }
    }
}
