//! The bounded memory of decorators: a table that never weighs more than its budget.

use quick_cache::{OptionsBuilder, Weighter, sync::Cache};
use std::{
    hash::{Hash, RandomState},
    sync::Arc,
};

/// Parts with a lock each, of tables that are large enough.
const SHARDS: u64 = 8;
/// How many entries a part is to have room for.
const ENTRIES_A_SHARD: u64 = 32;

/// A table that makes room before it takes an entry, and refuses what would fill a part of it alone. What was asked
/// for only once goes first.
pub(crate) type Bounded<K, V, W> = Cache<K, V, W, RandomState>;

/// A table of at most `budget`, as `weighter` weighs, of entries that typically weigh `typical`.
pub(crate) fn bounded<K, V, W>(budget: u64, typical: u64, weighter: W) -> Arc<Bounded<K, V, W>>
where
    K: Eq + Hash,
    V: Clone,
    W: Weighter<K, V> + Clone,
{
    let entries = (budget / typical.max(1)).max(1);
    let shards = if entries < SHARDS * ENTRIES_A_SHARD { 1 } else { SHARDS };
    let options = OptionsBuilder::new()
        .shards(shards as usize)
        .estimated_items_capacity(usize::try_from(entries).unwrap_or(usize::MAX))
        // What does not divide evenly is given up, lest the parts together hold more than the whole.
        .weight_capacity(budget / shards * shards)
        .build()
        .expect("both capacities are set");
    Arc::new(Cache::with_options(options, weighter, RandomState::new(), Default::default()))
}
