//! Takes over what other caches have gathered: a directory of Bazel's `--disk_cache` or of bazel-remote, which is only read.
//!
//! Blobs come first, each checked against its name as it is written; then the results whose blobs are there. What is
//! damaged or strange is left out and named in the report. A result or blob that the store has already stays.

mod layout;
mod source;

pub use layout::Kind;

use crate::blocking::hop;
use futures::{StreamExt, TryStreamExt, stream};
use layout::{Area, Content, Layout, Named};
use mortar_model::{
    ActionCache, ActionKey, BlobStore, Codec, Context, Digest, DigestSet, Error, Kind as ErrorKind, Result,
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Blobs that are asked for in one call.
const BATCH: usize = 1000;
/// Files that are read at the same time: enough for writes to share a sync.
const AT_ONCE: usize = 32;
/// The largest action result that is read, in bytes.
const MAX_RESULT: u64 = 16 * 1024 * 1024;
/// How many of the files that were left out a report names.
const NAMED: usize = 1000;

/// Where an import goes.
#[derive(Clone)]
pub struct Target {
    /// Takes and checks the blobs.
    pub blobs: Arc<dyn BlobStore>,
    /// Takes the results and judges whether they can be used: what stands before the results that clients are served.
    pub actions: Arc<dyn ActionCache>,
    /// Decodes the results.
    pub codec: Arc<dyn Codec>,
    /// The context of all calls, and so the instance whose results these will be.
    pub context: Context,
}

/// How far an import is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Files that are dealt with.
    pub files: u64,
    /// Bytes of content that were written.
    pub bytes: u64,
    /// Files that were left out.
    pub skipped: u64,
}

/// What became of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whose directory it is.
    pub kind: Kind,
    /// All files and bytes.
    pub progress: Progress,
    /// Blobs that were written.
    pub blobs: u64,
    /// Blobs that were there.
    pub known_blobs: u64,
    /// Results that were put.
    pub results: u64,
    /// Results of actions of which one was there.
    pub known_results: u64,
    /// What was left out, as far as it is not too much to name.
    pub skipped: Vec<Skipped>,
}

/// A file that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Where it is, within the directory.
    pub path: PathBuf,
    /// Why.
    pub why: String,
}

/// Imports a directory. `progress` hears of every file. Fails if the directory is of no known kind, or if the target does;
/// what was written until then stays, and another run continues.
pub async fn run(source: &Path, into: Target, progress: &(dyn Fn(Progress) + Send + Sync)) -> Result<Report> {
    let root = source.to_path_buf();
    let layout = hop(move || Layout::recognize(&root)).await?;
    let report = Report {
        kind: layout.kind,
        progress: Progress::default(),
        blobs: 0,
        known_blobs: 0,
        results: 0,
        known_results: 0,
        skipped: Vec::new(),
    };
    let import = Import { source, into, progress, report: Mutex::new(report) };
    import.skip_all(layout.strangers);
    for area in layout.areas.iter().filter(|area| area.content != Content::Results) {
        import.blobs(layout.kind, area).await?;
    }
    for area in layout.areas.iter().filter(|area| area.content != Content::Blobs) {
        import.results(layout.kind, area).await?;
    }
    Ok(import.report.into_inner())
}

struct Import<'a> {
    source: &'a Path,
    into: Target,
    progress: &'a (dyn Fn(Progress) + Send + Sync),
    report: Mutex<Report>,
}

/// Files of one folder, and what each is.
type Files = Vec<(PathBuf, Option<Named>)>;

impl Import<'_> {
    async fn blobs(&self, kind: Kind, area: &Area) -> Result<()> {
        // What HTTP clients put is not content by its hash.
        if area.content == Content::Raw {
            return Ok(());
        }
        for folder in self.folders(area).await? {
            for files in self.files(kind, area, folder).await?.chunks(BATCH) {
                self.batch(files).await?;
            }
        }
        Ok(())
    }

    /// Writes those blobs of a batch that are missing.
    async fn batch(&self, files: &[(PathBuf, Option<Named>)]) -> Result<()> {
        let mut wanted = HashMap::new();
        for (path, named) in files {
            let (key, form) = match named {
                Some(Named::Blob(key, form)) => (*key, *form),
                Some(Named::Result(_)) => continue,
                None => {
                    self.skip(path, "its name says nothing");
                    continue;
                }
            };
            let owned = path.clone();
            match hop(move || source::size(&owned, form)).await {
                Ok(size) => {
                    let digest = Digest::new(key.function, key.hash, size);
                    if wanted.insert(digest, (path, form)).is_some() {
                        self.done(|report| report.known_blobs += 1);
                    }
                }
                Err(error) => self.skip(path, error),
            }
        }
        let digests: DigestSet = wanted.keys().copied().collect();
        let missing = self.into.blobs.find_missing(&self.into.context, &digests).await?;
        for _ in missing.len()..digests.len() {
            self.done(|report| report.known_blobs += 1);
        }
        let writes = missing.iter().filter_map(|digest| {
            let (path, form) = wanted.get(&digest)?;
            Some(self.blob(path, *form, digest))
        });
        stream::iter(writes).map(Ok).try_for_each_concurrent(AT_ONCE, |write| write).await
    }

    async fn blob(&self, path: &Path, form: layout::Form, digest: Digest) -> Result<()> {
        let content = source::content(path.into(), form, digest);
        match self.into.blobs.write(&self.into.context, digest, content).await {
            Ok(()) => self.done(|report| {
                report.blobs += 1;
                report.progress.bytes += digest.size();
            }),
            Err(error) if is_of_the_file(&error) => self.skip(path, error),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn results(&self, kind: Kind, area: &Area) -> Result<()> {
        for folder in self.folders(area).await? {
            let files = self.files(kind, area, folder).await?;
            let puts = files.iter().filter_map(|(path, named)| match named {
                Some(Named::Result(key)) => Some(self.result(path, *key, area.content)),
                // Of a directory with both, blobs and what is strange were looked at before.
                _ if area.content == Content::Mixed => None,
                _ => {
                    self.skip(path, "its name says nothing");
                    None
                }
            });
            let puts: Vec<_> = puts.collect();
            stream::iter(puts).map(Ok).try_for_each_concurrent(AT_ONCE, |put| put).await?;
        }
        Ok(())
    }

    async fn result(&self, path: &Path, key: ActionKey, content: Content) -> Result<()> {
        let Target { blobs, actions, codec, context } = &self.into;
        if actions.get(context, key).await?.is_some() {
            self.done(|report| report.known_results += 1);
            return Ok(());
        }
        let owned = path.to_path_buf();
        let read = hop(move || source::bytes(&owned, MAX_RESULT)).await;
        let result = match read.and_then(|bytes| codec.decode_result(key.function, bytes)) {
            Ok(result) => result,
            Err(error) => {
                self.skip(path, error);
                return Ok(());
            }
        };
        let named = result.named_blobs();
        let missing = blobs.find_missing(context, &named).await?;
        let why = match missing.iter().next() {
            Some(first) => Some(format!("blobs that it names are missing, first `{first}`")),
            None if !result.is_success() => Some(format!("its action failed with {}", result.exit_code)),
            None if content == Content::Raw && named.is_empty() => Some("it is no action result".into()),
            None => None,
        };
        if let Some(why) = why {
            self.skip(path, why);
            return Ok(());
        }
        actions.put(context, key, result).await?;
        match actions.get(context, key).await? {
            Some(_) => self.done(|report| report.results += 1),
            None => self.skip(path, "blobs that its directories name are missing"),
        }
        Ok(())
    }

    async fn folders(&self, area: &Area) -> Result<Vec<PathBuf>> {
        let owned = area.clone();
        let (folders, strangers) = hop(move || owned.folders()).await?;
        self.skip_all(strangers);
        Ok(folders)
    }

    async fn files(&self, kind: Kind, area: &Area, folder: PathBuf) -> Result<Files> {
        let owned = area.clone();
        hop(move || owned.files(kind, &folder)).await
    }

    fn skip_all(&self, paths: Vec<PathBuf>) {
        paths.iter().for_each(|path| self.skip(path, "it does not belong to the cache"));
    }

    fn skip(&self, path: &Path, why: impl std::fmt::Display) {
        let path = path.strip_prefix(self.source).unwrap_or(path).to_path_buf();
        self.done(|report| {
            report.progress.skipped += 1;
            if report.skipped.len() < NAMED {
                report.skipped.push(Skipped { path, why: why.to_string() });
            }
        });
    }

    /// Counts one more file.
    fn done(&self, count: impl FnOnce(&mut Report)) {
        let progress = {
            let mut report = self.report.lock();
            report.progress.files += 1;
            count(&mut report);
            report.progress
        };
        (self.progress)(progress);
    }
}

/// Whether a write failed for what was to be written: another file may do better.
fn is_of_the_file(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Mismatch { .. }
            | ErrorKind::DataLoss { .. }
            | ErrorKind::InvalidArgument { .. }
            | ErrorKind::ResourceExhausted { retry_after: None, .. }
    )
}
