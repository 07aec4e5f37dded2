//! Keeps in which order invocations ask for actions, and finds again what followed one.
//!
//! What is noted stays in memory until a block is full or its invocation is quiet; then it is written, in the background.
//! A trail that is lost costs nothing but round trips, so nobody waits for it to be durable.

use super::block::{Block, LENGTH, Name, Pointer};
use bytes::Bytes;
use futures::future::join_all;
use mortar_model::{ActionKey, Clock, Context, InstanceName, Result, Values};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// Invocations whose trails are open at the same time; with one more, the quietest is closed.
const OPEN: usize = 256;
/// A trail that nothing was added to for so long is written as far as it has come.
const QUIET: Duration = Duration::from_secs(2);
/// Blocks that wait to be written; with more, the newest are dropped.
const WAITING: usize = 1_024;
/// A pointer is replaced by a newer one after this time only. Who looks ahead asks for little: what such an invocation
/// leaves is full of holes, and must not take the place of a trail that is whole.
const STAYS: Duration = Duration::from_secs(24 * 60 * 60);

/// All trails of a server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Trails(Arc<Inner>);

struct Inner {
    values: Arc<dyn Values>,
    clock: Arc<dyn Clock>,
    open: Mutex<HashMap<(InstanceName, String), Trail>>,
    full: mpsc::Sender<(InstanceName, Block)>,
}

/// What one invocation has asked for since its last full block.
struct Trail {
    number: u64,
    block: Block,
    seen: HashSet<ActionKey>,
    touched: Instant,
    /// How much of the block is written.
    written: usize,
}

impl Trails {
    /// Trails kept among `values`. Must be called inside a runtime, which writes them until the last clone is gone.
    pub(crate) fn new(values: Arc<dyn Values>, clock: Arc<dyn Clock>) -> Self {
        let (full, mut blocks) = mpsc::channel(WAITING);
        let trails = Self(Arc::new(Inner { values, clock, open: Mutex::default(), full }));
        let weak = Arc::downgrade(&trails.0);
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(QUIET);
            loop {
                let block = tokio::select! {
                    block = blocks.recv() => block,
                    _ = tick.tick() => None,
                };
                let Some(inner) = weak.upgrade() else { return };
                match block {
                    Some((instance, block)) => inner.write(&instance, &block).await,
                    None => inner.write_quiet().await,
                }
            }
        });
        trails
    }

    /// An invocation asks for an action.
    pub(crate) fn note(&self, context: &Context, key: ActionKey) {
        let invocation = &context.request.tool_invocation_id;
        if invocation.is_empty() {
            return;
        }
        let now = self.0.clock.now();
        let mut open = self.0.open.lock();
        let whose = (context.instance.clone(), invocation.clone());
        if open.len() >= OPEN && !open.contains_key(&whose) {
            self.0.close_quietest(&mut open);
        }
        let trail = open.entry(whose).or_insert_with_key(|(instance, invocation)| Trail {
            number: 0,
            block: Block::of(instance, invocation, 0),
            seen: HashSet::new(),
            touched: now,
            written: 0,
        });
        trail.touched = now;
        if !trail.seen.insert(key) {
            return;
        }
        trail.block.keys.push(key);
        if trail.block.keys.len() == LENGTH {
            trail.number += 1;
            trail.written = 0;
            trail.seen.clear();
            let next = Block::of(&context.instance, invocation, trail.number);
            self.0.send(&context.instance, std::mem::replace(&mut trail.block, next));
        }
    }

    /// The block in which an action is found, and its place there.
    pub(super) async fn find(
        &self,
        instance: &InstanceName,
        key: ActionKey,
    ) -> Result<Option<(Block, usize)>> {
        let Some(pointer) = self.0.value(instance, Pointer::name(key)).await?.and_then(Pointer::decode)
        else {
            return Ok(None);
        };
        let Some(block) = self.block(instance, pointer.block).await? else { return Ok(None) };
        let place = block.keys.iter().position(|known| *known == key);
        Ok(place.map(|place| (block, place)))
    }

    /// A block by its name.
    pub(super) async fn block(&self, instance: &InstanceName, name: Name) -> Result<Option<Block>> {
        let value = self.0.value(instance, name).await?;
        Ok(value.and_then(|bytes| Block::decode(name, bytes)))
    }
}

impl Inner {
    async fn value(&self, instance: &InstanceName, name: Name) -> Result<Option<Bytes>> {
        self.values.get(&Context::glance().with_instance(instance.clone()), &name).await
    }

    fn send(&self, instance: &InstanceName, block: Block) {
        if self.full.try_send((instance.clone(), block)).is_err() {
            tracing::debug!(
                "what was asked for cannot be written as fast as it is; a piece of it is not kept"
            );
        }
    }

    fn close_quietest(&self, open: &mut HashMap<(InstanceName, String), Trail>) {
        let quietest = open.iter().min_by_key(|(_, trail)| trail.touched).map(|(whose, _)| whose.clone());
        if let Some((whose, trail)) = quietest.and_then(|whose| open.remove_entry(&whose))
            && trail.block.keys.len() > trail.written
        {
            self.send(&whose.0, trail.block);
        }
    }

    /// Writes what is open and was not added to lately. It stays open: more may come.
    async fn write_quiet(&self) {
        let now = self.clock.now();
        let quiet: Vec<_> = {
            let mut open = self.open.lock();
            let grown = open.iter_mut().filter(|(_, trail)| {
                let quiet = now.saturating_duration_since(trail.touched) >= QUIET;
                quiet && trail.block.keys.len() > trail.written
            });
            grown
                .map(|((instance, _), trail)| {
                    trail.written = trail.block.keys.len();
                    (instance.clone(), trail.block.clone())
                })
                .collect()
        };
        for (instance, block) in quiet {
            self.write(&instance, &block).await;
        }
    }

    /// The block first, then what points at it.
    async fn write(&self, instance: &InstanceName, block: &Block) {
        let context = Context::glance().with_instance(instance.clone());
        if let Err(error) = self.values.put(&context, &block.name, block.encode()).await {
            return tracing::debug!(%error, "what was asked for is not kept");
        }
        let now = self.clock.wall();
        let pointed = join_all(block.pointed().map(|key| async move {
            let name = Pointer::name(key);
            let known = self.value(instance, name).await?.and_then(Pointer::decode);
            let stays = known.is_some_and(|known| {
                let age = now.duration_since(known.made).unwrap_or_default();
                known.block != block.name && age < STAYS
            });
            if stays {
                return Ok(());
            }
            let context = Context::glance().with_instance(instance.clone());
            self.values.put(&context, &name, Pointer { block: block.name, made: now }.encode()).await
        }));
        if let Some(error) = pointed.await.into_iter().find_map(Result::err) {
            tracing::debug!(%error, "some of what was asked for will not be found again");
        }
    }
}
