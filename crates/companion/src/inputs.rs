//! The inputs of an action: sees to it that an upstream has all of them.
//!
//! The tree is walked here, from the messages in the local store, and what is not known to be upstream is carried there.
//! Subtrees that were there whole a while ago are not walked again.

use crate::{ferry::Ferry, near::Near, upstream::Upstream};
use mortar_model::{Action, BlobStoreExt, Clock, Context, Digest, DigestSet, Directory, Error, Kind, Result};
use mortar_services::limits::MAX_PROTO_BLOB;
use mortar_wire::{decode_action, decode_directory};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc, time::Instant};

/// Subtrees that are remembered.
const REMEMBERED: usize = 100_000;

pub(crate) struct Inputs {
    near: Near,
    ferry: Ferry,
    clock: Arc<dyn Clock>,
    /// Directories below which all was upstream, and until when that is trusted; by upstream, instance and digest.
    whole: Mutex<HashMap<Key, Instant>>,
}

type Key = (usize, String, Digest);

impl Inputs {
    pub fn new(near: Near, ferry: Ferry, clock: Arc<dyn Clock>) -> Self {
        Self { near, ferry, clock, whole: Mutex::default() }
    }

    /// The action in these bytes of the local store or the upstream.
    pub async fn action(&self, context: &Context, digest: Digest) -> Result<Action> {
        match self.near.read_all(context, digest, MAX_PROTO_BLOB).await {
            Ok(bytes) => decode_action(digest.function(), bytes),
            Err(error) if error.is_not_found() => Err(missing(vec![digest])),
            Err(error) => Err(error),
        }
    }

    /// Returns when all that the action needs is upstream. What is neither here nor there is told, all of it at once.
    pub async fn make_available(
        &self,
        upstream: &Upstream,
        context: &Context,
        digest: Digest,
        action: &Action,
    ) -> Result<()> {
        let needed = self.walk(upstream, context, action.input_root_digest).await?;
        let (directories, mut all) = (needed.directories, needed.all);
        all.extend([digest, action.command_digest]);
        let carried = self.ferry.carry(upstream, context, &upstream.unknown(context, all.iter())).await;
        let mut absent = needed.absent;
        for (digest, outcome) in &carried {
            match outcome {
                Ok(()) => {}
                Err(error) if error.is_not_found() => absent.push(*digest),
                Err(error) => return Err(Error::new(error.kind().clone())),
            }
        }
        if !absent.is_empty() {
            absent.sort_unstable();
            absent.dedup();
            return Err(missing(absent));
        }
        self.remember(upstream, context, directories);
        Ok(())
    }

    /// What was remembered of an upstream turned out to be wrong.
    pub fn forget(&self, upstream: &Upstream) {
        self.whole.lock().retain(|(index, ..), _| *index != upstream.index);
    }

    async fn walk(&self, upstream: &Upstream, context: &Context, root: Digest) -> Result<Needed> {
        let mut needed = Needed::default();
        let mut next = vec![root];
        while let Some(digest) = next.pop() {
            if !needed.all.insert(digest) || self.is_whole(upstream, context, digest) {
                continue;
            }
            let directory = match self.near.read_all(context, digest, MAX_PROTO_BLOB).await {
                Ok(bytes) => decode_directory(digest.function(), bytes)?,
                Err(error) if error.is_not_found() => {
                    needed.absent.push(digest);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Directory { files, directories, .. } = directory;
            needed.all.extend(files.into_iter().map(|file| file.digest));
            next.extend(directories.into_iter().map(|child| child.digest));
            needed.directories.push(digest);
        }
        Ok(needed)
    }

    fn is_whole(&self, upstream: &Upstream, context: &Context, digest: Digest) -> bool {
        let key = (upstream.index, context.instance.to_string(), digest);
        self.whole.lock().get(&key).is_some_and(|until| self.clock.now() < *until)
    }

    /// All that was walked is whole, for as long as the first of what was found there is trusted to stay: what was known
    /// before may have had a third of its lease behind it, or two.
    fn remember(&self, upstream: &Upstream, context: &Context, directories: Vec<Digest>) {
        let now = self.clock.now();
        let until = now + upstream.terms(context).lease / 6;
        let mut whole = self.whole.lock();
        if whole.len() + directories.len() > REMEMBERED {
            whole.retain(|_, until| now < *until);
            if whole.len() + directories.len() > REMEMBERED {
                whole.clear();
            }
        }
        let key = |digest| (upstream.index, context.instance.to_string(), digest);
        whole.extend(directories.into_iter().map(|digest| (key(digest), until)));
    }
}

/// What an action needs.
#[derive(Default)]
struct Needed {
    /// Everything that was found.
    all: DigestSet,
    /// The directories that were looked into.
    directories: Vec<Digest>,
    /// Directories that are nowhere.
    absent: Vec<Digest>,
}

fn missing(missing: Vec<Digest>) -> Error {
    Error::new(Kind::MissingBlobs { missing })
}
