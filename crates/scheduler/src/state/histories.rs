//! Random histories of clients, workers, operators, restarts and time against a second bookkeeping that only believes the
//! effects, and that holds the scheduler to its promises after every step.

mod fixture;
mod promises;
mod steps;
mod world;

use super::Wish;
use Ended::{Defect, Missing, Success};
use proptest::prelude::*;
use std::time::Instant;
use world::World;

/// One step of a history. Numbers choose among what is there, modulo how much that is.
#[derive(Clone, Debug)]
enum Step {
    Submit {
        action: u8,
        priority: i32,
        merge: bool,
        invocation: u8,
    },
    Leave(usize),
    /// Leaves, and wants an end of it.
    Cancel(usize),
    Join {
        slots: u32,
        platform: usize,
        size: u64,
        version: u32,
    },
    Lose(usize),
    /// A worker that lost its session begins another one.
    Return(usize),
    Drain(usize),
    Tend(usize, Wish),
    Progress(usize),
    Finish(usize, Ended),
    Wait {
        seconds: u64,
        heartbeats: bool,
    },
    /// Hours are gone at once, as for a process that was stopped; what is heard next may come before the tick.
    Leap {
        hours: u64,
        tick: bool,
    },
    /// The server is killed and started; its clients take their operations up, in this order of luck.
    Restart,
}

#[derive(Clone, Copy, Debug)]
enum Ended {
    Success,
    /// The worker's fault.
    Defect,
    /// The client's.
    Missing,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..6u8, -1..2i32, any::<bool>(), 0..3u8).prop_map(|(action, priority, merge, invocation)| {
            Step::Submit { action, priority, merge, invocation }
        }),
        2 => any::<usize>().prop_map(Step::Leave),
        1 => any::<usize>().prop_map(Step::Cancel),
        3 => (1..4u32, 0..4usize, 1..5u64, 1..3u32)
            .prop_map(|(slots, platform, size, version)| Step::Join { slots, platform, size, version }),
        1 => any::<usize>().prop_map(Step::Lose),
        2 => any::<usize>().prop_map(Step::Return),
        1 => any::<usize>().prop_map(Step::Drain),
        2 => (any::<usize>(), prop_oneof![Just(Wish::Pause), Just(Wish::Resume), Just(Wish::Drain)])
            .prop_map(|(which, wish)| Step::Tend(which, wish)),
        1 => any::<usize>().prop_map(Step::Progress),
        5 => (any::<usize>(), prop_oneof![3 => Just(Success), 2 => Just(Defect), 1 => Just(Missing)])
            .prop_map(|(which, ended)| Step::Finish(which, ended)),
        2 => (0..50u64, prop::bool::weighted(0.8))
            .prop_map(|(seconds, heartbeats)| Step::Wait { seconds, heartbeats }),
        1 => (1..100u64, any::<bool>()).prop_map(|(hours, tick)| Step::Leap { hours, tick }),
        1 => Just(Step::Restart),
    ]
}

fn live(start: Instant, steps: &[Step], close: bool) -> Vec<String> {
    let mut world = World::new(start);
    steps.iter().for_each(|step| world.take(step.clone()));
    world.end(close);
    world.log
}

/// As many as a build has time for; more on demand.
fn histories() -> u32 {
    std::env::var("MORTAR_HISTORIES").map_or(400, |count| count.parse().expect("a number of histories"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: histories(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn promises_are_kept(steps in prop::collection::vec(step(), 0..80), close: bool) {
        let start = Instant::now();
        let log = live(start, &steps, close);
        prop_assert_eq!(log, live(start, &steps, close), "the same history has other effects");
    }
}
