//! Whole input roots on disk by digest, which actions share: each is a directory that nobody changes, laid under the
//! action's own by the sandbox (overlay), so that an action sees its inputs at the cost of one mount.
//!
//! - `work`: what to make for a root: all of it, or a thin layer of what it differs by from one that is there
//! - `build`: makes it, in parallel, straight from the store · `pool`: the files, one for each content
//! - `reaper`: removes what was dropped
//!
//! A directory is entered here only when it is whole, and it is known here alone: what a process leaves on disk when it
//! dies is nothing that anybody could take for a whole directory. Files and directories belong to the worker, are never
//! opened for writing again, and are in no action's reach but through a read-only mount, above which its own layer takes
//! all that it writes. What was found damaged in the store is not used again (`distrust`).
//!
//! Whoever uses a directory holds a [`Lease`] meanwhile. What is counted against the bounds is what lies on disk; the
//! least recently used that nobody holds goes first.

mod build;
mod pool;
mod reaper;
mod work;

pub use build::hide;

use crate::{config::CacheLimits, source::Source, tree::Tree};
use mortar_model::{Digest, Error, Result};
use parking_lot::Mutex;
use pool::{FileKey, Pool, Release};
use reaper::{Leaving, Reaper, Remains};
use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::Sender,
    },
};
use work::Work;

/// Disk space is given in blocks, in bytes.
const BLOCK: u64 = 4096;
/// So many of the roots that were used last are looked at for one that is near.
const CANDIDATES: usize = 16;
/// A layer over another root may hold so many things, and beyond that one for each so many of the root's own.
const THIN: usize = 16;
const THINNER: u64 = 4;

/// The cache.
#[derive(Debug)]
pub struct DirectoryCache {
    shared: Arc<Shared>,
    building: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    _reaper: Reaper,
}

#[derive(Debug)]
struct Shared {
    /// Where directories are.
    layers: PathBuf,
    limits: CacheLimits,
    state: Mutex<State>,
    uses: AtomicU64,
    next: AtomicU64,
    remains: Sender<Remains>,
}

#[derive(Debug)]
struct State {
    roots: HashMap<Digest, Arc<Entry>>,
    pool: Pool,
    bytes: u64,
    inodes: u64,
    /// What the store had told of damage when the roots were last trusted.
    damage: u64,
    /// All of it goes: nothing need stay for others.
    is_closing: bool,
}

/// A root that is there.
#[derive(Debug)]
struct Entry {
    tree: Arc<Tree>,
    layer: Layer,
    /// The root that the layer lies over, unless it is all of the root itself.
    base: Option<Arc<Entry>>,
    used: AtomicU64,
}

/// A directory on disk, which goes when this does.
#[derive(Debug)]
struct Layer {
    shared: Arc<Shared>,
    path: PathBuf,
    /// As it was made: inode, time of change.
    look: (u64, i64, i64),
    files: Vec<FileKey>,
    bytes: u64,
    inodes: u64,
    /// Some of its files are the store's own too.
    is_lent: bool,
}

/// A root in use: it stays until this goes.
#[derive(Clone, Debug)]
pub struct Lease(Arc<Entry>);

impl Lease {
    /// The directories of which the root consists, the uppermost first.
    pub fn layers(&self) -> Vec<&Path> {
        let base = self.0.base.iter().map(|base| base.layer.path.as_path());
        [self.0.layer.path.as_path()].into_iter().chain(base).collect()
    }
}

impl DirectoryCache {
    /// An empty cache in a directory that is made for it.
    pub fn open(directory: &Path, limits: CacheLimits) -> Result<Self> {
        let (layers, pool) = (directory.join("roots"), directory.join("files"));
        for path in [&layers, &pool] {
            fs::create_dir_all(path)
                .map_err(|error| Error::io("create a directory for input roots", error))?;
        }
        let reaper = Reaper::start()?;
        let state = State {
            roots: HashMap::new(),
            pool: Pool::new(pool),
            bytes: 0,
            inodes: 0,
            damage: 0,
            is_closing: false,
        };
        let shared = Shared {
            layers,
            limits,
            state: Mutex::new(state),
            uses: AtomicU64::new(0),
            next: AtomicU64::new(0),
            remains: reaper.sender(),
        };
        Ok(Self { shared: Arc::new(shared), building: Mutex::default(), _reaper: reaper })
    }

    /// What lies on disk: bytes and inodes.
    pub fn usage(&self) -> (u64, u64) {
        let state = self.shared.state.lock();
        (state.bytes, state.inodes)
    }

    /// The root, made now if it is not there. Whoever wants one that is being made waits for that.
    pub async fn root(&self, tree: &Arc<Tree>, source: &Source<'_>) -> Result<Lease> {
        self.distrust(source.damage());
        if let Some(lease) = self.shared.find(&tree.digest) {
            return Ok(lease);
        }
        let turn = self.building.lock().entry(tree.digest).or_default().clone();
        let alone = source.job.unless_cancelled(async { Ok(turn.lock().await) }).await?;
        let made = match self.shared.find(&tree.digest) {
            Some(lease) => Ok(lease),
            None => self.make(tree, source).await,
        };
        drop(alone);
        // Whoever waits has its own hold of the turn, and finds the root, or makes it, when it comes to that.
        self.building.lock().remove(&tree.digest);
        made
    }

    async fn make(&self, tree: &Arc<Tree>, source: &Source<'_>) -> Result<Lease> {
        let damage = source.damage();
        let most = THIN + usize::try_from(tree.nodes / THINNER).unwrap_or(usize::MAX);
        let near = self.shared.near(tree, most);
        let (work, base) = match near {
            Some((work, base)) => (work, Some(base)),
            None => (Work::whole(tree), None),
        };
        let layer = build::build(&self.shared, work, source).await?;
        let used = AtomicU64::new(self.shared.uses.fetch_add(1, Relaxed));
        let entry = Arc::new(Entry { tree: tree.clone(), layer, base, used });
        let lease = Lease(entry.clone());
        let replaced = {
            let mut state = self.shared.state.lock();
            // What was made while damage was found is for who made it, and for nobody else.
            if state.damage == damage { state.roots.insert(tree.digest, entry) } else { Some(entry) }
        };
        drop(replaced);
        self.shared.evict();
        Ok(lease)
    }

    /// Drops what shares files with the store, if the store has found damage since that was last looked at.
    fn distrust(&self, damage: u64) {
        let mut gone = Vec::new();
        let mut state = self.shared.state.lock();
        if state.damage == damage {
            return;
        }
        state.damage = damage;
        let State { roots, pool, .. } = &mut *state;
        roots.retain(|_, entry| {
            let lent = entry.layer.is_lent || entry.base.as_ref().is_some_and(|base| base.layer.is_lent);
            if lent {
                gone.push(entry.clone());
            }
            !lent
        });
        for entry in &gone {
            entry.layer.files.iter().for_each(|key| pool.spoil(key));
        }
        drop(state);
        if gone.is_empty() {
            return;
        }
        tracing::warn!(roots = gone.len(), "the store found damage; input roots that share files with it go");
    }
}

impl Drop for DirectoryCache {
    fn drop(&mut self) {
        // They hold what holds them.
        let mut state = self.shared.state.lock();
        state.is_closing = true;
        let roots = std::mem::take(&mut state.roots);
        drop(state);
        drop(roots);
    }
}

impl Shared {
    fn find(&self, digest: &Digest) -> Option<Lease> {
        let entry = self.state.lock().roots.get(digest).cloned()?;
        if entry.is_there() {
            self.touch(&entry);
            return Some(Lease(entry));
        }
        tracing::error!(path = %entry.layer.path.display(), "a cached directory was changed behind the worker's back");
        let gone = self.state.lock().roots.remove(digest);
        drop(gone);
        None
    }

    fn touch(&self, entry: &Entry) {
        let now = self.uses.fetch_add(1, Relaxed);
        for entry in [Some(entry), entry.base.as_deref()].into_iter().flatten() {
            entry.used.store(now, Relaxed);
        }
    }

    /// What differs from the nearest of those roots that were used last, if that is little.
    fn near(&self, tree: &Tree, most: usize) -> Option<(Work, Arc<Entry>)> {
        let mut bases: Vec<_> =
            self.state.lock().roots.values().filter(|entry| entry.base.is_none()).cloned().collect();
        bases.sort_by_key(|entry| std::cmp::Reverse(entry.used.load(Relaxed)));
        let mut nearest: Option<(Work, Arc<Entry>)> = None;
        for base in bases.into_iter().take(CANDIDATES) {
            let most = nearest.as_ref().map_or(most, |(work, _)| work.size() - 1);
            if let Some(work) = Work::difference(tree, &base.tree, most) {
                let is_thin = work.size() <= THIN;
                nearest = Some((work, base));
                if is_thin {
                    break;
                }
            }
        }
        let (work, base) = nearest.filter(|(_, base)| base.is_there())?;
        self.touch(&base);
        Some((work, base))
    }

    fn evict(&self) {
        self.shrink(self.limits.bytes, self.limits.inodes);
    }

    /// Drops roots that nobody uses, the least recently used first, until there is no more than this.
    fn shrink(&self, bytes: u64, inodes: u64) {
        loop {
            let gone = {
                let mut state = self.state.lock();
                if state.bytes <= bytes && state.inodes <= inodes {
                    return;
                }
                let idle = state.roots.values().filter(|entry| Arc::strong_count(entry) == 1);
                let oldest = idle.min_by_key(|entry| entry.used.load(Relaxed)).map(|entry| entry.tree.digest);
                let Some(oldest) = oldest else { return };
                state.roots.remove(&oldest)
            };
            // Not under the lock, which it takes itself.
            drop(gone);
        }
    }

    fn layer_path(&self) -> PathBuf {
        self.layers.join(self.next.fetch_add(1, Relaxed).to_string())
    }
}

impl Entry {
    /// Whether its directories are still those that were made.
    fn is_there(&self) -> bool {
        self.layer.is_there() && self.base.as_ref().is_none_or(|base| base.layer.is_there())
    }
}

impl Layer {
    fn is_there(&self) -> bool {
        look(&self.path).is_some_and(|look| look == self.look)
    }
}

fn look(path: &Path) -> Option<(u64, i64, i64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
}

impl Drop for Layer {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.bytes = state.bytes.saturating_sub(self.bytes);
        state.inodes = state.inodes.saturating_sub(self.inodes);
        let (mut moving, mut files) = (Vec::new(), Vec::new());
        let (directory, all) = (std::mem::take(&mut self.path), std::mem::take(&mut self.files));
        for key in all {
            match state.pool.release(&key, &directory) {
                Release::Stays => {}
                Release::Moves { from, to } => moving.push((key, from, to)),
                Release::Goes(elsewhere) => {
                    state.bytes = state.bytes.saturating_sub(key.bytes());
                    state.inodes = state.inodes.saturating_sub(1);
                    files.extend(elsewhere);
                }
            }
        }
        if state.is_closing {
            moving.clear();
        }
        drop(state);
        let leaving = Leaving { directory, moving, files };
        // It fails only when the worker ends, which removes all of the cache.
        self.shared.remains.send(Remains::Layer(Arc::clone(&self.shared), leaving)).ok();
    }
}
