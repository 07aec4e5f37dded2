//! What is done to a data directory on demand: purging, verifying, figures, imports. The owner of the directory does it for
//! whoever asks over the admin socket; where nobody owns it, a command does the same by itself.

use futures::stream::BoxStream;
use mortar_model::{
    ActionCache, BlobStore, ChunkingParameters, Codec, Context, Digest, InstanceName, Result, SystemClock,
    context::Promise,
};
use mortar_store::{
    ChunkedBlobs, Completeness, DiskConfig, DiskStore, NamedValues, ResultTier, Results, Selection,
    StoreStats, VerifyOptions, VerifyStep, forget_chunks,
    import::{self, Progress, Report, Target},
};
use mortar_wire::Protobuf;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// What a purge takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purge {
    /// A blob, and every result that cannot be used without it.
    Blob(Digest),
    /// Results and values.
    Kept(Selection),
}

/// What a purge took, or would take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Blobs.
    pub blobs: u64,
    /// Action results.
    pub results: u64,
    /// Opaque values of HTTP clients.
    pub values: u64,
}

/// Care of one store.
#[derive(Clone)]
pub struct Care {
    pub(crate) store: Arc<DiskStore>,
    pub(crate) results: Arc<Results>,
    /// Where results are remembered too.
    pub(crate) hot_results: Option<Arc<ResultTier>>,
    pub(crate) values: Arc<NamedValues>,
    /// Complete results, as clients are served them.
    pub(crate) actions: Arc<dyn ActionCache>,
    pub(crate) blobs: Arc<dyn BlobStore>,
    pub(crate) codec: Arc<dyn Codec>,
    /// Rests while it verifies, so that requests are not kept waiting.
    pub(crate) gentle: bool,
}

impl Care {
    /// Opens a store that nobody owns, in this directory, which may take `max_size` bytes.
    pub fn open(directory: PathBuf, max_size: u64) -> Result<Self> {
        let store = DiskStore::open(DiskConfig { directory, max_size })?;
        let codec: Arc<dyn Codec> = Arc::new(Protobuf);
        let results = Arc::new(Results::new(store.clone(), codec.clone()));
        let chunking = ChunkingParameters::default();
        let blobs = Arc::new(ChunkedBlobs::new(store.clone(), store.clone(), Some(store.clone()), chunking)?);
        Ok(Self {
            actions: Arc::new(Completeness::new(results.clone(), blobs.clone(), codec.clone())),
            values: Arc::new(NamedValues::new(store.clone(), Arc::new(SystemClock))),
            blobs,
            hot_results: None,
            gentle: false,
            store,
            results,
            codec,
        })
    }

    /// How the store is doing.
    pub fn stats(&self) -> StoreStats {
        self.store.stats()
    }

    /// Removes what is selected, durably; it does not come back by itself. With `dry_run`, it is only counted.
    pub async fn purge(&self, purge: &Purge, dry_run: bool) -> Result<Purged> {
        match purge {
            Purge::Blob(digest) => self.purge_blob(*digest, dry_run).await,
            Purge::Kept(selection) => Ok(Purged {
                blobs: 0,
                results: self.purge_results(selection, dry_run).await?,
                values: self.values.purge(selection, dry_run).await?,
            }),
        }
    }

    /// The results go first: who reads the blob in between finds nobody by whom it could be made again.
    async fn purge_blob(&self, digest: Digest, dry_run: bool) -> Result<Purged> {
        let results = self.purge_results(&Selection::Needing(digest), dry_run).await?;
        // First what it could be put together from.
        let was_chunked = !dry_run && forget_chunks(self.store.clone(), digest).await?;
        let was_here = match dry_run {
            true => self.is_here(digest).await?,
            false => self.store.purge_blob(digest).await? || was_chunked,
        };
        Ok(Purged { blobs: u64::from(was_here), results, values: 0 })
    }

    async fn is_here(&self, digest: Digest) -> Result<bool> {
        let context = Context { promise: Promise::Glance, ..Context::internal() };
        Ok(self.blobs.find_missing(&context, &[digest].into_iter().collect()).await?.is_empty())
    }

    async fn purge_results(&self, selection: &Selection, dry_run: bool) -> Result<u64> {
        match dry_run {
            true => self.results.count(selection).await,
            false => {
                let purged = self.results.purge(selection).await;
                self.hot_results.iter().for_each(|hot| hot.forget_all());
                purged
            }
        }
    }

    /// Reads and checks what is kept, for as long as the stream is asked for more.
    pub fn verify(&self, deep: bool) -> BoxStream<'static, Result<VerifyStep>> {
        self.store.verify(VerifyOptions { deep, gentle: self.gentle })
    }

    /// Takes over what another cache has gathered, as results of `instance`.
    pub async fn import(
        &self,
        source: &Path,
        instance: InstanceName,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Report> {
        let into = Target {
            blobs: self.blobs.clone(),
            actions: self.actions.clone(),
            codec: self.codec.clone(),
            context: Context::internal().with_instance(instance),
        };
        import::run(source, into, progress).await
    }
}
