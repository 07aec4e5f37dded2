//! The first step: the Action, its Command and its input root, and which of their blobs are missing. Contents of files
//! are not read here.

use crate::{Limits, job::Job, tree::InputRoot};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use mortar_model::{
    Action, BlobStore, BlobStoreExt, Command, Digest, DigestSet, Directory, Error, Kind, Result,
};
use mortar_wire::{decode_action, decode_command, decode_directory};
use std::collections::HashMap;

/// Directories that are read at the same time.
const READS: usize = 16;

/// Every directory of an input root by its digest.
pub type Directories = HashMap<Digest, Directory>;

/// All that an action says.
pub struct Fetched {
    /// The Action message.
    pub action: Action,
    /// Its Command.
    pub command: Command,
    /// Its inputs.
    pub root: InputRoot,
}

/// Fetches what describes the action, and makes sure that its inputs are there.
pub async fn fetch(job: &Job, blobs: &dyn BlobStore, limits: Limits) -> Result<Fetched> {
    let fetch = Fetch { job, blobs, limits };
    let mut missing = DigestSet::new();
    let Some(bytes) = fetch.message(job.action).await? else { return Err(absent([job.action])) };
    let action = decode_action(job.action.function(), bytes)?;
    let command = match fetch.message(action.command_digest).await? {
        Some(bytes) => Some(decode_command(bytes)?),
        None => {
            missing.insert(action.command_digest);
            None
        }
    };
    let directories = fetch.directories(action.input_root_digest, &mut missing).await?;
    let files: DigestSet =
        directories.values().flat_map(|directory| &directory.files).map(|file| file.digest).collect();
    if !files.is_empty() {
        missing.extend(job.unless_cancelled(blobs.find_missing(&job.context, &files)).await?);
    }
    let Some(command) = command.filter(|_| missing.is_empty()) else { return Err(absent(missing)) };
    let root = InputRoot::expand(action.input_root_digest, &directories, limits)?;
    Ok(Fetched { action, command, root })
}

/// That blobs are missing.
pub fn absent(missing: impl IntoIterator<Item = Digest>) -> Error {
    Error::new(Kind::MissingBlobs { missing: missing.into_iter().collect() })
}

struct Fetch<'a> {
    job: &'a Job,
    blobs: &'a dyn BlobStore,
    limits: Limits,
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

    /// Reads directories level by level, each once however often it occurs.
    async fn directories(&self, root: Digest, missing: &mut DigestSet) -> Result<Directories> {
        let mut known = Directories::new();
        let mut level = DigestSet::from_iter([root]);
        let mut depth = 0;
        while !level.is_empty() {
            depth += 1;
            if depth > self.limits.depth || known.len() + level.len() > self.limits.nodes {
                return Err(Error::invalid("input_root_digest", self.limits.exceeded("the input root")));
            }
            let reads =
                level.into_iter().map(|digest| async move { Ok((digest, self.message(digest).await?)) });
            let read: Vec<_> = stream::iter(reads).buffer_unordered(READS).try_collect::<Vec<_>>().await?;
            let mut next = DigestSet::new();
            for (digest, bytes) in read {
                let Some(bytes) = bytes else {
                    missing.insert(digest);
                    continue;
                };
                let directory = decode_directory(digest.function(), bytes)
                    .and_then(|directory| directory.check_input().map(|()| directory))
                    .map_err(|error| in_directory(digest, error))?;
                known.insert(digest, directory);
                next.extend(known[&digest].directories.iter().map(|child| child.digest));
            }
            level = next.into_iter().filter(|digest| !known.contains_key(digest)).collect();
        }
        Ok(known)
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
