//! Look-ups that are left to the executions which follow them. Pure.
//!
//! A client looks an action up before it has it executed, and an upstream of ours looks it up again when it executes. While
//! an invocation makes everything anew, the first of the two tells nothing and costs a round trip. So, after some look-ups in a row
//! that found nothing and were followed by the execution of the action, the next ones of the same kind of action are misses
//! at once, until an execution turns out to be a hit, or fails, or the client builds an action itself.

use mortar_model::{ActionKey, Context, InstanceName};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};

/// Misses in a row that were executed, after which look-ups are left out.
const ENOUGH: u32 = 3;
/// Actions that were looked up and not executed yet. Those of a client that does not execute them stay, and end it.
const OUTSTANDING: usize = 64;
/// Kinds of actions, of all invocations, that are followed.
const FOLLOWED: usize = 256;

#[derive(Default)]
pub(crate) struct Deferrals(Mutex<Kinds>);

#[derive(Default)]
struct Kinds {
    of: HashMap<Kind, Streak>,
    /// Counts what is told.
    now: u64,
}

/// An invocation and a mnemonic.
type Kind = (InstanceName, String, String);

#[derive(Default)]
struct Streak {
    /// Misses in a row that were executed.
    executed: u32,
    /// Misses that were not executed yet, whoever said that they are misses.
    outstanding: HashSet<ActionKey>,
    /// The client builds such actions itself, or some of them.
    over: bool,
    touched: u64,
}

impl Deferrals {
    /// Whether a look-up is left to the execution that will follow.
    pub fn defers(&self, context: &Context, key: ActionKey) -> bool {
        self.told(context, |streak| {
            let defers = !streak.over && streak.executed >= ENOUGH && streak.outstanding.len() < OUTSTANDING;
            if defers {
                streak.outstanding.insert(key);
            }
            defers
        })
    }

    /// The upstream was asked and said whether it has the result.
    pub fn answered(&self, context: &Context, key: ActionKey, found: bool) {
        self.told(context, |streak| match found {
            true => streak.executed = 0,
            false if streak.outstanding.len() < OUTSTANDING => {
                streak.outstanding.insert(key);
            }
            false => {}
        });
    }

    /// The upstream is to execute an action.
    pub fn begins(&self, context: &Context, key: ActionKey) {
        self.told(context, |streak| {
            streak.executed += u32::from(streak.outstanding.remove(&key));
        });
    }

    /// An execution ended otherwise than by executing: it was a hit, or failed.
    pub fn was_not_executed(&self, context: &Context) {
        self.told(context, |streak| streak.executed = 0);
    }

    /// The client has made a result by itself.
    pub fn put(&self, context: &Context, key: ActionKey) {
        self.told(context, |streak| streak.over |= streak.outstanding.remove(&key));
    }

    /// Who does not say for which invocation he asks is not followed.
    fn told<T: Default>(&self, context: &Context, act: impl FnOnce(&mut Streak) -> T) -> T {
        let request = &context.request;
        if request.tool_invocation_id.is_empty() {
            return T::default();
        }
        let (invocation, mnemonic) = (request.tool_invocation_id.clone(), request.action_mnemonic.clone());
        let kind = (context.instance.clone(), invocation, mnemonic);
        let mut kinds = self.0.lock();
        kinds.now += 1;
        let now = kinds.now;
        if kinds.of.len() >= FOLLOWED && !kinds.of.contains_key(&kind) {
            let oldest = kinds.of.iter().min_by_key(|(_, streak)| streak.touched);
            oldest.map(|(kind, _)| kind.clone()).and_then(|oldest| kinds.of.remove(&oldest));
        }
        let streak = kinds.of.entry(kind).or_default();
        streak.touched = now;
        act(streak)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mortar_model::{DigestFunction, RequestMetadata};
    use std::sync::Arc;

    fn key(number: u8) -> ActionKey {
        ActionKey { function: DigestFunction::Sha256, hash: [number; 32] }
    }

    fn of(invocation: &str, mnemonic: &str) -> Context {
        let request = RequestMetadata {
            tool_invocation_id: invocation.into(),
            action_mnemonic: mnemonic.into(),
            ..RequestMetadata::default()
        };
        Context { request: Arc::new(request), ..Context::default() }
    }

    /// With as many executed misses behind it as it takes.
    fn warm(context: &Context) -> Deferrals {
        let deferrals = Deferrals::default();
        for number in 0..ENOUGH as u8 {
            assert!(!deferrals.defers(context, key(number)), "{number}");
            deferrals.answered(context, key(number), false);
            deferrals.begins(context, key(number));
        }
        deferrals
    }

    #[test]
    fn after_enough_misses_that_were_executed() {
        let context = of("build", "Genrule");
        let deferrals = warm(&context);
        for number in 10..100 {
            assert!(deferrals.defers(&context, key(number)), "{number}");
            deferrals.begins(&context, key(number));
        }
        for other in [of("build", "CppCompile"), of("another", "Genrule"), of("", "Genrule")] {
            assert!(!deferrals.defers(&other, key(200)), "{other:?}");
        }
    }

    #[test]
    fn until_something_says_otherwise() {
        let context = of("build", "Genrule");
        for (case, tell) in [
            ("a hit", (|it, context| it.was_not_executed(context)) as fn(&Deferrals, &Context)),
            ("a look-up that finds", |it, context| it.answered(context, key(9), true)),
            ("the client's own", |it, context| {
                assert!(it.defers(context, key(8)));
                it.put(context, key(8));
            }),
            ("never executed", |it, context| {
                for number in 0..OUTSTANDING as u8 {
                    assert!(it.defers(context, key(100 + number)));
                }
            }),
        ] {
            let deferrals = warm(&context);
            tell(&deferrals, &context);
            assert!(!deferrals.defers(&context, key(7)), "{case}");
        }
    }

    #[test]
    fn a_result_of_something_else_is_nothing() {
        let context = of("build", "Genrule");
        let deferrals = warm(&context);
        deferrals.put(&context, key(77));
        assert!(deferrals.defers(&context, key(7)));
    }

    #[test]
    fn misses_that_were_not_executed_do_not_count() {
        let (context, deferrals) = (of("build", "Genrule"), Deferrals::default());
        for number in 0..200 {
            assert!(!deferrals.defers(&context, key(number)));
            deferrals.answered(&context, key(number), false);
        }
    }
}
