//! The judge by itself: single histories, and random ones against what must always hold.

use super::*;
use mortar_testkit::conformance::Random;

const MS: Duration = Duration::from_millis(1);

struct Court {
    judge: Judge,
    now: Instant,
}

impl Court {
    fn new() -> Self {
        Self { judge: Judge::new(Terms::default()), now: Instant::now() }
    }

    fn apply(&mut self, event: Event) -> Effects {
        self.judge.apply(self.now, event)
    }

    fn pass(&mut self, call: Call) -> Pass {
        self.apply(Event::Ask(call)).pass.expect("it passes")
    }

    fn fail(&mut self, call: Call, times: usize) -> Effects {
        let mut last = Effects::default();
        for _ in 0..times {
            let ticket = self.pass(call).ticket;
            last = self.apply(Event::Failed(ticket));
        }
        last
    }

    fn cause(&self, call: Call) -> Option<Cause> {
        self.judge.open()[call as usize]
    }
}

#[test]
fn errors_open_the_gate_of_their_kind_and_one_call_tries() {
    let mut court = Court::new();
    assert_eq!(court.fail(Call::Write, 4), Effects::default());
    let effects = court.fail(Call::Write, 1);
    assert_eq!(effects.released, [false; 5], "what is under way may be answered");
    assert_eq!(court.cause(Call::Write), Some(Cause::Errors));
    assert_eq!(effects.talk, Some(Talk::Opened(Call::Write, Cause::Errors)));
    assert!(court.apply(Event::Ask(Call::Write)).pass.is_none());
    assert!(!court.pass(Call::Read).ticket.trial);

    court.now += 500 * MS;
    let trial = court.pass(Call::Write).ticket;
    assert!(trial.trial);
    assert!(court.apply(Event::Ask(Call::Write)).pass.is_none(), "one at a time");
    court.apply(Event::Failed(trial));
    court.now += 999 * MS;
    assert!(court.apply(Event::Ask(Call::Write)).pass.is_none(), "the pause has doubled");
    court.now += MS;
    let trial = court.pass(Call::Write).ticket;
    court.apply(Event::Left(trial));
    let trial = court.pass(Call::Write).ticket;
    let effects = court.apply(Event::Answered(trial, MS));
    assert_eq!((effects.talk, court.cause(Call::Write)), (Some(Talk::Closed), None));
}

#[test]
fn few_failures_among_many_answers_open_nothing() {
    let mut court = Court::new();
    for _ in 0..100 {
        for _ in 0..2 {
            let ticket = court.pass(Call::Read).ticket;
            court.apply(Event::Answered(ticket, MS));
        }
        court.fail(Call::Read, 1);
    }
    // And such as are long ago count no more.
    let mut court = Court::new();
    for _ in 0..5 {
        court.fail(Call::Read, 4);
        court.now += Duration::from_secs(31);
        let ticket = court.pass(Call::Read).ticket;
        court.apply(Event::Answered(ticket, MS));
    }
    assert_eq!(court.cause(Call::Read), None);
    // Nor do a few in a row after many answers, such as a server costs that is started again.
    let mut court = Court::new();
    for _ in 0..30 {
        let ticket = court.pass(Call::Read).ticket;
        court.apply(Event::Answered(ticket, MS));
    }
    court.fail(Call::Read, 9);
    assert_eq!(court.cause(Call::Read), None);
}

#[test]
fn failures_in_a_row_open_a_gate_however_long_they_take() {
    let mut court = Court::new();
    for _ in 0..4 {
        court.fail(Call::Write, 1);
        court.now += Duration::from_secs(22);
    }
    assert_eq!(court.cause(Call::Write), None);
    court.fail(Call::Write, 1);
    assert_eq!(court.cause(Call::Write), Some(Cause::Errors));
}

#[test]
fn silence_is_a_matter_of_all_kinds() {
    let mut court = Court::new();
    let [first, second, third] = [(); 3].map(|()| court.pass(Call::LookUp).ticket);
    assert_eq!(court.apply(Event::Silent(first)).released, [false; 5]);
    let effects = court.apply(Event::Silent(second));
    assert_eq!(effects.released, [true; 5]);
    assert_eq!(effects.talk, Some(Talk::Opened(Call::LookUp, Cause::Silence)));
    assert_eq!(court.apply(Event::Silent(third)), Effects::default(), "it is of an earlier time");
    // The probe tries, not the callers.
    court.now += Duration::from_secs(1);
    assert!(court.apply(Event::Ask(Call::Execute)).pass.is_none());
    court.apply(Event::Probed(false));
    assert!(court.apply(Event::Ask(Call::Execute)).pass.is_none());
    let effects = court.apply(Event::Probed(true));
    assert_eq!((effects.talk, court.judge.open()), (Some(Talk::Closed), [None; 5]));
    assert_eq!(court.judge.probe_in(), None);

    // Who comes back and falls silent again is left alone for longer, and people are not told again so soon.
    for _ in 0..2 {
        let ticket = court.pass(Call::Read).ticket;
        assert_eq!(court.apply(Event::Silent(ticket)).talk, None);
    }
    assert_eq!(court.cause(Call::Write), Some(Cause::Silence));
    assert_eq!(court.judge.probe_in(), Some(2000 * MS));
    court.now += Duration::from_secs(30);
    assert_eq!(court.apply(Event::Probed(false)).talk, Some(Talk::Opened(Call::LookUp, Cause::Silence)));
}

#[test]
fn who_is_deserted_is_released_at_once() {
    let mut court = Court::new();
    let waiting = court.pass(Call::Execute).ticket;
    let effects = court.apply(Event::Deserted);
    assert_eq!(effects.released, [true; 5]);
    assert!(matches!(effects.talk, Some(Talk::Opened(_, Cause::Silence))), "{effects:?}");
    assert_eq!(court.apply(Event::Left(waiting)), Effects::default());
    assert!(court.apply(Event::Ask(Call::Execute)).pass.is_none());
}

#[test]
fn without_a_probe_a_caller_tries_after_a_while() {
    let mut court = Court::new();
    for _ in 0..2 {
        let ticket = court.pass(Call::LookUp).ticket;
        court.apply(Event::Silent(ticket));
    }
    court.now += 4499 * MS;
    assert!(court.apply(Event::Ask(Call::LookUp)).pass.is_none());
    court.now += MS;
    let trial = court.pass(Call::LookUp).ticket;
    court.apply(Event::Answered(trial, MS));
    assert_eq!(court.cause(Call::LookUp), None);
}

#[test]
fn limits_go_by_what_answers_take() {
    let mut court = Court::new();
    assert_eq!(court.judge.shortest_limit(), 5000 * MS);
    for (took, expected) in [(2 * MS, 1000 * MS), (400 * MS, 1600 * MS), (9000 * MS, 5000 * MS)] {
        for _ in 0..64 {
            let ticket = court.pass(Call::LookUp).ticket;
            court.apply(Event::Answered(ticket, took));
        }
        assert_eq!(court.pass(Call::LookUp).limit, expected);
        assert_eq!(court.judge.shortest_limit(), expected);
    }
    assert_eq!(court.pass(Call::Read).limit, 5000 * MS, "nothing is known of it");
}

#[test]
fn a_cache_that_is_slower_than_building_is_tasted_now_and_then() {
    let mut court = Court::new();
    let useless = Event::Hit { cost: 300 * MS, gain: 100 * MS };
    let useful = Event::Hit { cost: 100 * MS, gain: 500 * MS };
    // As many of both kinds are of use on the whole.
    for _ in 0..50 {
        court.apply(useless);
        court.apply(useful);
    }
    assert_eq!(court.judge.open(), [None; 5]);
    court.now += Duration::from_secs(31);
    for _ in 0..20 {
        court.apply(useless);
    }
    let expected = [Some(Cause::NoBenefit), Some(Cause::NoBenefit), None, None, None];
    assert_eq!(court.judge.open(), expected);
    assert!(court.apply(Event::Ask(Call::LookUp)).pass.is_none());
    court.pass(Call::Write);
    for hits in [useless, useful] {
        court.now += Duration::from_secs(4);
        for _ in 0..3 {
            court.pass(Call::LookUp);
            court.pass(Call::Read);
            court.apply(hits);
        }
    }
    assert_eq!(court.judge.open(), [None; 5]);
}

#[test]
fn a_gate_that_nobody_wants_closes_with_a_later_probe() {
    let mut court = Court::new();
    court.fail(Call::FindMissing, 5);
    let mut probes_until_it_closes = || {
        let probes = (1..20).find(|_| {
            court.now += Duration::from_secs(1);
            assert!(court.judge.probe_in().is_some());
            court.apply(Event::Probed(true)).talk == Some(Talk::Closed)
        });
        probes.unwrap()
    };
    assert_eq!(probes_until_it_closes(), 4);
}

/// A full disk answers probes: as long as somebody comes again, and fails, it is not well.
#[test]
fn a_gate_at_which_tries_fail_is_closed_by_no_probe() {
    let mut court = Court::new();
    court.fail(Call::Write, 5);
    for second in 0..60 {
        court.now += Duration::from_secs(1);
        assert_eq!(court.apply(Event::Probed(true)).talk, None, "after {second} s");
        // Less often than others are let through to try.
        if second % 3 == 2
            && let Some(pass) = court.apply(Event::Ask(Call::Write)).pass
        {
            assert!(pass.ticket.trial);
            court.apply(Event::Failed(pass.ticket));
        }
    }
}

/// A full server may think for long before it refuses.
#[test]
fn a_try_that_takes_long_to_fail_counts_from_its_end() {
    let mut court = Court::new();
    court.fail(Call::Write, 5);
    court.now += Duration::from_secs(1);
    let pass = court.pass(Call::Write);
    assert!(pass.ticket.trial);
    court.now += Duration::from_secs(20);
    court.apply(Event::Failed(pass.ticket));
    for _ in 0..3 {
        court.now += Duration::from_secs(1);
        assert_eq!(court.apply(Event::Probed(true)).talk, None);
    }
    court.now += Duration::from_secs(1);
    assert_eq!(court.apply(Event::Probed(true)).talk, Some(Talk::Closed));
}

/// How an upstream is for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Well,
    Silent,
    Failing,
    Useless,
}

type Flight = (Pass, Instant, fn(Ticket) -> Event);

/// A history of callers and an upstream, checked at each step.
struct History {
    court: Court,
    random: Random,
    mood: Mood,
    /// Calls under way, and when they come to what.
    flights: Vec<Flight>,
    probe: Option<Instant>,
    /// What there is to say against each kind since its gate turned last.
    evidence: [usize; 5],
    useless_hits: usize,
    told: bool,
    opened: usize,
}

impl History {
    fn draw(&mut self, below: u64) -> u64 {
        self.random.number() % below
    }

    fn apply(&mut self, event: Event) -> Effects {
        let before = self.court.judge.open();
        match event {
            Event::Failed(ticket) => self.evidence[ticket.call as usize] += 1,
            Event::Silent(_) => self.evidence.iter_mut().for_each(|count| *count += 1),
            Event::Hit { cost, gain } if cost > gain => self.useless_hits += 1,
            _ => {}
        }
        let effects = self.court.apply(event);
        let after = self.court.judge.open();
        for (index, released) in effects.released.into_iter().enumerate() {
            if before[index].is_none() && after[index].is_some() {
                self.opened += 1;
                let enough = match after[index].unwrap() {
                    Cause::Silence => self.evidence[index] >= 2,
                    Cause::Errors => self.evidence[index] >= 5,
                    Cause::NoBenefit => self.useless_hits > 0,
                };
                assert!(enough, "{:?} without enough against it", Call::ALL[index]);
            }
            if released {
                assert_eq!(after[index], Some(Cause::Silence));
                self.flights.retain(|(pass, ..)| pass.ticket.call as usize != index);
            }
            if before[index].is_some() != after[index].is_some() {
                self.evidence[index] = 0;
            }
        }
        match effects.talk {
            Some(Talk::Opened(call, cause)) => {
                assert!(!self.told && after[call as usize] == Some(cause));
                self.told = true;
            }
            Some(Talk::Closed) => {
                assert!(self.told && after == [None; 5]);
                self.told = false;
            }
            None => {}
        }
        effects
    }

    fn ask(&mut self) {
        let index = self.draw(5) as usize;
        let cause = self.court.judge.open()[index];
        let Some(pass) = self.apply(Event::Ask(Call::ALL[index])).pass else {
            assert!(cause.is_some(), "a call is refused at a closed gate");
            return;
        };
        let limits = Terms::default().limits;
        assert!((limits.0..=limits.1).contains(&pass.limit));
        assert_eq!(pass.ticket.trial, matches!(cause, Some(Cause::Silence | Cause::Errors)));
        let is_trial =
            |(other, ..): &&(Pass, _, _)| other.ticket.trial && other.ticket.call == pass.ticket.call;
        assert!(
            !pass.ticket.trial || !self.flights.iter().any(|flight| is_trial(&flight)),
            "two try at once"
        );
        let soon = self.draw(50) as u32 * MS;
        let (after, comes_to): (Duration, fn(Ticket) -> Event) = match (self.mood, self.draw(20)) {
            (Mood::Silent, _) => (pass.limit, Event::Silent),
            (_, 0) => (soon, Event::Left),
            (Mood::Failing, _) => (soon, Event::Failed),
            (Mood::Well | Mood::Useless, _) => (soon, |ticket| Event::Answered(ticket, 20 * MS)),
        };
        self.flights.push((pass, self.court.now + after, comes_to));
    }

    fn land(&mut self) {
        let now = self.court.now;
        while let Some(index) = self.flights.iter().position(|(_, at, _)| *at <= now) {
            let (pass, _, comes_to) = self.flights.swap_remove(index);
            let event = comes_to(pass.ticket);
            self.apply(event);
            if pass.ticket.call == Call::LookUp && matches!(event, Event::Answered(..)) {
                let cost = if self.mood == Mood::Useless { 5000 * MS } else { 20 * MS };
                self.apply(Event::Hit { cost, gain: 1000 * MS });
            }
        }
    }

    fn step(&mut self) {
        let pause = (10 + self.draw(90) as u32) * MS;
        self.court.now += pause;
        self.land();
        for _ in 0..self.draw(6) {
            self.ask();
        }
        match (self.probe, self.court.judge.probe_in()) {
            (Some(at), _) if at <= self.court.now => {
                self.probe = None;
                self.apply(Event::Probed(self.mood != Mood::Silent));
            }
            (None, Some(pause)) => self.probe = Some(self.court.now + pause),
            _ => {}
        }
    }

    fn last(&mut self, duration: Duration) {
        let end = self.court.now + duration;
        while self.court.now < end {
            self.step();
        }
    }
}

#[test]
fn what_always_holds() {
    let mut opened = 0;
    for seed in 0..80 {
        let mut history = History {
            court: Court::new(),
            random: Random::seeded(seed),
            mood: Mood::Well,
            flights: Vec::new(),
            probe: None,
            evidence: [0; 5],
            useless_hits: 0,
            told: false,
            opened: 0,
        };
        history.last(Duration::from_secs(10));
        assert_eq!(history.opened, 0, "nothing was wrong");
        for _ in 0..history.draw(6) {
            history.mood = [Mood::Well, Mood::Silent, Mood::Failing, Mood::Useless][history.draw(4) as usize];
            let seconds = 1 + history.draw(20);
            history.last(Duration::from_secs(seconds));
        }
        // Well again: all of it is used again within ten seconds.
        history.mood = Mood::Well;
        history.last(Duration::from_secs(10));
        assert_eq!(history.court.judge.open(), [None; 5], "seed {seed}");
        assert!(!history.told, "seed {seed}");
        opened += history.opened;
    }
    assert!(opened > 200, "hardly anything happened: {opened}");
}
