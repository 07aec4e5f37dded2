//! What actions of a kind needed before, from what their executions used: by mnemonic and target, else by mnemonic
//! alone. Kept in two generations, so that what is not asked for any more goes.

use super::need::Need;
use mortar_model::{ExecutionMetadata, RequestMetadata};
use std::{collections::HashMap, time::Duration};

/// Kinds that are remembered, in each of two generations.
const REMEMBERED: usize = 8_192;
/// Shorter commands tell nothing about the processors that they keep busy.
const TELLING: Duration = Duration::from_millis(100);

/// Everything that was learned.
#[derive(Debug, Default)]
pub(super) struct Learning {
    young: HashMap<Kind, Learned>,
    old: HashMap<Kind, Learned>,
}

/// Mnemonic and target; the target is empty where it stands for all.
type Kind = (Box<str>, Box<str>);

#[derive(Clone, Copy, Debug)]
struct Learned {
    /// The most lately.
    memory: u64,
    /// On average.
    cpu_millis: u64,
}

impl Learning {
    /// What such an action is likely to need; zeros where nothing is known.
    pub(super) fn need(&self, request: &RequestMetadata) -> Need {
        if request.action_mnemonic.is_empty() {
            return Need::default();
        }
        let known = |target: &str| {
            let kind = (Box::from(request.action_mnemonic.as_str()), Box::from(target));
            self.young.get(&kind).or_else(|| self.old.get(&kind))
        };
        known(&request.target_id).or_else(|| known("")).map_or(Need::default(), |learned| Need {
            cpu_millis: coarse_processors(learned.cpu_millis),
            // What was the most so far is not the most that there will be.
            memory: coarse(learned.memory.saturating_add(learned.memory / 8)),
        })
    }

    /// Takes in what one execution used.
    pub(super) fn learn(&mut self, request: &RequestMetadata, metadata: &ExecutionMetadata) {
        let Some(usage) = metadata.usage.filter(|_| !request.action_mnemonic.is_empty()) else { return };
        let took = || metadata.execution_completed?.duration_since(metadata.execution_start?).ok();
        let took = metadata.virtual_execution_duration.or_else(took).filter(|took| *took >= TELLING);
        let busy = (usage.user + usage.system).as_millis() * 1000;
        let cpu_millis = took.map(|took| u64::try_from(busy / took.as_millis()).unwrap_or(u64::MAX));
        self.note(&request.action_mnemonic, &request.target_id, usage.peak_memory, cpu_millis);
        if !request.target_id.is_empty() {
            self.note(&request.action_mnemonic, "", usage.peak_memory, cpu_millis);
        }
    }

    fn note(&mut self, mnemonic: &str, target: &str, memory: u64, cpu_millis: Option<u64>) {
        if self.young.len() >= REMEMBERED {
            self.old = std::mem::take(&mut self.young);
        }
        let kind = (Box::from(mnemonic), Box::from(target));
        let known = self.young.get(&kind).or_else(|| self.old.get(&kind)).copied();
        let learned = match known {
            None => Learned { memory, cpu_millis: cpu_millis.unwrap_or_default() },
            Some(known) => Learned {
                memory: memory.max(known.memory - known.memory / 8),
                cpu_millis: cpu_millis.map_or(known.cpu_millis, |now| match known.cpu_millis {
                    0 => now,
                    before => (3 * before + now) / 4,
                }),
            },
        };
        self.young.insert(kind, learned);
    }
}

/// In eighths of a processor, to the nearest one, and then as other amounts are: what keeps one processor busy needs one and
/// no more, so that as many run at a time as there are processors.
fn coarse_processors(millis: u64) -> u64 {
    coarse(millis.saturating_add(EIGHTH / 2) / EIGHTH).saturating_mul(EIGHTH)
}

/// An eighth of a processor, in thousandths of one.
const EIGHTH: u64 = 125;

/// Rounded up to 1, 1½, 2, 3, 4, 6, 8, 12 and so on, so that like needs are equal ones.
fn coarse(amount: u64) -> u64 {
    let Some(power) = amount.checked_next_power_of_two().filter(|_| amount > 2) else { return amount };
    let between = power / 4 * 3;
    if amount <= between { between } else { power }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mortar_model::Usage;

    fn request(mnemonic: &str, target: &str) -> RequestMetadata {
        RequestMetadata {
            action_mnemonic: mnemonic.into(),
            target_id: target.into(),
            ..RequestMetadata::default()
        }
    }

    fn used(seconds: u64, wall: u64, memory: u64) -> ExecutionMetadata {
        let usage = Usage { user: Duration::from_secs(seconds), peak_memory: memory, ..Usage::default() };
        let took = Some(Duration::from_secs(wall));
        ExecutionMetadata {
            usage: Some(usage),
            virtual_execution_duration: took,
            ..ExecutionMetadata::default()
        }
    }

    #[test]
    fn amounts_are_rounded_up_to_few() {
        let cases = [(0, 0), (1, 1), (2, 2), (3, 3), (5, 6), (7, 8), (8, 8), (9, 12), (1000, 1024)];
        for (amount, expected) in cases {
            assert_eq!(coarse(amount), expected, "{amount}");
        }
        assert_eq!(coarse(u64::MAX), u64::MAX);
    }

    #[test]
    fn one_busy_processor_is_one() {
        let cases = [(0, 0), (40, 0), (120, 125), (900, 1_000), (970, 1_000), (1_000, 1_000), (1_050, 1_000)];
        for (millis, expected) in cases.into_iter().chain([(1_200, 1_500), (2_000, 2_000), (2_300, 3_000)]) {
            assert_eq!(coarse_processors(millis), expected, "{millis}");
        }
    }

    #[test]
    fn a_target_is_known_by_itself_and_else_by_its_kind() {
        let mut learning = Learning::default();
        assert_eq!(learning.need(&request("Link", "//a")), Need::default());
        learning.learn(&request("Link", "//a"), &used(4, 2, 700));
        learning.learn(&request("Link", "//b"), &used(1, 1, 70));
        assert_eq!(learning.need(&request("Link", "//b")), Need { cpu_millis: 1_000, memory: 96 });
        let any = learning.need(&request("Link", "//c"));
        assert_eq!(any, Need { cpu_millis: 2_000, memory: 768 }, "the most that was seen lately");
        assert_eq!(learning.need(&request("", "//a")), Need::default());
        assert_eq!(learning.need(&request("Compile", "//a")), Need::default());
    }

    #[test]
    fn peaks_are_forgotten_slowly() {
        let mut learning = Learning::default();
        learning.learn(&request("Test", "//t"), &used(1, 1, 8_000));
        let need = |learning: &Learning| learning.need(&request("Test", "//t")).memory;
        learning.learn(&request("Test", "//t"), &used(1, 1, 100));
        assert!(need(&learning) > 7_000);
        (0..40).for_each(|_| learning.learn(&request("Test", "//t"), &used(1, 1, 100)));
        assert!(need(&learning) < 200);
    }

    #[test]
    fn memory_of_the_past_is_bounded() {
        let mut learning = Learning::default();
        for target in 0..50_000 {
            learning.learn(&request("Test", &target.to_string()), &used(1, 1, 100));
        }
        assert!(learning.young.len() + learning.old.len() <= 2 * REMEMBERED);
        assert_ne!(learning.need(&request("Test", "49999")), Need::default());
    }
}
