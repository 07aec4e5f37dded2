//! The gate of one kind of call: what its last calls came to, how long an answer may take, and, while it is open, when
//! somebody may try. Told of everything by the judge, whose clock it goes by.

use super::judge::{Call, Pass, Terms};
use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

/// Answers of which the time is remembered.
const TIMES: usize = 64;
/// With fewer of them, nothing is concluded from them.
const ENOUGH_TIMES: usize = 20;
/// Outcomes that are remembered.
const OUTCOMES: usize = 40;
/// An upstream that fails again this soon after it came back is left alone for longer.
const RELAPSE: Duration = Duration::from_secs(30);

/// Why a gate is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// There was no answer in time.
    Silence,
    /// Too many calls failed.
    Errors,
    /// What the cache gave took longer than making it.
    NoBenefit,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silence => "it does not answer in time",
            Self::Errors => "too many calls fail",
            Self::NoBenefit => "getting results takes longer than making them",
        })
    }
}

/// Names a call that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Its kind.
    pub call: Call,
    /// Counts how often the gate opened and closed: what calls of earlier times came to is no news.
    time: u64,
    /// It was let through to try.
    pub trial: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Gate {
    call: Call,
    time: u64,
    state: State,
    /// When, and whether well.
    outcomes: VecDeque<(Instant, bool)>,
    /// Calls that failed, and those of them that got no answer, since the last one that went well.
    failed: usize,
    silent: u32,
    times: VecDeque<Duration>,
    /// When it closed last, and the pause by then.
    closed: Option<(Instant, Duration)>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed,
    Open {
        cause: Cause,
        /// When somebody may try.
        next: Instant,
        pause: Duration,
        /// Somebody does.
        trial: bool,
        /// When somebody wanted to call last, or was answered who did.
        asked: Instant,
    },
}

impl Gate {
    pub(super) fn new(call: Call) -> Self {
        let (outcomes, times) = (VecDeque::new(), VecDeque::new());
        Self { call, time: 0, state: State::Closed, outcomes, failed: 0, silent: 0, times, closed: None }
    }

    pub(super) fn cause(&self) -> Option<Cause> {
        match self.state {
            State::Closed => None,
            State::Open { cause, .. } => Some(cause),
        }
    }

    /// The pause before another try; none where a probe would tell nothing.
    pub(super) fn pause(&self) -> Option<Duration> {
        match self.state {
            State::Closed | State::Open { cause: Cause::NoBenefit, .. } => None,
            State::Open { pause, .. } => Some(pause),
        }
    }

    /// Whether hits are judged anew.
    pub(super) fn is_tasting(&self, now: Instant) -> bool {
        matches!(self.state, State::Open { cause: Cause::NoBenefit, next, .. } if now >= next)
    }

    pub(super) fn ask(&mut self, now: Instant, terms: &Terms) -> Option<Pass> {
        let limit = self.limit(terms);
        let ticket = Ticket { call: self.call, time: self.time, trial: false };
        match &mut self.state {
            State::Closed => Some(Pass { ticket, limit }),
            State::Open { cause: Cause::NoBenefit, next, .. } if now >= *next => Some(Pass { ticket, limit }),
            // In silence it is the probe that tries; without one, a caller does, after the longest pause.
            State::Open { cause, next, trial, asked, .. } => {
                *asked = now;
                let patience = if *cause == Cause::Silence { terms.pauses.1 } else { Duration::ZERO };
                if *trial || now < *next + patience || *cause == Cause::NoBenefit {
                    return None;
                }
                *trial = true;
                Some(Pass { ticket: Ticket { trial: true, ..ticket }, limit })
            }
        }
    }

    /// In what time an answer must come.
    pub(super) fn limit(&self, terms: &Terms) -> Duration {
        let (least, most) = terms.limits;
        if self.times.len() < ENOUGH_TIMES {
            return most;
        }
        let mut times: Vec<Duration> = self.times.iter().copied().collect();
        times.sort_unstable();
        (times[times.len() * 95 / 100] * terms.patience).clamp(least, most)
    }

    pub(super) fn answered(&mut self, now: Instant, ticket: Ticket, took: Duration, terms: &Terms) {
        if ticket.time != self.time {
            return;
        }
        (self.failed, self.silent) = (0, 0);
        self.times.push_back(took);
        if self.times.len() > TIMES {
            self.times.pop_front();
        }
        if ticket.trial { self.close(now) } else { self.note(now, true, terms) }
    }

    pub(super) fn failed(&mut self, now: Instant, ticket: Ticket, terms: &Terms) {
        if ticket.time != self.time {
            return;
        }
        if ticket.trial {
            return self.put_off(now, terms);
        }
        self.note(now, false, terms);
        self.failed += 1;
        let failures = self.outcomes.iter().filter(|(_, well)| !well).count();
        let many = failures >= terms.failures && 2 * failures >= self.outcomes.len();
        // Who calls seldom, and waits long for each failure, learns it by those in a row.
        let nothing_else = self.failed >= terms.failures && failures == self.outcomes.len();
        if many || nothing_else {
            self.open(now, Cause::Errors, terms);
        }
    }

    /// Whether this is silence.
    pub(super) fn silent(&mut self, now: Instant, ticket: Ticket, terms: &Terms) -> bool {
        if ticket.time != self.time {
            return false;
        }
        self.failed(now, ticket, terms);
        self.silent += 1;
        !ticket.trial && self.silent >= terms.silent
    }

    pub(super) fn left(&mut self, now: Instant, ticket: Ticket) {
        if ticket.time == self.time
            && ticket.trial
            && let State::Open { trial, asked, .. } = &mut self.state
        {
            (*trial, *asked) = (false, now);
        }
    }

    fn note(&mut self, now: Instant, well: bool, terms: &Terms) {
        self.outcomes.push_back((now, well));
        if self.outcomes.len() > OUTCOMES {
            self.outcomes.pop_front();
        }
        self.outcomes.retain(|(at, _)| now.saturating_duration_since(*at) < terms.window);
    }

    /// A probe was answered: where nobody but the connection was to blame, or nobody calls any more, that settles it. Who
    /// called not long ago comes again, and a call tells more: a server whose disk is full answers probes.
    pub(super) fn reached(&mut self, now: Instant, terms: &Terms) {
        if let State::Open { cause, next, trial, asked, .. } = self.state {
            match cause {
                Cause::Silence => self.close(now),
                Cause::Errors if !trial && now >= next.max(asked + terms.pauses.1) => self.close(now),
                Cause::Errors | Cause::NoBenefit => {}
            }
        }
    }

    /// A probe was not answered.
    pub(super) fn unreached(&mut self, now: Instant, terms: &Terms) {
        if self.cause() == Some(Cause::Silence) {
            self.put_off(now, terms);
        }
    }

    /// A try failed: the next one is later.
    fn put_off(&mut self, now: Instant, terms: &Terms) {
        if let State::Open { next, pause, trial, asked, .. } = &mut self.state {
            *pause = (*pause * 2).min(terms.pauses.1);
            (*next, *trial, *asked) = (now + *pause, false, now);
        }
    }

    pub(super) fn open(&mut self, now: Instant, cause: Cause, terms: &Terms) {
        let (shortest, longest) = terms.pauses;
        let pause = match (self.state, self.closed) {
            (State::Open { pause, .. }, _) => pause * 2,
            (State::Closed, Some((at, pause))) if now.saturating_duration_since(at) < RELAPSE => pause * 2,
            (State::Closed, _) => shortest,
        };
        // Nothing was said of a cache that is too slow but that it is: hardly news soon.
        let pause = if cause == Cause::NoBenefit { longest } else { pause.min(longest) };
        self.state = State::Open { cause, next: now + pause, pause, trial: false, asked: now };
        self.turn();
    }

    pub(super) fn close(&mut self, now: Instant) {
        if let State::Open { pause, .. } = self.state {
            self.closed = Some((now, pause));
            self.state = State::Closed;
            self.turn();
        }
    }

    /// A new time begins.
    fn turn(&mut self) {
        self.time += 1;
        (self.failed, self.silent) = (0, 0);
        self.outcomes.clear();
    }
}
