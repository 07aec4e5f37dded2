//! The first step: the Action, its Command and the directories of its input root, level by level, but for those that
//! are known from earlier roots. Contents of files are not read here, nor looked for: that is for who builds the root.

use crate::{
    Limits,
    job::Job,
    source::Source,
    tree::{Known, Tree},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use mortar_model::{
    Action, BlobStore, BlobStoreExt, Command, Digest, DigestSet, Directory, Error, Kind, Result,
};
use mortar_wire::{decode_action, decode_command, decode_directory};
use std::{collections::HashMap, sync::Arc};

/// Directories that are read at the same time.
const READS: usize = 64;

/// All that an action says.
pub struct Fetched {
    /// The Action message.
    pub action: Action,
    /// Its Command.
    pub command: Command,
    /// Its inputs.
    pub root: Arc<Tree>,
}

/// Fetches what describes the action.
pub async fn fetch(source: &Source<'_>, known: &Known, limits: Limits) -> Result<Fetched> {
    let (job, blobs) = (source.job, &*source.stores.blobs);
    let fetch = Fetch { job, blobs, source, known, limits };
    let Some(bytes) = fetch.message(job.action).await? else { return Err(absent([job.action])) };
    let action = decode_action(job.action.function(), bytes)?;
    let command = fetch.message(action.command_digest);
    let (command, mut found) = tokio::try_join!(command, fetch.directories(action.input_root_digest))?;
    let Some(command) = command else {
        found.missing.insert(action.command_digest);
        return Err(fetch.all_absent(found).await?);
    };
    if !found.missing.is_empty() {
        return Err(fetch.all_absent(found).await?);
    }
    let root = found.assemble(action.input_root_digest, known, limits, 1)?;
    Ok(Fetched { command: decode_command(command)?, action, root })
}

/// That blobs are missing.
pub fn absent(missing: impl IntoIterator<Item = Digest>) -> Error {
    Error::new(Kind::MissingBlobs { missing: missing.into_iter().collect() })
}

struct Fetch<'a> {
    job: &'a Job,
    blobs: &'a dyn BlobStore,
    source: &'a Source<'a>,
    known: &'a Known,
    limits: Limits,
}

/// Directories by their digests: those that were read, those that were known, and those that are not there.
#[derive(Default)]
struct Found {
    read: HashMap<Digest, Directory>,
    trees: HashMap<Digest, Arc<Tree>>,
    missing: DigestSet,
}

impl Fetch<'_> {
    /// The bytes of a message; none if it is missing.
    async fn message(&self, digest: Digest) -> Result<Option<Bytes>> {
        if digest.is_empty() {
            return Ok(Some(Bytes::new()));
        }
        let read = self.blobs.read_all(&self.job.context, digest, self.limits.message);
        match self.job.unless_cancelled(read).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads directories level by level, each once however often it occurs; none below those that are known.
    async fn directories(&self, root: Digest) -> Result<Found> {
        let mut found = Found::default();
        let mut level = DigestSet::from_iter([root]);
        let mut depth = 0;
        while !level.is_empty() {
            depth += 1;
            if depth > self.limits.depth || found.read.len() + level.len() > self.limits.nodes {
                return Err(Error::invalid("input_root_digest", self.limits.exceeded("the input root")));
            }
            let mut unknown = Vec::new();
            for digest in level {
                match self.known.get(&digest) {
                    Some(tree) => drop(found.trees.insert(digest, tree)),
                    None => unknown.push(digest),
                }
            }
            self.source.fetch(&unknown).await?;
            let reads =
                unknown.into_iter().map(|digest| async move { Ok((digest, self.message(digest).await?)) });
            let read: Vec<_> = stream::iter(reads).buffer_unordered(READS).try_collect::<Vec<_>>().await?;
            let mut next = DigestSet::new();
            for (digest, bytes) in read {
                let Some(bytes) = bytes else {
                    found.missing.insert(digest);
                    continue;
                };
                let directory = decode_directory(digest.function(), bytes)
                    .and_then(|directory| directory.check_input().map(|()| directory))
                    .map_err(|error| in_directory(digest, error))?;
                next.extend(directory.directories.iter().map(|child| child.digest));
                found.read.insert(digest, directory);
            }
            level = next.into_iter().filter(|digest| !found.has(digest)).collect();
        }
        Ok(found)
    }

    /// An error that names what is missing of all that was found: messages, and contents of files.
    async fn all_absent(&self, found: Found) -> Result<Error> {
        let mut contents: DigestSet =
            found.read.values().flat_map(|directory| &directory.files).map(|file| file.digest).collect();
        found.trees.values().for_each(|tree| contents.extend(tree.contents()));
        let mut missing = found.missing;
        if !contents.is_empty() {
            let asked = self.blobs.find_missing(&self.job.context, &contents);
            missing.extend(self.job.unless_cancelled(asked).await?);
        }
        Ok(absent(missing))
    }
}

impl Found {
    fn has(&self, digest: &Digest) -> bool {
        self.read.contains_key(digest) || self.trees.contains_key(digest) || self.missing.contains(digest)
    }

    /// Puts the directories together, those below first. `depth` bounds how far this calls itself.
    fn assemble(&mut self, digest: Digest, known: &Known, limits: Limits, depth: usize) -> Result<Arc<Tree>> {
        if let Some(tree) = self.trees.get(&digest) {
            return Ok(tree.clone());
        }
        if depth > limits.depth {
            return Err(Error::invalid("input_root_digest", limits.exceeded("the input root")));
        }
        let directory = self.read.remove(&digest);
        let directory = directory.ok_or_else(|| {
            Error::internal(format!("directory `{digest}` was not fetched, or holds itself"))
        })?;
        let below = directory.directories.iter();
        let children: Vec<_> = below
            .map(|child| self.assemble(child.digest, known, limits, depth + 1))
            .collect::<Result<_>>()?;
        let tree = known.enter(Tree::new(digest, directory, children, limits)?);
        self.trees.insert(digest, tree.clone());
        Ok(tree)
    }
}

fn in_directory(digest: Digest, error: Error) -> Error {
    match error.kind() {
        Kind::InvalidArgument { field, message } => {
            Error::invalid(field.clone(), format!("directory `{digest}` of the input root: {message}"))
        }
        _ => error,
    }
}

impl Limits {
    /// What a tree has too much of.
    pub fn exceeded(&self, what: &str) -> String {
        format!(
            "{what} is too large; at most {} files, directories and links, and {} directories within each other, \
             are accepted",
            self.nodes, self.depth
        )
    }
}
