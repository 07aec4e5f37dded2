//! The books of what is owed: what is to be paid next, and what waits for what. No I/O, no waiting.

use super::report::Refused;
use mortar_model::{ActionKey, Digest, Error, InstanceName, Result};
use mortar_store::Owed;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    time::SystemTime,
};

/// Refusals that are told.
const TOLD: usize = 100;
/// Blobs above this are paid apart from the others.
const SMALL: u64 = 64 << 10;

/// Something that is owed.
#[derive(Clone, Debug)]
pub(crate) struct Debt {
    pub number: u64,
    pub instance: InstanceName,
    pub owed: Owed,
    pub since: SystemTime,
    /// How often it was tried in vain though the upstream was there.
    pub attempts: u32,
}

/// Its bytes.
pub(super) fn size(owed: &Owed) -> u64 {
    match owed {
        Owed::Blob(digest) => digest.size(),
        Owed::Result { bytes, closure, .. } => (bytes.len() + closure.len() * 41) as u64,
    }
}

/// Who pays a debt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Blobs that travel together.
    Small,
    /// Blobs that travel alone.
    Large,
    /// Results.
    Result,
}

impl Kind {
    fn of(owed: &Owed) -> Self {
        match owed {
            Owed::Blob(digest) if digest.size() <= SMALL => Self::Small,
            Owed::Blob(_) => Self::Large,
            Owed::Result { .. } => Self::Result,
        }
    }
}

/// What one upstream is owed.
#[derive(Default)]
struct Lane {
    /// Everything, by its number.
    debts: BTreeMap<u64, Debt>,
    /// What can be paid now, by who pays it.
    ready: [BTreeSet<u64>; 3],
    /// What is being paid.
    under_way: HashSet<u64>,
}

pub(super) struct State {
    /// With what is on its way into the books.
    pub entries: u64,
    pub bytes: u64,
    lanes: Vec<Lane>,
    blobs: HashMap<(InstanceName, Digest), u64>,
    /// Results that wait for a blob.
    waiting: HashMap<(InstanceName, Digest), Vec<u64>>,
    /// For how much a result waits: blobs, or an older result of the same action that is being sent.
    holes: HashMap<u64, usize>,
    /// The newest result of each action.
    latest: HashMap<(InstanceName, ActionKey), u64>,
    /// Newer results of actions whose older ones are being sent.
    behind: HashMap<u64, u64>,
    refused: VecDeque<(u64, Refused)>,
    /// Why the last ones were refused, for those who wait for them.
    outcomes: VecDeque<(u64, mortar_model::Kind)>,
    /// Refusals up to here were told by a flush.
    pub flushed: u64,
    refusals: u64,
}

impl State {
    pub fn new(upstreams: usize) -> Self {
        Self {
            entries: 0,
            bytes: 0,
            lanes: (0..upstreams).map(|_| Lane::default()).collect(),
            blobs: HashMap::new(),
            waiting: HashMap::new(),
            holes: HashMap::new(),
            latest: HashMap::new(),
            behind: HashMap::new(),
            refused: VecDeque::new(),
            outcomes: VecDeque::new(),
            flushed: 0,
            refusals: 0,
        }
    }

    /// Under which number a blob is owed.
    pub fn blob(&self, instance: &InstanceName, digest: Digest) -> Option<u64> {
        self.blobs.get(&(instance.clone(), digest)).copied()
    }

    /// Takes a debt in. The numbers of those that need not be paid any more, because of this one.
    pub fn enter(&mut self, upstream: usize, debt: Debt) -> Vec<u64> {
        let mut superseded = Vec::new();
        let mut holes = 0;
        match &debt.owed {
            Owed::Blob(digest) => {
                if let Some(known) = self.blobs.insert((debt.instance.clone(), *digest), debt.number) {
                    superseded.extend(self.drop_debt(upstream, known));
                }
            }
            Owed::Result { key, closure, .. } => {
                for digest in closure.iter() {
                    let blob = (debt.instance.clone(), digest);
                    if self.blobs.contains_key(&blob) {
                        self.waiting.entry(blob).or_default().push(debt.number);
                        holes += 1;
                    }
                }
                let action = (debt.instance.clone(), *key);
                if let Some(older) = self.latest.insert(action, debt.number) {
                    if self.lanes[upstream].under_way.contains(&older) {
                        self.behind.insert(older, debt.number);
                        holes += 1;
                    } else {
                        superseded.extend(self.drop_debt(upstream, older));
                    }
                }
            }
        }
        self.entries += 1;
        self.bytes += size(&debt.owed);
        let lane = &mut self.lanes[upstream];
        match holes {
            0 => {
                lane.ready[Kind::of(&debt.owed) as usize].insert(debt.number);
            }
            holes => {
                self.holes.insert(debt.number, holes);
            }
        }
        lane.debts.insert(debt.number, debt);
        superseded
    }

    fn drop_debt(&mut self, upstream: usize, number: u64) -> Option<u64> {
        let lane = &mut self.lanes[upstream];
        let debt = lane.debts.remove(&number)?;
        for ready in &mut lane.ready {
            ready.remove(&number);
        }
        self.holes.remove(&number);
        self.entries -= 1;
        self.bytes -= size(&debt.owed);
        Some(number)
    }

    /// Whether there is something to be paid.
    pub fn is_ready(&self, upstream: usize, kind: Kind) -> bool {
        !self.lanes[upstream].ready[kind as usize].is_empty()
    }

    /// Takes up to `most` debts to be paid, all of one instance, in their order.
    pub fn take(&mut self, upstream: usize, kind: Kind, most: usize) -> Vec<Debt> {
        let lane = &mut self.lanes[upstream];
        let first = lane.ready[kind as usize].first().and_then(|number| lane.debts.get(number));
        let Some(instance) = first.map(|debt| debt.instance.clone()) else { return Vec::new() };
        let ready = lane.ready[kind as usize].iter().filter_map(|number| lane.debts.get(number));
        let taken: Vec<Debt> =
            ready.take_while(|debt| debt.instance == instance).take(most).cloned().collect();
        for debt in &taken {
            lane.ready[kind as usize].remove(&debt.number);
            lane.under_way.insert(debt.number);
        }
        taken
    }

    /// A debt could not be paid now.
    pub fn give_back(&mut self, upstream: usize, debt: &Debt) {
        let lane = &mut self.lanes[upstream];
        lane.under_way.remove(&debt.number);
        if let Some(kept) = lane.debts.get_mut(&debt.number) {
            kept.attempts = debt.attempts;
            lane.ready[Kind::of(&debt.owed) as usize].insert(debt.number);
        }
    }

    /// A debt is no more: what waited for it goes on.
    pub fn leave(&mut self, upstream: usize, debt: &Debt) {
        self.lanes[upstream].under_way.remove(&debt.number);
        if self.drop_debt(upstream, debt.number).is_none() {
            return;
        }
        let mut freed = Vec::new();
        match &debt.owed {
            Owed::Blob(digest) => {
                let blob = (debt.instance.clone(), *digest);
                if self.blobs.get(&blob) == Some(&debt.number) {
                    self.blobs.remove(&blob);
                }
                freed.extend(self.waiting.remove(&blob).unwrap_or_default());
            }
            Owed::Result { key, .. } => {
                let action = (debt.instance.clone(), *key);
                if self.latest.get(&action) == Some(&debt.number) {
                    self.latest.remove(&action);
                }
                freed.extend(self.behind.remove(&debt.number));
            }
        }
        for number in freed {
            self.fill_hole(upstream, number);
        }
    }

    fn fill_hole(&mut self, upstream: usize, number: u64) {
        let Some(holes) = self.holes.get_mut(&number) else { return };
        *holes -= 1;
        if *holes == 0 {
            self.holes.remove(&number);
            self.lanes[upstream].ready[Kind::Result as usize].insert(number);
        }
    }

    /// Whether anything up to this number is owed.
    pub fn owes_up_to(&self, last: u64) -> bool {
        self.lanes.iter().any(|lane| lane.debts.keys().next().is_some_and(|first| *first <= last))
    }

    /// What is owed to one upstream, or to all, up to a number.
    pub fn debts(&self, upstream: Option<usize>, last: u64) -> impl Iterator<Item = &Debt> {
        let lanes = self.lanes.iter().enumerate();
        let asked = lanes.filter(move |(index, _)| upstream.is_none_or(|upstream| upstream == *index));
        asked.flat_map(move |(_, lane)| lane.debts.range(..=last).map(|(_, debt)| debt))
    }

    /// Takes note of a refusal. Whether it is the first since the last flush.
    pub fn note_refusal(&mut self, number: u64, refused: Refused, why: &Error) -> bool {
        self.refusals += 1;
        let first = self.refused.iter().all(|(at, _)| *at <= self.flushed);
        self.refused.push_back((self.refusals, refused));
        self.outcomes.push_back((number, why.kind().clone()));
        if self.refused.len() > TOLD {
            self.refused.pop_front();
            self.outcomes.pop_front();
        }
        first
    }

    /// How a debt ended; none while it is owed.
    pub fn outcome(&self, number: u64) -> Option<Result<()>> {
        if self.lanes.iter().any(|lane| lane.debts.contains_key(&number)) {
            return None;
        }
        let refused = self.outcomes.iter().find(|(refused, _)| *refused == number);
        Some(refused.map_or(Ok(()), |(_, why)| Err(Error::new(why.clone()))))
    }

    pub fn refused(&self) -> Vec<Refused> {
        self.refused.iter().map(|(_, refused)| refused.clone()).collect()
    }

    /// Those since the flush before.
    pub fn flush_refused(&mut self) -> Vec<Refused> {
        let flushed = std::mem::replace(&mut self.flushed, self.refusals);
        self.refused.iter().filter(|(at, _)| *at > flushed).map(|(_, refused)| refused.clone()).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use mortar_model::{DigestFunction, DigestSet};
    use std::sync::Arc;

    const NONE: [u64; 0] = [];

    fn digest(name: &str) -> Digest {
        Digest::of(DigestFunction::Sha256, name.as_bytes())
    }

    fn debt(number: u64, owed: Owed) -> Debt {
        Debt { number, instance: InstanceName::default(), owed, since: SystemTime::UNIX_EPOCH, attempts: 0 }
    }

    fn blob(number: u64, name: &str) -> Debt {
        debt(number, Owed::Blob(digest(name)))
    }

    fn result(number: u64, action: &str, needs: &[&str]) -> Debt {
        let closure: DigestSet = needs.iter().map(|name| digest(name)).collect();
        let key = ActionKey::from(digest(action));
        debt(number, Owed::Result { key, bytes: bytes::Bytes::new(), closure: Arc::new(closure) })
    }

    fn numbers(debts: &[Debt]) -> Vec<u64> {
        debts.iter().map(|debt| debt.number).collect()
    }

    #[test]
    fn a_result_waits_for_the_blobs_that_are_owed() {
        let mut state = State::new(1);
        for debt in
            [blob(1, "a"), result(2, "x", &["a", "b", "elsewhere"]), blob(3, "b"), result(4, "y", &["b"])]
        {
            assert_eq!(state.enter(0, debt), NONE);
        }
        // `b` was not owed when the first result came; it is asked for when the result is sent.
        assert_eq!(numbers(&state.take(0, Kind::Result, 9)), NONE);
        let blobs = state.take(0, Kind::Small, 9);
        assert_eq!(numbers(&blobs), [1, 3]);
        state.give_back(0, &blobs[1]);
        state.leave(0, &blobs[0]);
        assert_eq!(numbers(&state.take(0, Kind::Result, 9)), [2]);
        assert_eq!(numbers(&state.take(0, Kind::Small, 9)), [3]);
        state.leave(0, &blobs[1]);
        assert_eq!(numbers(&state.take(0, Kind::Result, 9)), [4]);
    }

    #[test]
    fn a_newer_result_takes_the_place_of_an_older_one_and_never_passes_it() {
        let mut state = State::new(1);
        assert_eq!(state.enter(0, result(1, "x", &[])), NONE);
        assert_eq!(state.enter(0, result(2, "x", &[])), [1]);
        let sending = state.take(0, Kind::Result, 9);
        assert_eq!(numbers(&sending), [2]);
        assert_eq!(state.enter(0, result(3, "x", &[])), NONE);
        assert_eq!(numbers(&state.take(0, Kind::Result, 9)), NONE);
        state.leave(0, &sending[0]);
        assert_eq!(numbers(&state.take(0, Kind::Result, 9)), [3]);
        assert_eq!((state.entries, state.owes_up_to(2), state.owes_up_to(3)), (1, false, true));
    }

    #[test]
    fn instances_are_paid_apart() {
        let mut state = State::new(1);
        let other = Debt { instance: InstanceName::parse("other").unwrap(), ..blob(2, "a") };
        for debt in [blob(1, "a"), other, blob(3, "b")] {
            state.enter(0, debt);
        }
        for expected in [1, 2, 3] {
            let taken = state.take(0, Kind::Small, 9);
            assert_eq!(numbers(&taken), [expected]);
            state.leave(0, &taken[0]);
        }
        assert_eq!((state.entries, state.bytes), (0, 0));
    }
}
