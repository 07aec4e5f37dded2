//! Workers that lose their connection and come back, and servers that were restarted.

use super::{
    tests::{Play, action, config, outcome, seconds},
    *,
};
use mortar_model::{
    Context, Error,
    context::Operation,
    session::{ExecutionId, Held, Hello, VERSION},
};
use std::time::SystemTime;

fn of(operation: &str, was_running: bool) -> Context {
    let operation = Operation { name: operation.into(), was_running, ..Operation::default() };
    Context { operation: Some(Arc::new(operation)), ..Context::internal() }
}

fn held(execution: &str, operation: &str, name: &str) -> Held {
    let action_digest = action(name).action_digest;
    Held { execution: ExecutionId(execution.into()), context: of(operation, false), action_digest }
}

/// One that must not be shared.
fn alone(name: &str) -> Submission {
    Submission { merge: false, ..action(name) }
}

impl Play {
    /// A session of process `p`, which holds these.
    fn come(&mut self, worker: u64, held: Vec<Held>) -> Vec<String> {
        let (name, process) = (format!("w{worker}"), "p".to_owned());
        let hello = Hello { version: VERSION, name, slots: 2, process, held, ..Hello::default() };
        self.apply(Event::Join { worker: WorkerId(worker), hello })
    }

    fn submit_op(
        &mut self,
        operation: &str,
        was_running: bool,
        ticket: u64,
        what: Submission,
    ) -> Vec<String> {
        let (context, queued) = (of(operation, was_running), SystemTime::UNIX_EPOCH);
        let ticket = TicketId(ticket);
        self.apply(Event::Submit(Submitted { ticket, context, submission: what, queued }))
    }
}

#[test]
fn a_worker_that_comes_back_in_time_goes_on() {
    let mut play = Play::new();
    play.come(1, Vec::new());
    play.submit(1, action("a"));
    play.submit(2, action("b"));
    assert_eq!(play.lose(1), ["disconnect 1"]);
    assert_eq!(play.submit(3, action("c")), ["3: queued"], "it takes no work while it is away");
    play.now += seconds(2);
    let kept = vec![held("x-1-1", "", "a")];
    // What it lost on the way is done again, at once and where there is room.
    let effects = play.come(2, kept);
    assert_eq!(
        effects,
        ["2: queued", "run x-2-2 on 2", "2: on w2", "3: queued"],
        "the third for another reason"
    );
    assert_eq!(play.finish(1, "x-1-1", Ok(outcome())), [""; 0], "the old session is over");
    assert_eq!(play.finish(2, "x-1-1", Ok(outcome())), ["1: done", "run x-3-1 on 2", "3: on w2"]);
    assert_eq!(play.wait(60), [""; 0], "nothing comes of the old session any more");
}

#[test]
fn a_worker_that_does_not_come_back_in_time_is_lost() {
    let mut play = Play::new();
    play.come(1, Vec::new());
    play.submit(1, action("a"));
    play.lose(1);
    assert_eq!(play.state.next_deadline(), Some(play.now + config().reattach_grace));
    assert_eq!(play.wait(3), ["1: queued"]);
    play.join(2, 1, "");
    // By now another one has it.
    assert_eq!(play.come(3, vec![held("x-1-1", "", "a")]), ["cancel x-1-1 on 3"]);
    let stopped = Err(Error::internal("stopped"));
    assert_eq!(play.finish(3, "x-1-1", stopped), [""; 0]);
    let said = "1: done This was attempt 2. Before it, worker `w1` was lost: its connection ended.";
    assert_eq!(play.finish(2, "x-1-2", Ok(outcome())), [said]);
}

#[test]
fn what_was_given_up_too_soon_goes_on_if_nobody_has_it_yet() {
    let mut play = Play::new();
    play.come(1, Vec::new());
    play.submit(1, action("a"));
    play.lose(1);
    play.wait(3);
    assert_eq!(play.come(2, vec![held("x-1-1", "", "a")]), ["1: on w2"]);
    assert!(play.finish(2, "x-1-1", Ok(outcome()))[0].starts_with("1: done"));
}

#[test]
fn a_session_that_is_replaced_ends() {
    let mut play = Play::new();
    play.come(1, Vec::new());
    play.submit(1, action("a"));
    assert_eq!(play.come(2, vec![held("x-1-1", "", "a")]), ["disconnect 1"]);
    assert_eq!(play.state.status(play.now).workers.len(), 1);
    assert_eq!(play.finish(2, "x-1-1", Ok(outcome())), ["1: done"]);
}

#[test]
fn a_cancel_that_could_not_be_told_is_told_later() {
    let mut play = Play::new();
    play.come(1, Vec::new());
    play.submit(1, action("a"));
    play.lose(1);
    assert_eq!(play.leave(1), [""; 0]);
    assert_eq!(play.come(2, vec![held("x-1-1", "", "a")]), ["cancel x-1-1 on 2"]);
}

#[test]
fn a_worker_of_the_first_version_does_not_come_back() {
    let mut play = Play::new();
    let hello = Hello { version: 1, name: "w1".into(), slots: 1, ..Hello::default() };
    play.apply(Event::Join { worker: WorkerId(1), hello });
    play.submit(1, action("a"));
    assert_eq!(play.lose(1), ["disconnect 1", "1: queued"]);
}

#[test]
fn after_a_restart_what_ran_goes_on_whoever_comes_first() {
    for shared in [true, false] {
        let what = || if shared { action("a") } else { alone("a") };
        let mut job_first = Play::new();
        job_first.join(7, 5, "");
        let waits = job_first.submit_op("op/1", true, 1, what());
        assert_eq!(waits, ["1: queued"], "it is not begun anew while its worker may come");
        assert_eq!(job_first.come(2, vec![held("old-9-1", "op/1", "a")]), ["1: on w2"]);
        assert_eq!(job_first.finish(2, "old-9-1", Ok(outcome())), ["1: done"]);

        let mut worker_first = Play::new();
        assert_eq!(worker_first.come(2, vec![held("old-9-1", "op/1", "a")]), [""; 0]);
        let claimed = worker_first.submit_op("op/1", true, 1, what());
        assert_eq!(claimed, ["1: on w2"]);
        assert_eq!(worker_first.finish(2, "old-9-1", Ok(outcome())), ["1: done"]);

        let mut finished_first = Play::new();
        finished_first.come(2, vec![held("old-9-1", "op/1", "a")]);
        assert_eq!(finished_first.finish(2, "old-9-1", Ok(outcome())), [""; 0]);
        assert_eq!(finished_first.submit_op("op/1", true, 1, what()), ["1: done"]);
        assert!(finished_first.state.jobs.is_empty() && finished_first.state.classes.len() == 0);
    }
}

#[test]
fn what_must_not_be_shared_is_claimed_by_its_own_operation_alone() {
    let mut play = Play::new();
    play.come(2, vec![held("old-9-1", "op/1", "a")]);
    assert_eq!(play.submit_op("op/2", true, 1, alone("a")), ["1: queued"]);
    assert_eq!(play.submit_op("op/1", true, 2, alone("a")), ["2: on w2"]);
}

#[test]
fn a_worker_that_failed_meanwhile_means_another_attempt() {
    let mut play = Play::new();
    play.come(2, vec![held("old-9-1", "op/1", "a")]);
    play.finish(2, "old-9-1", Err(Error::internal("stumbled")));
    play.join(3, 1, "");
    assert_eq!(play.submit_op("op/1", true, 1, action("a")), ["1: queued", "run x-1-2 on 3", "1: on w3"]);
}

#[test]
fn what_ran_is_begun_anew_when_its_worker_does_not_come() {
    let mut play = Play::with(Config { recall_grace: seconds(15), ..config() });
    play.join(1, 1, "");
    play.now += seconds(1);
    play.submit_op("op/1", true, 1, action("a"));
    assert_eq!(play.submit_op("op/2", true, 2, action("a")), ["2: queued"], "they are one");
    assert_eq!(play.wait(13), [""; 0]);
    assert_eq!(play.wait(1), ["1: queued", "2: queued", "run x-1-1 on 1", "1: on w1", "2: on w1"]);
    assert_eq!(play.submit_op("op/3", true, 3, action("b")), ["3: queued"], "in the queue, as any other");
    assert_eq!(play.state.queue.len(), 1);
}

#[test]
fn what_nobody_claims_is_stopped() {
    let mut play = Play::with(Config { recall_grace: seconds(15), ..config() });
    play.come(2, vec![held("old-9-1", "op/1", "a"), held("old-8-1", "op/2", "b")]);
    play.finish(2, "old-8-1", Ok(outcome()));
    assert_eq!(play.wait(14), [""; 0]);
    assert_eq!(play.wait(1), ["cancel old-9-1 on 2"]);
    assert_eq!(play.submit(1, action("b")), ["1: queued", "run x-1-1 on 2", "1: on w2"]);
    let late = play.come(3, vec![held("old-9-1", "op/1", "a"), held("x-1-1", "", "b")]);
    assert_eq!(late, ["disconnect 2", "cancel old-9-1 on 3"], "and so it is later");
}
