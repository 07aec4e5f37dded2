//! What actions of a kind took at each place, from executions that ended there: by mnemonic and target, else by
//! mnemonic alone. Kept in two generations, so that what is not asked for any more goes.

use mortar_model::RequestMetadata;
use std::{collections::HashMap, time::Duration};

/// Kinds that are remembered, in each of two generations.
const REMEMBERED: usize = 8_192;

/// Where an action runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this machine.
    Local,
    /// Behind the upstream.
    Remote,
}

/// Everything that was learned.
#[derive(Debug, Default)]
pub struct Costs {
    young: HashMap<Kind, Times>,
    old: HashMap<Kind, Times>,
}

/// Mnemonic and target; the target is empty where it stands for all.
type Kind = (Box<str>, Box<str>);

/// What it took lately, from the caller's point of view: with inputs, waiting and outputs.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    local: Option<Duration>,
    remote: Option<Duration>,
}

impl Times {
    fn at(&mut self, place: Place) -> &mut Option<Duration> {
        match place {
            Place::Local => &mut self.local,
            Place::Remote => &mut self.remote,
        }
    }
}

impl Costs {
    /// How long such an action is likely to take at a place; none where that is not known.
    pub fn predict(&self, request: &RequestMetadata, place: Place) -> Option<Duration> {
        let known = |target: &str| {
            let mut times = self.known(&kind(request, target))?;
            *times.at(place)
        };
        known(&request.target_id).or_else(|| known(""))
    }

    /// Takes in what one execution took. Actions without a mnemonic are of one kind.
    pub fn learn(&mut self, request: &RequestMetadata, place: Place, took: Duration) {
        self.note(kind(request, &request.target_id), place, took);
        if !request.target_id.is_empty() {
            self.note(kind(request, ""), place, took);
        }
    }

    fn known(&self, kind: &Kind) -> Option<Times> {
        self.young.get(kind).or_else(|| self.old.get(kind)).copied()
    }

    fn note(&mut self, kind: Kind, place: Place, took: Duration) {
        if self.young.len() >= REMEMBERED {
            self.old = std::mem::take(&mut self.young);
        }
        let mut times = self.known(&kind).unwrap_or_default();
        let known = times.at(place);
        *known = Some(known.map_or(took, |before| (3 * before + took) / 4));
        self.young.insert(kind, times);
    }
}

fn kind(request: &RequestMetadata, target: &str) -> Kind {
    (request.action_mnemonic.as_str().into(), target.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn request(mnemonic: &str, target: &str) -> RequestMetadata {
        RequestMetadata {
            action_mnemonic: mnemonic.into(),
            target_id: target.into(),
            ..RequestMetadata::default()
        }
    }

    #[test]
    fn a_target_is_known_by_itself_and_else_by_its_kind() {
        let mut costs = Costs::default();
        assert_eq!(costs.predict(&request("Link", "//a"), Place::Local), None);
        costs.learn(&request("Link", "//a"), Place::Local, 4 * SECOND);
        costs.learn(&request("Link", "//b"), Place::Local, 8 * SECOND);
        assert_eq!(costs.predict(&request("Link", "//a"), Place::Local), Some(4 * SECOND));
        assert_eq!(costs.predict(&request("Link", "//c"), Place::Local), Some(5 * SECOND));
        assert_eq!(costs.predict(&request("Link", "//a"), Place::Remote), None, "the places are apart");
        assert_eq!(costs.predict(&request("Compile", "//a"), Place::Local), None);
    }

    #[test]
    fn what_was_lately_counts_more() {
        let (mut costs, link) = (Costs::default(), request("Link", "//a"));
        costs.learn(&link, Place::Remote, 100 * SECOND);
        (0..40).for_each(|_| costs.learn(&link, Place::Remote, SECOND));
        assert!(costs.predict(&link, Place::Remote).unwrap() < 2 * SECOND);
    }

    #[test]
    fn memory_of_the_past_is_bounded_and_the_other_place_stays_known() {
        let (mut costs, first) = (Costs::default(), request("Test", "//first"));
        costs.learn(&first, Place::Remote, SECOND);
        for target in 0..10_000 {
            costs.learn(&request("Test", &target.to_string()), Place::Local, SECOND);
        }
        costs.learn(&first, Place::Local, 2 * SECOND);
        assert_eq!(costs.predict(&first, Place::Remote), Some(SECOND));
        (0..50_000).for_each(|n| costs.learn(&request("Test", &n.to_string()), Place::Local, SECOND));
        assert!(costs.young.len() + costs.old.len() <= 2 * REMEMBERED);
    }
}
