//! Small histories with known effects, told in words: `run 1 on a`, `1: queued`, `1: done`.

use super::*;
use crate::Submission;
use mortar_model::{
    ActionResult, Context, Digest, DigestFunction, Error, ExecutionMetadata, InstanceName, Kind, Outcome,
    Platform, Stage, Termination,
    session::{self, ExecutionId, Hello},
};
use std::time::SystemTime;

/// A state, and the effects of the last event in words.
pub(super) struct Play {
    pub(super) state: State,
    pub(super) now: Instant,
}

pub(super) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn config() -> Config {
    Config {
        max_queued: 3,
        max_queue_time: seconds(300),
        max_unserved_time: seconds(60),
        start_grace: seconds(40),
        max_attempts: 3,
        heartbeat_interval: seconds(100),
        ..Config::default()
    }
}

pub(super) fn platform(words: &str) -> Platform {
    let pairs = words.split_whitespace().filter_map(|word| word.split_once('='));
    Platform::new(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())))
}

pub(super) fn action(name: &str) -> Submission {
    let action_digest = Digest::of(DigestFunction::Sha256, name.as_bytes());
    Submission {
        action_digest,
        platform: Platform::default(),
        priority: 0,
        merge: true,
        need: Need::default(),
    }
}

pub(super) fn outcome() -> Outcome {
    Outcome {
        result: ActionResult::default(),
        cached: false,
        termination: Termination::Exited,
        message: String::new(),
        server_logs: Vec::new(),
    }
}

impl Play {
    pub(super) fn new() -> Self {
        Self::with(config())
    }

    pub(super) fn with(config: Config) -> Self {
        let now = Instant::now();
        Self { state: State::new(now, config, "x", Vec::new()), now }
    }

    pub(super) fn apply(&mut self, event: Event) -> Vec<String> {
        let effects = self.state.apply(self.now, event);
        effects.iter().filter_map(|effect| self.words(effect)).collect()
    }

    pub(super) fn words(&self, effect: &Effect) -> Option<String> {
        Some(match effect {
            Effect::Tell { ticket, update: Update::Progress(Stage::Queued, at) } => {
                assert_eq!(at.worker, "", "no worker has it");
                format!("{ticket}: queued")
            }
            Effect::Tell { ticket, update: Update::Progress(_, at) } => format!("{ticket}: on {}", at.worker),
            Effect::Tell { ticket, update: Update::Done(Ok(done)) } => {
                format!("{ticket}: done {}", done.message).trim_end().to_owned()
            }
            Effect::Tell { ticket, update: Update::Done(Err(failure)) } => format!("{ticket}: {failure}"),
            Effect::Send { worker, message } => match &**message {
                ToWorker::Run(run) => format!("run {} on {}", run.execution, worker.0),
                ToWorker::Cancel(execution) => format!("cancel {execution} on {}", worker.0),
                ToWorker::Heartbeat => format!("beat {}", worker.0),
                ToWorker::Drain => format!("drain {}", worker.0),
                ToWorker::Welcome { .. } | ToWorker::Delivered(_) | ToWorker::ReadLog(_) => return None,
            },
            Effect::Disconnect { worker, .. } => format!("disconnect {}", worker.0),
            Effect::Remember(_) => return None,
        })
    }

    pub(super) fn submit(&mut self, ticket: u64, submission: Submission) -> Vec<String> {
        self.submit_in("", ticket, submission)
    }

    pub(super) fn submit_in(&mut self, instance: &str, ticket: u64, submission: Submission) -> Vec<String> {
        let context = Context::internal().with_instance(InstanceName::parse(instance).unwrap());
        let ticket = TicketId(ticket);
        self.apply(Event::Submit(Submitted { ticket, context, submission, queued: SystemTime::UNIX_EPOCH }))
    }

    pub(super) fn join(&mut self, worker: u64, slots: u32, offer: &str) -> Vec<String> {
        let name = format!("w{worker}");
        let platform = platform(offer);
        let hello = Hello { version: session::VERSION, name, slots, platform, ..Hello::default() };
        self.apply(Event::Join { worker: WorkerId(worker), hello })
    }

    pub(super) fn heard(&mut self, worker: u64, message: FromWorker) -> Vec<String> {
        self.apply(Event::Heard { worker: WorkerId(worker), message: Box::new(message) })
    }

    pub(super) fn finish(
        &mut self,
        worker: u64,
        execution: &str,
        outcome: Result<Outcome, Error>,
    ) -> Vec<String> {
        self.heard(
            worker,
            FromWorker::Finished { execution: ExecutionId(execution.into()), outcome: Box::new(outcome) },
        )
    }

    pub(super) fn lose(&mut self, worker: u64) -> Vec<String> {
        self.apply(Event::Lost { worker: WorkerId(worker), loss: Loss::Disconnected })
    }

    pub(super) fn leave(&mut self, ticket: u64) -> Vec<String> {
        self.apply(Event::Leave(TicketId(ticket)))
    }

    pub(super) fn cancel(&mut self, ticket: u64) -> Vec<String> {
        self.apply(Event::Cancel(TicketId(ticket)))
    }

    pub(super) fn wait(&mut self, secs: u64) -> Vec<String> {
        self.now += seconds(secs);
        self.apply(Event::Tick)
    }
}

#[test]
fn an_action_waits_runs_and_ends() {
    let mut play = Play::new();
    assert_eq!(play.submit(1, action("a")), ["1: queued"]);
    assert_eq!(play.join(1, 1, ""), ["run x-1-1 on 1", "1: on w1"]);
    assert_eq!(play.submit(2, action("b")), ["2: queued"]);
    assert_eq!(play.finish(1, "x-1-1", Ok(outcome())), ["1: done", "run x-2-1 on 1", "2: on w1"]);
    assert_eq!(play.finish(1, "x-2-1", Ok(outcome())), ["2: done"]);
    assert_eq!(play.finish(1, "x-2-1", Ok(outcome())), [""; 0], "once is enough");
    assert_eq!(play.state.counters.executed, 2);
}

#[test]
fn identical_actions_are_merged_within_an_instance() {
    let mut play = Play::new();
    play.join(1, 1, "");
    play.submit(1, action("a"));
    assert_eq!(play.submit(2, action("a")), ["2: on w1"]);
    assert_eq!(play.submit_in("other", 3, action("a")), ["3: queued"]);
    assert_eq!(play.submit(4, Submission { merge: false, ..action("a") }), ["4: queued"]);
    let ends = play.finish(1, "x-1-1", Ok(outcome()));
    assert_eq!(ends, ["1: done", "2: done", "run x-3-1 on 1", "3: on w1"]);
    assert_eq!(play.submit(5, action("a")), ["5: queued"], "what is over is not joined");
    assert_eq!(play.state.counters.merged, 1);
}

#[test]
fn order_is_priority_then_arrival_and_a_merge_can_only_hasten() {
    let mut play = Play::new();
    for (ticket, name, priority) in [(1, "late", 5), (2, "a", 0), (3, "b", 0)] {
        play.submit(ticket, Submission { priority, ..action(name) });
    }
    play.submit(4, Submission { priority: -1, ..action("b") });
    play.submit(5, Submission { priority: 9, ..action("a") });
    let starts: Vec<_> = play.join(1, 3, "").into_iter().filter(|words| words.starts_with("run")).collect();
    assert_eq!(starts, ["run x-3-1 on 1", "run x-2-1 on 1", "run x-1-1 on 1"]);
}

#[test]
fn work_goes_to_the_least_loaded_then_round_robin() {
    let mut play = Play::new();
    play.join(1, 4, "");
    play.join(2, 2, "");
    let mut order = String::new();
    for ticket in 1..=6 {
        let effects = play.submit(ticket, action(&ticket.to_string()));
        order.push(effects[1].chars().last().unwrap());
    }
    assert_eq!(order, "121211");
    let mut even = Play::new();
    even.join(1, 1, "");
    even.join(2, 1, "");
    for ticket in 1..=4 {
        let worker = 2 - ticket % 2;
        let started = format!("run x-{ticket}-1 on {worker}");
        assert_eq!(even.submit(ticket, action("a"))[1], started, "an idle worker waits its turn");
        even.finish(worker, &format!("x-{ticket}-1"), Ok(outcome()));
    }
}

#[test]
fn platforms_must_match_exactly() {
    let cases = [
        ("", "", true),
        ("", "os=linux", true),
        ("os=linux", "os=linux cpu=x86", true),
        ("os=linux", "", false),
        ("os=linux", "os=Linux", false),
        ("os=linux cpu=arm", "os=linux cpu=x86", false),
        ("image=a", "image=a image=b", true),
        ("image=a image=b", "image=a", false),
    ];
    for (wanted, offered, fits) in cases {
        let mut play = Play::new();
        play.join(1, 1, offered);
        let effects = play.submit(1, Submission { platform: platform(wanted), ..action("a") });
        assert_eq!(effects.len() == 3, fits, "`{wanted}` on `{offered}`");
    }
}

#[test]
fn images_are_matched_by_what_workers_announce() {
    let hash = "0123456789abcdef".repeat(4);
    let by_digest = format!("docker://debian@sha256:{hash}");
    for (wanted, fits) in
        [("debian:12", true), ("docker://debian:12", true), (&*by_digest, true), ("debian", false)]
    {
        let mut play = Play::new();
        let images = vec![format!("debian:12@sha256:{hash}")];
        let (version, name, offer) = (session::VERSION, "w1".to_owned(), platform("os=linux"));
        let hello = Hello { images, version, name, slots: 1, platform: offer, ..Hello::default() };
        play.apply(Event::Join { worker: WorkerId(1), hello });
        let wanted = platform(&format!("container-image={wanted}"));
        let effects = play.submit(1, Submission { platform: wanted, ..action("a") });
        assert_eq!(effects.len() == 3, fits, "{effects:?}");
        if !fits {
            let refusal = play.wait(40).concat();
            let expected = "lacks `container-image=debian` (it has `container-image=debian:12`, ";
            assert!(refusal.contains(expected), "{refusal}");
        }
    }
}

#[test]
fn what_no_pool_can_run_is_refused_after_the_grace_at_start_and_explained() {
    let nearest = "no pool offers what it asks for: the nearest,";
    let cases: [(&[&str], String); 4] = [
        (&[], "no worker is connected, and no pool is known".to_owned()),
        (&["os=linux cpu=x86", "os=linux"], format!("{nearest} `w1`, lacks `cpu=arm` (it has `cpu=x86`)")),
        (&["os=linux"], format!("{nearest} `w1`, lacks `cpu=arm`")),
        (&["", "os=plan9"], format!("{nearest} `w1`, lacks `cpu=arm`, `os=linux`")),
    ];
    for (offers, expected) in cases {
        let asked = || Submission { platform: platform("os=linux cpu=arm"), ..action("a") };
        let expected = format!("action `{}` cannot be run here: {expected}", asked().action_digest);
        let mut play = Play::new();
        for (number, offer) in offers.iter().enumerate() {
            play.join(number as u64 + 1, 1, offer);
        }
        assert_eq!(play.submit(1, asked()), ["1: queued"]);
        assert_eq!(play.wait(39), [""; 0]);
        assert_eq!(play.state.next_deadline(), Some(play.now + seconds(1)));
        assert_eq!(play.wait(1), [format!("1: {expected}")]);
        assert_eq!(play.submit(2, asked()), [format!("2: {expected}")], "after the grace, at once");
        play.join(9, 1, "os=linux cpu=arm");
        assert_eq!(play.submit(3, asked())[1], "run x-3-1 on 9");
    }
}

#[test]
fn waiting_for_a_worker_is_counted_from_when_the_last_one_left() {
    let drain: fn(&mut Play) = |play| drop(play.heard(1, FromWorker::Draining));
    let lose: fn(&mut Play) = |play| drop(play.lose(1));
    let draining = "but every worker that could run it is draining, such as `w1`";
    let empty = "but no worker of pool `w1`, which could run it, is connected";
    for (goes, why) in [(drain, draining), (lose, empty)] {
        let mut play = Play::new();
        play.join(1, 1, "");
        play.submit(1, action("a"));
        play.submit(2, action("b"));
        play.now += seconds(50);
        goes(&mut play);
        play.wait(59);
        assert!(play.state.tickets.contains_key(&TicketId(2)));
        let refused = format!("2: action `{}` waited 60s {why}", action("b").action_digest);
        assert!(play.wait(1).contains(&refused), "{why}");
    }
}

#[test]
fn each_waits_its_own_time() {
    let mut play = Play::with(Config { pools: vec![KnownPool::default()], ..config() });
    play.submit(1, action("a"));
    play.now += seconds(30);
    play.submit(2, action("b"));
    for (ticket, wait) in [(1, 30), (2, 30)] {
        let refused = play.wait(wait);
        assert!(refused.len() == 1 && refused[0].starts_with(&format!("{ticket}: action")), "{refused:?}");
    }
}

#[test]
fn a_worker_that_comes_in_time_ends_the_wait_for_one() {
    let mut play = Play::with(Config { heartbeat_interval: seconds(1000), ..config() });
    play.submit(1, action("a"));
    play.submit(2, action("b"));
    play.now += seconds(59);
    play.join(1, 1, "");
    assert_eq!(play.wait(240), [""; 0]);
    assert!(play.wait(1)[0].contains("for its turn"));
}

#[test]
fn a_turn_that_does_not_come_is_an_error_to_be_repeated() {
    let mut play = Play::with(Config { heartbeat_interval: seconds(1000), ..config() });
    play.join(1, 1, "");
    play.submit(1, action("a"));
    play.submit(2, action("b"));
    let deadline = play.now + seconds(300);
    assert_eq!(play.state.next_deadline(), Some(deadline));
    let effects = play.state.apply(deadline, Event::Tick);
    let [Effect::Tell { ticket: TicketId(2), update: Update::Done(Err(failure)) }] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert!(matches!(failure.kind(), Kind::ResourceExhausted { retry_after: Some(_), .. }), "{failure}");
}

#[test]
fn a_full_queue_refuses_but_not_what_can_start_or_join() {
    let mut play = Play::new();
    for ticket in 1..=3 {
        play.submit(ticket, Submission { platform: platform("os=plan9"), ..action(&ticket.to_string()) });
    }
    assert_eq!(play.submit(4, action("more")), ["4: the queue is full: 3 actions wait for a worker"]);
    assert_eq!(play.submit(5, action("1")), ["5: queued"]);
    play.join(1, 1, "");
    assert_eq!(play.submit(6, action("more")), ["6: queued", "run x-6-1 on 1", "6: on w1"]);
}

#[test]
fn a_lost_workers_work_is_retried_elsewhere_and_the_result_says_so() {
    let mut play = Play::new();
    play.join(1, 1, "");
    play.submit(1, action("a"));
    play.submit(2, action("a"));
    play.join(2, 1, "");
    let effects = play.lose(1);
    assert_eq!(effects, ["disconnect 1", "1: queued", "2: queued", "run x-1-2 on 2", "1: on w2", "2: on w2"]);
    assert_eq!(play.finish(1, "x-1-1", Ok(outcome())), [""; 0], "the dead are not heard");
    let said = "done This was attempt 2. Before it, worker `w1` was lost: its connection ended.";
    assert_eq!(play.finish(2, "x-1-2", Ok(outcome())), [format!("1: {said}"), format!("2: {said}")]);
    assert_eq!(play.state.counters.retried, 1);
}

#[test]
fn an_action_that_costs_every_worker_is_given_up() {
    let mut play = Play::new();
    play.submit(1, action("a"));
    for worker in 1..=2 {
        play.join(worker, 1, "");
        assert_eq!(play.lose(worker)[1], "1: queued");
    }
    play.join(3, 1, "");
    let effects = play.lose(3);
    assert!(effects[1].contains("was given up after 3 attempts: worker `w1` was lost"), "{effects:?}");
    assert!(play.state.jobs.is_empty());
}

#[test]
fn a_silent_worker_is_lost() {
    let mut play = Play::new();
    play.join(1, 1, "");
    play.submit(1, action("a"));
    play.now += seconds(250);
    play.heard(1, FromWorker::Heartbeat);
    assert_eq!(play.wait(299), ["beat 1"]);
    assert_eq!(play.wait(1), ["disconnect 1", "1: queued"]);
}

#[test]
fn whose_fault_decides_about_a_retry() {
    let message = String::new;
    let cases = [
        (Kind::Internal { message: message() }, true),
        (Kind::Io { action: message() }, true),
        (Kind::Unavailable { message: message(), retry_after: None }, true),
        (Kind::Aborted { message: message() }, true),
        (Kind::Cancelled { message: message() }, true),
        (Kind::ResourceExhausted { message: message(), retry_after: Some(seconds(1)) }, true),
        (Kind::ResourceExhausted { message: message(), retry_after: None }, false),
        (Kind::MissingBlobs { missing: Vec::new() }, false),
        (Kind::InvalidArgument { field: message(), message: message() }, false),
        (Kind::FailedPrecondition { message: message() }, false),
        (Kind::PermissionDenied { message: message() }, false),
    ];
    for (kind, retried) in cases {
        let mut play = Play::new();
        play.join(1, 2, "");
        play.submit(1, action("a"));
        play.join(2, 1, "");
        let effects = play.finish(1, "x-1-1", Err(Error::new(kind.clone())));
        assert_eq!(effects.get(1).is_some_and(|words| words == "run x-1-2 on 2"), retried, "{kind:?}");
    }
}

#[test]
fn elsewhere_may_be_busy_and_is_waited_for_unless_there_is_no_elsewhere() {
    let mut play = Play::new();
    play.join(1, 1, "");
    play.join(2, 1, "");
    play.submit(1, action("a"));
    play.submit(2, action("b"));
    let stumbles = || Err(Error::internal("stumbled"));
    assert_eq!(play.finish(1, "x-1-1", stumbles()), ["1: queued"], "worker 1 is free, but not for that");
    assert_eq!(play.submit(3, action("c"))[1], "run x-3-1 on 1", "it is for others");
    play.finish(1, "x-3-1", Ok(outcome()));
    assert_eq!(play.lose(2)[1..3], ["2: queued", "run x-1-2 on 1"], "there is no elsewhere now");
}

#[test]
fn the_last_to_leave_puts_out_the_light() {
    let mut play = Play::new();
    play.join(1, 1, "");
    play.submit(1, action("a"));
    play.submit(2, action("a"));
    play.submit(3, action("b"));
    assert_eq!(play.leave(1), [""; 0], "another one waits");
    assert_eq!(play.leave(2), ["cancel x-1-1 on 1"], "and its slot stays taken");
    assert_eq!(play.submit(4, action("a")), ["4: queued"], "what is being stopped is not joined");
    assert_eq!(play.leave(4), [""; 0]);
    let stopped = Err(Error::new(Kind::Cancelled { message: "stopped".to_owned() }));
    assert_eq!(play.finish(1, "x-1-1", stopped), ["run x-3-1 on 1", "3: on w1"]);
    assert_eq!(play.state.counters.cancelled, 2);
    assert_eq!(play.leave(9), [""; 0], "an unknown ticket");
}

#[test]
fn progress_reaches_all_waiters_with_what_is_known() {
    let mut play = Play::new();
    play.join(1, 1, "");
    play.submit(1, action("a"));
    play.submit(2, action("a"));
    let start = Some(SystemTime::UNIX_EPOCH + seconds(5));
    let metadata = ExecutionMetadata { worker_start: start, ..ExecutionMetadata::default() };
    let message = FromWorker::Progress { execution: ExecutionId("x-1-1".into()), metadata };
    let effects =
        play.state.apply(play.now, Event::Heard { worker: WorkerId(1), message: Box::new(message) });
    assert_eq!(effects.len(), 2);
    for effect in effects {
        let Effect::Tell { update: Update::Progress(Stage::Executing, metadata), .. } = effect else {
            panic!("{effect:?}");
        };
        assert_eq!(metadata.worker_start, start);
        assert_eq!(metadata.queued, Some(SystemTime::UNIX_EPOCH), "which the worker left out");
        assert_eq!(metadata.worker, "w1");
    }
}

#[test]
fn closing_refuses_what_waits_and_gives_what_runs_its_time() {
    let mut play = Play::new();
    play.join(1, 1, "");
    play.submit(1, action("a"));
    play.submit(2, action("b"));
    let closing = "the server is shutting down";
    assert_eq!(play.apply(Event::Close { drain: seconds(30) }), [format!("2: {closing}")]);
    assert_eq!(play.submit(3, action("c")), [format!("3: {closing}")]);
    assert_eq!(play.join(2, 1, ""), ["disconnect 2"]);
    assert_eq!(play.wait(29), [""; 0]);
    assert!(!play.state.is_over());
    assert_eq!(play.wait(1), ["cancel x-1-1 on 1".to_owned(), format!("1: {closing}")]);
    assert!(play.state.is_over());
}

#[test]
fn a_lost_worker_while_closing_is_not_retried() {
    let mut play = Play::new();
    play.join(1, 1, "");
    play.submit(1, action("a"));
    play.apply(Event::Close { drain: seconds(30) });
    assert_eq!(play.lose(1), ["disconnect 1", "1: the server is shutting down"]);
    assert!(play.state.is_over());
}

#[test]
fn status_tells_what_runs() {
    let mut play = Play::new();
    play.join(1, 2, "os=linux");
    play.submit(1, action("a"));
    play.submit(2, action("b"));
    play.submit(3, action("c"));
    play.leave(1);
    play.now += seconds(7);
    let status = play.state.status(play.now);
    assert_eq!((status.queued, status.oldest_wait), (1, Some(seconds(7))));
    assert_eq!((status.workers[0].busy, status.workers[0].slots), (2, 2));
    let running: Vec<_> = status.running.iter().map(|run| (run.waiters, run.cancelled)).collect();
    assert_eq!(running, [(0, true), (1, false)]);
    assert_eq!(status.running[1].running_for, seconds(7));
}
