//! What waits for a worker: one group for each demand, so that a match looks at groups and not at actions. Within a
//! group the order is priority, then the shares of the classes, then arrival.
//!
//! Which worker gets what is not decided here.

use super::{
    TicketId, after,
    classes::{ClassId, Share},
    job::{Job, Place},
    need::Demand,
};
use crate::Config;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

/// All groups that are not empty.
#[derive(Debug, Default)]
pub(super) struct Queue {
    groups: BTreeMap<Arc<Demand>, Group>,
    /// The lines of each class that waits.
    lines: BTreeMap<ClassId, Lines>,
    length: usize,
}

/// The share with which the lines of a class are entered in their groups.
#[derive(Debug, Default)]
struct Lines {
    share: Share,
    at: BTreeSet<(Arc<Demand>, i32)>,
}

/// The jobs that ask for the same.
#[derive(Debug)]
pub(super) struct Group {
    /// By priority and class, in order of arrival.
    lines: BTreeMap<(i32, ClassId), BTreeMap<u64, TicketId>>,
    order: BTreeSet<(i32, Share, ClassId)>,
    /// Where its first job stands among all; looked at for each match, and so kept at hand.
    pub(super) head: Option<Rank>,
    /// By the time since when they wait, which a retry sets anew and a merge leaves as it is.
    waiting: BTreeSet<(Instant, TicketId)>,
    /// Since when no worker takes such work that could run it.
    unserved: Option<Instant>,
    /// What its jobs wait for.
    pub(super) outlook: Outlook,
}

/// What the jobs of a group wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outlook {
    pub(super) reach: Reach,
    /// The same for people.
    pub(super) reason: Arc<str>,
}

/// Who could run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// A worker that takes work.
    Served,
    /// Only workers that take none at the moment, or a pool that is empty.
    Later,
    /// Nobody that is known.
    Never,
}

/// Where a job stands among all that wait; the smallest is the first.
pub(super) type Rank = (i32, Share, u64);

/// What a job has waited for in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// A worker that could run it.
    Worker { waited: Duration },
    /// Its turn.
    Turn { waited: Duration },
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// The demand as it is kept already, if it is, so that equal ones are kept once; and what its jobs wait for.
    pub(super) fn find(&self, demand: &Demand) -> Option<(Arc<Demand>, &Outlook)> {
        self.groups.get_key_value(demand).map(|(shared, group)| (Arc::clone(shared), &group.outlook))
    }

    /// What the jobs of a group wait for, and how many there are.
    pub(super) fn outlook(&self, demand: &Demand) -> Option<(&Outlook, usize)> {
        self.groups.get(demand).map(|group| (&group.outlook, group.waiting.len()))
    }

    /// Adds a job that is queued. The outlook is that of its group.
    pub(super) fn insert(&mut self, job: &Job, share: Share, outlook: impl FnOnce() -> Outlook) {
        let Place::Queued { since } = job.place else { return };
        let (priority, arrival) = job.order;
        let group = self.groups.entry(Arc::clone(&job.demand)).or_insert_with(|| {
            let outlook = outlook();
            let unserved = (outlook.reach != Reach::Served).then_some(since);
            Group {
                lines: BTreeMap::new(),
                order: BTreeSet::new(),
                head: None,
                waiting: BTreeSet::new(),
                unserved,
                outlook,
            }
        });
        group.waiting.insert((since, job.id));
        group.lines.entry((priority, job.class)).or_default().insert(arrival, job.id);
        self.length += 1;
        self.reshare(job.class, share);
        let lines = self.lines.entry(job.class).or_insert_with(|| Lines { share, at: BTreeSet::new() });
        if lines.at.insert((Arc::clone(&job.demand), priority))
            && let Some(group) = self.groups.get_mut(&job.demand)
        {
            group.order.insert((priority, share, job.class));
        }
        if let Some(group) = self.groups.get_mut(&job.demand) {
            group.head = group.first();
        }
    }

    /// Takes a job out that is queued.
    pub(super) fn remove(&mut self, job: &Job) {
        let Place::Queued { since } = job.place else { return };
        let (priority, arrival) = job.order;
        let Some(group) = self.groups.get_mut(&job.demand) else { return };
        if !group.waiting.remove(&(since, job.id)) {
            return;
        }
        self.length -= 1;
        let key = (priority, job.class);
        let emptied = group.lines.get_mut(&key).is_some_and(|line| {
            line.remove(&arrival);
            line.is_empty()
        });
        if emptied {
            group.lines.remove(&key);
            if let Some(lines) = self.lines.get_mut(&job.class) {
                group.order.remove(&(priority, lines.share, job.class));
                lines.at.remove(&(Arc::clone(&job.demand), priority));
                if lines.at.is_empty() {
                    self.lines.remove(&job.class);
                }
            }
        }
        group.head = group.first();
        if group.waiting.is_empty() {
            self.groups.remove(&job.demand);
        }
    }

    /// The share of a class is another one now.
    pub(super) fn reshare(&mut self, class: ClassId, share: Share) {
        let Some(lines) = self.lines.get_mut(&class) else { return };
        let before = std::mem::replace(&mut lines.share, share);
        if before == share {
            return;
        }
        for (demand, priority) in &lines.at {
            if let Some(group) = self.groups.get_mut(demand) {
                group.order.remove(&(*priority, before, class));
                group.order.insert((*priority, share, class));
                group.head = group.first();
            }
        }
    }

    /// Looks at all groups anew, now that a worker came, went or changed its mind. The demands of which something else
    /// is to be told now.
    pub(super) fn review(&mut self, now: Instant, outlook: impl Fn(&Demand) -> Outlook) -> Vec<Arc<Demand>> {
        let mut changed = Vec::new();
        for (demand, group) in &mut self.groups {
            let fresh = outlook(demand);
            group.unserved = match fresh.reach {
                Reach::Served => None,
                Reach::Later | Reach::Never => group.unserved.or(Some(now)),
            };
            if fresh != group.outlook {
                group.outlook = fresh;
                changed.push(Arc::clone(demand));
            }
        }
        changed
    }

    /// The groups, each with what it asks for.
    pub(super) fn groups(&self) -> impl Iterator<Item = (&Demand, &Group)> {
        self.groups.iter().map(|(demand, group)| (&**demand, group))
    }

    /// The jobs of one group, in no particular order.
    pub(super) fn jobs_of(&self, demand: &Demand) -> Vec<TicketId> {
        let group = self.groups.get(demand);
        group.into_iter().flat_map(|group| group.waiting.iter().map(|(_, id)| *id)).collect()
    }

    /// Every job, group by group.
    pub(super) fn jobs(&self) -> impl Iterator<Item = TicketId> + '_ {
        self.groups.values().flat_map(|group| group.waiting.iter().map(|(_, id)| *id))
    }

    /// When the next job will have waited too long.
    pub(super) fn next_deadline(&self, config: &Config) -> Option<Instant> {
        self.groups.values().filter_map(|group| group.next_deadline(config)).min()
    }

    /// Whether something waits that nobody known can run.
    pub(super) fn is_hopeless(&self) -> bool {
        self.groups.values().any(|group| group.outlook.reach == Reach::Never)
    }

    /// The jobs that nobody known can run.
    pub(super) fn hopeless(&self) -> Vec<TicketId> {
        let hopeless = self.groups.values().filter(|group| group.outlook.reach == Reach::Never);
        hopeless.flat_map(|group| group.waiting.iter().map(|(_, id)| *id)).collect()
    }

    /// The jobs that have waited too long, and for what.
    pub(super) fn overdue(&self, now: Instant, config: &Config) -> Vec<(TicketId, Overdue)> {
        self.groups.values().flat_map(|group| group.overdue(now, config)).collect()
    }

    /// Since when the oldest job waits.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.groups.values().filter_map(Group::oldest).min()
    }
}

impl Group {
    fn first(&self) -> Option<Rank> {
        let (priority, share, class) = *self.order.first()?;
        let (arrival, _) = self.lines.get(&(priority, class))?.first_key_value()?;
        Some((priority, share, *arrival))
    }

    /// Its jobs in order.
    pub(super) fn in_order(&self) -> impl Iterator<Item = TicketId> + '_ {
        self.order.iter().flat_map(|(priority, _, class)| {
            self.lines.get(&(*priority, *class)).into_iter().flat_map(|line| line.values().copied())
        })
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Since when the oldest job waits.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.waiting.first().map(|(since, _)| *since)
    }

    fn next_deadline(&self, config: &Config) -> Option<Instant> {
        let since = self.oldest()?;
        let turn = after(since, config.max_queue_time);
        let unserved = self.unserved_since(since).map(|start| after(start, config.max_unserved_time));
        Some(unserved.map_or(turn, |unserved| unserved.min(turn)))
    }

    /// Since when this job waits for a worker that could run it.
    fn unserved_since(&self, since: Instant) -> Option<Instant> {
        self.unserved.map(|unserved| unserved.max(since))
    }

    /// Both limits come later for jobs that wait less long, so the first that is in time ends the search.
    fn overdue(&self, now: Instant, config: &Config) -> impl Iterator<Item = (TicketId, Overdue)> + '_ {
        let (unserved_limit, turn_limit) = (config.max_unserved_time, config.max_queue_time);
        self.waiting.iter().map_while(move |(since, job)| {
            let unserved = self.unserved_since(*since).map(|start| now.saturating_duration_since(start));
            if let Some(waited) = unserved.filter(|waited| *waited >= unserved_limit) {
                return Some((*job, Overdue::Worker { waited }));
            }
            let waited = now.saturating_duration_since(*since);
            (waited >= turn_limit).then_some((*job, Overdue::Turn { waited }))
        })
    }
}
