//! Goes through what an action needs: finds out what is missing, and goes on where it was when something has come.

use super::Complete;
use futures::{StreamExt, stream};
use mortar_model::{BlobStore, BlobStoreExt, Context, Digest, DigestSet, Error, Kind, Result};
use mortar_services::limits::MAX_PROTO_BLOB;
use std::collections::{HashMap, HashSet};

/// Messages that are read at the same time.
const READS: usize = 16;
/// Different directories that are looked into; what is below others is found out by the worker.
const MAX_DIRECTORIES: usize = 100_000;

/// A walk through one action.
pub(crate) struct Walk<'a> {
    blobs: &'a dyn BlobStore,
    context: &'a Context,
    complete: &'a Complete,
    /// All that was named so far.
    named: DigestSet,
    /// What of it nobody has looked for yet.
    fresh: DigestSet,
    /// What of it is not there.
    missing: HashSet<Digest>,
    /// What turned out to be missing since somebody asked.
    newly_missing: Vec<Digest>,
    /// Messages that are still to be read.
    unread: HashMap<Digest, Message>,
    /// Those of them that are there.
    ready: Vec<Digest>,
    /// Those that were there when they were looked for, and not when they were read.
    went: HashSet<Digest>,
    /// Directories that were named.
    directories: DigestSet,
}

#[derive(Clone, Copy)]
enum Message {
    Action,
    Directory,
}

/// What a message names.
struct Named {
    directories: Vec<Digest>,
    others: Vec<Digest>,
}

impl<'a> Walk<'a> {
    /// Nothing is named yet.
    pub(crate) fn new(blobs: &'a dyn BlobStore, context: &'a Context, complete: &'a Complete) -> Self {
        Self {
            blobs,
            context,
            complete,
            named: DigestSet::new(),
            fresh: DigestSet::new(),
            missing: HashSet::new(),
            newly_missing: Vec::new(),
            unread: HashMap::new(),
            ready: Vec::new(),
            went: HashSet::new(),
            directories: DigestSet::new(),
        }
    }

    /// With an Action, and all that it names.
    pub(crate) fn with_action(mut self, action: Digest) -> Self {
        self.name(action);
        self.unread.insert(action, Message::Action);
        self
    }

    /// With a directory, and all that is below it.
    pub(crate) fn with_directory(mut self, digest: Digest) -> Self {
        self.name_directory(digest);
        self
    }

    /// With a blob that is known not to be there.
    pub(crate) fn without(mut self, digest: Digest) -> Self {
        self.named.insert(digest);
        self.missing.insert(digest);
        self
    }

    /// Looks for all that was named, reads the messages among it, looks for what they name, and so on. What cannot be read
    /// or is malformed is passed over: that is found, and told, where the action is run.
    pub(crate) async fn go_on(&mut self) -> Result<()> {
        loop {
            let fresh = std::mem::take(&mut self.fresh);
            if !fresh.is_empty() {
                let missing = self.blobs.find_missing(self.context, &fresh).await?;
                let here = fresh.iter().filter(|digest| !missing.contains(digest));
                self.ready.extend(here.filter(|digest| self.unread.contains_key(digest)));
                missing.iter().for_each(|digest| self.misses(digest));
            }
            let ready = std::mem::take(&mut self.ready);
            if ready.is_empty() {
                break;
            }
            self.read(ready).await;
        }
        if self.missing.is_empty() && self.directories.len() < MAX_DIRECTORIES {
            self.complete.enter(self.directories.iter());
        }
        Ok(())
    }

    /// How many blobs were named so far.
    pub(super) fn named(&self) -> usize {
        self.named.len()
    }

    /// Whether all that was named is there.
    pub(super) fn is_whole(&self) -> bool {
        self.missing.is_empty()
    }

    /// The error that names all that is not there, in the order in which it was named; none if all is there.
    pub(crate) fn error(&self) -> Option<Error> {
        if self.is_whole() {
            return None;
        }
        let missing = self.named.iter().filter(|digest| self.missing.contains(digest)).collect();
        Some(Error::new(Kind::MissingBlobs { missing }))
    }

    /// What turned out to be missing since this was asked before; some of it may have come since.
    pub(super) fn newly_missing(&mut self) -> Vec<Digest> {
        std::mem::take(&mut self.newly_missing)
    }

    /// Looks again for some of what is missing, or for all of it.
    pub(super) async fn look_again(&mut self, digests: Option<&DigestSet>) -> Result<()> {
        let all = digests.is_none().then(|| self.missing.iter().copied().collect());
        let digests = digests.or(all.as_ref()).expect("one of them");
        let still = self.blobs.find_missing(self.context, digests).await?;
        digests.iter().filter(|digest| !still.contains(digest)).for_each(|digest| self.arrived(digest));
        Ok(())
    }

    /// A blob has come.
    pub(super) fn arrived(&mut self, digest: Digest) {
        if self.missing.remove(&digest) && self.unread.contains_key(&digest) {
            self.ready.push(digest);
        }
    }

    fn misses(&mut self, digest: Digest) {
        if self.missing.insert(digest) {
            self.newly_missing.push(digest);
        }
    }

    async fn read(&mut self, digests: Vec<Digest>) {
        let messages = digests.into_iter().map(|digest| (digest, self.unread[&digest]));
        let (blobs, context) = (self.blobs, self.context);
        let reads = messages.map(|(digest, message)| async move {
            let bytes = blobs.read_all(context, digest, MAX_PROTO_BLOB).await;
            (digest, bytes.map(|bytes| message.named(digest, bytes)))
        });
        let reads: Vec<_> = reads.collect();
        let mut read = stream::iter(reads).buffer_unordered(READS);
        while let Some((digest, named)) = read.next().await {
            match named {
                // It went between the look and now. A store that says so twice contradicts itself.
                Err(error) if error.is_not_found() && self.went.insert(digest) => self.misses(digest),
                Err(_) => drop(self.unread.remove(&digest)),
                Ok(named) => {
                    self.unread.remove(&digest);
                    named.others.into_iter().for_each(|digest| self.name(digest));
                    named.directories.into_iter().for_each(|digest| self.name_directory(digest));
                }
            }
        }
    }

    fn name(&mut self, digest: Digest) {
        if self.named.insert(digest) {
            self.fresh.insert(digest);
        }
    }

    /// A digest may be that of a file and of a directory at once.
    fn name_directory(&mut self, digest: Digest) {
        if digest.is_empty() || self.complete.knows(&digest) {
            return;
        }
        self.name(digest);
        if self.directories.len() < MAX_DIRECTORIES && self.directories.insert(digest) {
            self.unread.insert(digest, Message::Directory);
            if !self.fresh.contains(&digest) && !self.missing.contains(&digest) {
                self.ready.push(digest);
            }
        }
    }
}

impl Message {
    /// What it names; nothing if it is malformed.
    fn named(self, digest: Digest, bytes: bytes::Bytes) -> Named {
        let function = digest.function();
        match self {
            Self::Action => match mortar_wire::decode_action(function, bytes) {
                Err(_) => Named { directories: Vec::new(), others: Vec::new() },
                Ok(action) => {
                    Named { directories: vec![action.input_root_digest], others: vec![action.command_digest] }
                }
            },
            Self::Directory => {
                let directory = mortar_wire::decode_directory(function, bytes).unwrap_or_default();
                Named {
                    directories: directory.directories.iter().map(|node| node.digest).collect(),
                    others: directory.files.iter().map(|file| file.digest).collect(),
                }
            }
        }
    }
}
