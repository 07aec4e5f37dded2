//! Who gets what room: invocations among each other, large and small actions, pools that are known and not here, workers
//! that are paused, actions that nobody waits for any more.

use super::{
    tests::{Play, action, config, outcome, platform, seconds},
    *,
};
use crate::Abandoned;
use mortar_model::{
    Context, ExecutionMetadata, RequestMetadata, Stage, Usage,
    session::{Capacity, Hello, VERSION},
};
use std::time::SystemTime;

fn of(invocation: &str, mnemonic: &str) -> Context {
    let request = RequestMetadata {
        tool_invocation_id: invocation.into(),
        action_mnemonic: mnemonic.into(),
        ..RequestMetadata::default()
    };
    Context { request: Arc::new(request), ..Context::internal() }
}

impl Play {
    fn submit_as(&mut self, invocation: &str, ticket: u64, submission: Submission) -> Vec<String> {
        self.submit_of(of(invocation, ""), ticket, submission)
    }

    fn submit_of(&mut self, context: Context, ticket: u64, submission: Submission) -> Vec<String> {
        let (ticket, queued) = (TicketId(ticket), SystemTime::UNIX_EPOCH);
        self.apply(Event::Submit(Submitted { ticket, context, submission, queued }))
    }

    fn join_sized(&mut self, worker: u64, slots: u32, cpus: u64, memory: u64) -> Vec<String> {
        let capacity = Capacity { cpu_millis: cpus * 1000, memory };
        let hello =
            Hello { version: VERSION, name: format!("w{worker}"), slots, capacity, ..Hello::default() };
        self.apply(Event::Join { worker: WorkerId(worker), hello })
    }

    fn tend(&mut self, wish: Wish) -> Vec<String> {
        self.apply(Event::Tend { worker: "w1".into(), wish })
    }
}

fn large(name: &str, cpus: u64, memory: u64) -> Submission {
    Submission { need: Need { cpu_millis: cpus * 1000, memory }, ..action(name) }
}

fn roomy() -> Config {
    Config { max_queued: 10_000, ..config() }
}

/// Which ticket was started, if one was.
fn started(effects: &[String]) -> Option<u64> {
    let run = effects.iter().find_map(|words| words.strip_prefix("run x-"))?;
    run.split('-').next()?.parse().ok()
}

#[test]
fn a_long_invocation_does_not_starve_a_short_one() {
    let mut play = Play::with(roomy());
    play.join(1, 1, "");
    for ticket in 1..=100 {
        play.submit_as("long", ticket, action(&ticket.to_string()));
    }
    for ticket in 101..=103 {
        play.submit_as("short", ticket, action(&ticket.to_string()));
    }
    let (mut order, mut runs) = (Vec::new(), 1);
    for _ in 0..8 {
        play.now += seconds(10);
        runs = started(&play.finish(1, &format!("x-{runs}-1"), Ok(outcome()))).unwrap();
        order.push(runs);
    }
    assert_eq!(order, [101, 2, 102, 3, 103, 4, 5, 6], "they take turns for as long as both wait");
}

#[test]
fn shares_are_counted_by_time_and_room_and_not_by_actions() {
    let mut play = Play::with(roomy());
    play.join(1, 1, "");
    for ticket in 1..=50 {
        play.submit_as("slow", ticket, action(&ticket.to_string()));
    }
    for ticket in 51..=100 {
        play.submit_as("quick", ticket, action(&ticket.to_string()));
    }
    let (mut served, mut runs) = ([0, 0], 1);
    for _ in 0..44 {
        let (who, takes) = if runs <= 50 { (0, 10) } else { (1, 1) };
        served[who] += takes;
        play.now += seconds(takes);
        runs = started(&play.finish(1, &format!("x-{runs}-1"), Ok(outcome()))).unwrap();
    }
    assert!(served[0].abs_diff(served[1]) <= 10, "{served:?}");
}

#[test]
fn who_holds_least_is_next_and_who_comes_back_has_saved_nothing_up() {
    let mut play = Play::with(roomy());
    play.join(1, 4, "");
    for ticket in 1..=8 {
        play.submit_as("first", ticket, action(&ticket.to_string()));
    }
    for ticket in 9..=16 {
        play.submit_as("second", ticket, action(&ticket.to_string()));
    }
    // The first has all four slots; each that ends goes to the second until they hold the same.
    assert_eq!(started(&play.finish(1, "x-1-1", Ok(outcome()))), Some(9));
    assert_eq!(started(&play.finish(1, "x-2-1", Ok(outcome()))), Some(10));
    assert_eq!(started(&play.finish(1, "x-9-1", Ok(outcome()))), Some(11));
    assert_eq!(started(&play.finish(1, "x-3-1", Ok(outcome()))), Some(5));
}

#[test]
fn priority_goes_before_fairness() {
    let mut play = Play::with(roomy());
    play.join(1, 1, "");
    play.submit_as("a", 1, action("1"));
    play.submit_as("a", 2, Submission { priority: -1, ..action("2") });
    play.submit_as("b", 3, action("3"));
    assert_eq!(started(&play.finish(1, "x-1-1", Ok(outcome()))), Some(2));
}

#[test]
fn without_an_invocation_all_of_a_tool_share_one_share() {
    let mut play = Play::with(roomy());
    play.join(1, 1, "");
    for ticket in 1..=6 {
        play.submit_as("", ticket, action(&ticket.to_string()));
    }
    play.submit_as("build", 7, action("7"));
    assert_eq!(started(&play.finish(1, "x-1-1", Ok(outcome()))), Some(7));
}

#[test]
fn classes_end_with_what_they_do() {
    let mut play = Play::with(roomy());
    play.join(1, 2, "");
    for ticket in 1..=6 {
        play.submit_as(&ticket.to_string(), ticket, action(&(ticket / 2).to_string()));
    }
    for ticket in [2, 3, 4] {
        play.leave(ticket);
    }
    for job in [1, 2, 4, 6] {
        play.finish(1, &format!("x-{job}-1"), Ok(outcome()));
    }
    assert_eq!((play.state.jobs.len(), play.state.classes.len()), (0, 0));
}

#[test]
fn a_worker_is_filled_by_need_and_slots_are_the_upper_bound() {
    let mut play = Play::with(roomy());
    play.join_sized(1, 3, 4, 100);
    assert_eq!(started(&play.submit(1, large("1", 3, 10))), Some(1));
    assert_eq!(play.submit(2, large("2", 2, 10)), ["2: queued"], "no processors left");
    assert_eq!(play.submit(3, large("3", 1, 95)), ["3: queued"], "no memory left");
    assert_eq!(started(&play.submit(4, large("4", 1, 90))), Some(4));
    assert_eq!(started(&play.submit(5, action("5"))), Some(5), "it says nothing of its needs");
    assert_eq!(play.submit(6, action("6")), ["6: queued"], "no slot left");
    assert_eq!(started(&play.finish(1, "x-5-1", Ok(outcome()))), Some(6));
    assert_eq!(started(&play.finish(1, "x-1-1", Ok(outcome()))), Some(2));
    assert_eq!(started(&play.finish(1, "x-2-1", Ok(outcome()))), None);
    assert_eq!(started(&play.finish(1, "x-4-1", Ok(outcome()))), Some(3));
}

#[test]
fn what_is_larger_than_any_worker_is_refused_with_the_numbers() {
    let mut play = Play::with(roomy());
    play.join_sized(1, 3, 4, 1 << 30);
    play.join_sized(2, 3, 8, 1 << 20);
    play.now += seconds(40);
    let cases = [
        (large("a", 9, 0), "`w2`, has 8 of the 9 processors"),
        (large("a", 1, 1 << 31), "`w1`, has 1073741824 of the 2147483648 bytes of memory"),
        (large("a", 8, 1 << 30), "`w2`, has 1048576 of the 1073741824 bytes of memory"),
    ];
    for (ticket, (asked, expected)) in cases.into_iter().enumerate() {
        let refused = play.submit(ticket as u64, asked);
        assert!(refused[0].ends_with(expected), "{refused:?}");
    }
}

#[test]
fn small_ones_pass_a_large_one_but_not_for_ever() {
    let mut play = Play::with(Config { patience: seconds(10), ..roomy() });
    play.join_sized(1, 4, 4, 100);
    for ticket in 1..=8 {
        play.submit(ticket, large(&ticket.to_string(), 1, 0));
    }
    play.submit(9, Submission { priority: -1, ..large("9", 4, 0) });
    assert_eq!(started(&play.finish(1, "x-1-1", Ok(outcome()))), Some(5), "it needs more than that");
    play.now += seconds(10);
    for ended in [2, 3, 4] {
        assert_eq!(started(&play.finish(1, &format!("x-{ended}-1"), Ok(outcome()))), None, "kept free");
    }
    assert_eq!(started(&play.finish(1, "x-5-1", Ok(outcome()))), Some(9));
}

#[test]
fn needs_are_learned_and_never_more_than_there_is() {
    let mut play = Play::with(roomy());
    play.join_sized(1, 3, 2, 1000);
    let ended = |seconds_used: u64, memory: u64| {
        let usage = Usage { user: seconds(seconds_used), peak_memory: memory, ..Usage::default() };
        let mut outcome = outcome();
        outcome.result.metadata = ExecutionMetadata {
            usage: Some(usage),
            virtual_execution_duration: Some(seconds(10)),
            ..ExecutionMetadata::default()
        };
        Ok(outcome)
    };
    play.submit_of(of("i", "Link"), 1, action("1"));
    play.finish(1, "x-1-1", ended(8, 500));
    assert_eq!(started(&play.submit_of(of("i", "Link"), 2, action("2"))), Some(2));
    assert_eq!(play.submit_of(of("i", "Link"), 3, action("3")), ["3: queued"], "it needs more than half");
    assert_eq!(started(&play.submit_of(of("i", "Compile"), 4, action("4"))), Some(4), "that is not known");
    play.finish(1, "x-4-1", ended(1, 1));
    assert_eq!(started(&play.finish(1, "x-2-1", ended(200, 5000))), Some(3));
    play.submit_of(of("i", "Link"), 5, action("5"));
    assert_eq!(started(&play.finish(1, "x-3-1", ended(8, 5000))), Some(5), "an idle worker takes it anyhow");
}

#[test]
fn properties_match_by_value_by_set_by_any_and_not_at_all() {
    let ignored_properties = ["docker-flags".to_owned()].into();
    let config = Config { ignored_properties, ..roomy() };
    let cases = [
        ("os=linux", "os=linux os=bsd", true),
        ("os=bsd", "os=linux os=bsd", true),
        ("os=plan9", "os=linux os=bsd", false),
        ("pool=anything", "pool=*", true),
        ("pool=*", "pool=a", false),
        ("docker-flags=x os=linux", "os=linux", true),
        ("docker-flags=x", "docker-flags=y", true),
    ];
    for (wanted, offered, fits) in cases {
        let mut play = Play::with(config.clone());
        play.join(1, 1, offered);
        let effects = play.submit(1, Submission { platform: platform(wanted), ..action("a") });
        assert_eq!(started(&effects).is_some(), fits, "`{wanted}` on `{offered}`");
    }
}

#[test]
fn a_pool_that_is_known_and_empty_is_waited_for_with_a_bound() {
    let arm = || Submission { platform: platform("cpu=arm"), ..action("a") };
    let pool = KnownPool { name: "arms".into(), platform: platform("cpu=arm"), ..KnownPool::default() };
    let configured = Play::with(Config { pools: vec![pool.clone()], ..roomy() });
    let now = configured.now;
    let seen = Play { state: State::new(now, roomy(), "x", vec![pool]), now };
    for mut play in [configured, seen] {
        play.now += seconds(100);
        let effects = play.state.apply(
            play.now,
            Event::Submit(Submitted {
                ticket: TicketId(1),
                context: Context::internal(),
                submission: arm(),
                queued: SystemTime::UNIX_EPOCH,
            }),
        );
        let [Effect::Tell { update: Update::Progress(Stage::Queued, metadata), .. }] = &effects[..] else {
            panic!("{effects:?}");
        };
        let waiting = metadata.waiting.as_ref().unwrap();
        assert_eq!(&*waiting.reason, "no worker of pool `arms`, which could run it, is connected");
        assert_eq!((waiting.ahead, waiting.since), (0, SystemTime::UNIX_EPOCH));
        assert_eq!(play.wait(59), [""; 0]);
        assert!(play.wait(1)[0].contains("waited 60s but no worker of pool `arms`"));
        play.submit(2, arm());
        assert_eq!(started(&play.join(1, 1, "cpu=arm")), Some(2));
    }
}

#[test]
fn pools_are_remembered_when_there_is_something_new_in_them() {
    let mut play = Play::with(roomy());
    let mut joins = |worker, cpus: u64, slots| {
        let capacity = Capacity { cpu_millis: cpus * 1000, memory: 5 };
        let hello = Hello { version: VERSION, name: "w".into(), slots, capacity, ..Hello::default() };
        let effects = play.state.apply(play.now, Event::Join { worker: WorkerId(worker), hello });
        effects.into_iter().find_map(|effect| match effect {
            Effect::Remember(pools) => Some(pools.iter().map(|pool| pool.capacity.cpu_millis).collect()),
            _ => None,
        })
    };
    assert_eq!(joins(1, 4, 1), Some(vec![4000]));
    assert_eq!(joins(2, 4, 2), None);
    assert_eq!(joins(3, 6, 1), Some(vec![6000]));
    assert_eq!(joins(4, 2, 1), None);
}

#[test]
fn who_waits_is_told_when_the_reason_is_another() {
    let mut play = Play::with(roomy());
    play.join(1, 1, "");
    play.submit(1, action("1"));
    play.submit(2, action("2"));
    let reason = |effects: &[Effect]| match effects {
        [Effect::Tell { ticket: TicketId(2), update: Update::Progress(Stage::Queued, metadata) }] => {
            metadata.waiting.as_ref().unwrap().reason.to_string()
        }
        other => panic!("{other:?}"),
    };
    let mut tend = |wish| play.state.apply(play.now, Event::Tend { worker: "w1".into(), wish });
    assert_eq!(reason(&tend(Wish::Pause)), "every worker that could run it is paused, such as `w1`");
    assert!(reason(&tend(Wish::Resume)).starts_with("it waits for its turn"));
    assert!(tend(Wish::Resume).is_empty(), "nothing is new");
}

#[test]
fn a_paused_worker_finishes_and_takes_nothing_until_it_is_resumed() {
    let mut play = Play::new();
    play.join(1, 2, "");
    play.submit(1, action("1"));
    assert_eq!(play.tend(Wish::Pause), [""; 0]);
    assert_eq!(play.submit(2, action("2")), ["2: queued"]);
    assert_eq!(play.finish(1, "x-1-1", Ok(outcome())), ["1: done"]);
    play.lose(1);
    let again = Hello { version: VERSION, name: "w1".into(), slots: 1, ..Hello::default() };
    let joined = play.apply(Event::Join { worker: WorkerId(2), hello: again });
    assert_eq!(started(&joined), None, "it is paused by its name");
    assert_eq!(started(&play.tend(Wish::Resume)), Some(2));
    assert!(!play.state.knows_worker("w2"));
}

#[test]
fn a_drained_worker_is_told_to_leave_if_it_can_be() {
    for (version, told) in [(1, false), (2, true)] {
        let mut play = Play::new();
        let hello = Hello { version, name: "w1".into(), slots: 2, ..Hello::default() };
        play.apply(Event::Join { worker: WorkerId(1), hello });
        play.submit(1, action("1"));
        assert_eq!(play.tend(Wish::Drain), vec!["drain 1"; usize::from(told)]);
        assert_eq!(play.submit(2, action("2")), ["2: queued"]);
        assert_eq!(play.finish(1, "x-1-1", Ok(outcome())), ["1: done"]);
    }
}

#[test]
fn what_nobody_waits_for_may_finish_while_its_invocation_goes_on_and_nothing_needs_its_room() {
    let play = |abandoned| {
        let mut play = Play::with(Config { abandoned, ..roomy() });
        play.join(1, 2, "");
        play.submit_as("i", 1, action("1"));
        play.submit_as("i", 2, action("2"));
        play
    };
    let cancelled = ["cancel x-1-1 on 1"];
    assert_eq!(play(Abandoned::Cancel).leave(1), cancelled);

    let mut finishing = play(Abandoned::FinishWhenIdle);
    assert_eq!(finishing.leave(1), [""; 0]);
    assert_eq!(finishing.finish(1, "x-1-1", Ok(outcome())), [""; 0]);
    assert_eq!(finishing.state.counters.executed, 1);

    let mut in_the_way = play(Abandoned::FinishWhenIdle);
    assert_eq!(in_the_way.leave(1), [""; 0]);
    assert_eq!(in_the_way.submit_as("i", 3, action("3")), ["3: queued", cancelled[0]]);

    let mut waited_for = play(Abandoned::FinishWhenIdle);
    waited_for.submit_as("i", 3, action("3"));
    assert_eq!(waited_for.leave(1), cancelled, "the third waits for its room");

    let mut over = play(Abandoned::FinishWhenIdle);
    assert_eq!(over.leave(1), [""; 0]);
    let mut ends = over.leave(2);
    ends.sort();
    assert_eq!(ends, ["cancel x-1-1 on 1", "cancel x-2-1 on 1"], "its user wants nothing to run any more");

    let mut unwanted = play(Abandoned::FinishWhenIdle);
    assert_eq!(unwanted.cancel(1), cancelled, "somebody asked for its end");
    assert_eq!(unwanted.state.counters.cancelled, 1);

    let mut shared = play(Abandoned::FinishWhenIdle);
    shared.submit_as("j", 3, action("1"));
    assert_eq!(shared.cancel(1), [""; 0], "another waits for it");
    assert_eq!(shared.finish(1, "x-1-1", Ok(outcome())), ["3: done"]);

    let mut joined = play(Abandoned::FinishWhenIdle);
    joined.leave(1);
    assert_eq!(joined.submit_as("j", 3, action("1")), ["3: on w1"]);
    joined.leave(2);
    assert_eq!(joined.finish(1, "x-1-1", Ok(outcome())), ["3: done"]);

    let mut lost = play(Abandoned::FinishWhenIdle);
    lost.leave(1);
    assert_eq!(lost.lose(1), ["disconnect 1", "2: queued"], "it is not tried again");
    assert_eq!(lost.state.jobs.len(), 1);
}
