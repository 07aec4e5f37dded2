//! Judges an upstream by what its calls come to: `apply(now, event)`, without a clock, without I/O. Each kind of call has a
//! gate of its own (`gate.rs`); what is true of all kinds is settled here:
//!
//! - **Silence** (calls that got no answer in time) is a matter of the connection, so it opens the gates of all kinds.
//!   Nobody is sent to try: a probe, which no caller waits for, tells when there are answers again.
//! - **Errors** open the gate of their kind. After a pause one call of that kind is let through to try.
//! - **Lack of benefit**: hits that cost more time than the actions would have. Opens look-ups and reads, and after a pause
//!   lets all of them pass until a few hits have been judged anew.
//!
//! People are told when the first gate opens and when the last one closes.

use super::gate::{Cause, Gate, Ticket};
use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// Asking for an action's result.
    LookUp,
    /// Reading a blob.
    Read,
    /// Writing a blob or a result.
    Write,
    /// Asking which blobs are missing.
    FindMissing,
    /// Executing an action.
    Execute,
}

impl Call {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::LookUp, Self::Read, Self::Write, Self::FindMissing, Self::Execute];
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LookUp => "look-ups",
            Self::Read => "reads",
            Self::Write => "writes",
            Self::FindMissing => "searches for missing blobs",
            Self::Execute => "executions",
        })
    }
}

/// By what an upstream is judged.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Older outcomes and hits count no more.
    pub window: Duration,
    /// So many failures within the window open a gate, if they are half of all outcomes; so do so many in a row of which
    /// some are older, if nothing went well within it.
    pub failures: usize,
    /// So many calls in a row without an answer in time mean silence.
    pub silent: u32,
    /// Bounds of the time in which an answer must come: the first until enough is known of the kind.
    pub limits: (Duration, Duration),
    /// An answer must come within so many times what 95 of 100 have needed.
    pub patience: u32,
    /// The first and the longest pause before another try.
    pub pauses: (Duration, Duration),
    /// People who were told that it is used again are not told the contrary for so long, however it goes meanwhile.
    pub quiet: Duration,
    /// So many hits within the window are judged.
    pub hits: usize,
    /// So many hits are judged when it is tried again.
    pub taste: usize,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(30),
            failures: 5,
            silent: 2,
            limits: (Duration::from_secs(1), Duration::from_secs(5)),
            patience: 4,
            pauses: (Duration::from_millis(500), Duration::from_secs(4)),
            quiet: Duration::from_secs(30),
            hits: 20,
            taste: 3,
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// Somebody wants to call.
    Ask(Call),
    /// A call was answered, in this time to the first of it.
    Answered(Ticket, Duration),
    /// A call failed by a fault of the upstream or of the way to it.
    Failed(Ticket),
    /// A call got no answer in time.
    Silent(Ticket),
    /// A call tells nothing: its caller left, or it failed by a fault of its own.
    Left(Ticket),
    /// A result was of use: getting it and what it names took `cost`, the action had taken `gain`.
    Hit { cost: Duration, gain: Duration },
    /// A probe was answered, or was not.
    Probed(bool),
    /// Calls wait, nothing was heard for a while, and a question was not answered either.
    Deserted,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// The answer to `Ask`: none means that the call is refused.
    pub pass: Option<Pass>,
    /// Calls of these kinds that are under way are to be released, by their place in [`Call::ALL`]: in silence alone,
    /// since otherwise they may well be answered.
    pub released: [bool; 5],
    /// What people are told.
    pub talk: Option<Talk>,
}

/// A call may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// To be given back with what it came to.
    pub ticket: Ticket,
    /// When it is to be answered; past that it counts as silent.
    pub limit: Duration,
}

/// What people are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Talk {
    /// The upstream is left alone as far as these calls go.
    Opened(Call, Cause),
    /// It is used again.
    Closed,
}

/// The judge of one upstream.
#[derive(Clone, Debug)]
pub struct Judge {
    terms: Terms,
    gates: [Gate; 5],
    /// When, cost and gain.
    hits: VecDeque<(Instant, Duration, Duration)>,
    /// People know that a gate is open.
    told: bool,
    /// When people were told last that all is well.
    reassured: Option<Instant>,
}

impl Judge {
    /// One that has seen nothing and lets all pass.
    pub fn new(terms: Terms) -> Self {
        Self { gates: Call::ALL.map(Gate::new), terms, hits: VecDeque::new(), told: false, reassured: None }
    }

    /// Takes in what happened.
    pub fn apply(&mut self, now: Instant, event: Event) -> Effects {
        let before = self.open();
        let mut pass = None;
        match event {
            Event::Ask(call) => pass = self.gates[call as usize].ask(now, &self.terms),
            Event::Answered(ticket, took) => {
                self.gates[ticket.call as usize].answered(now, ticket, took, &self.terms)
            }
            Event::Failed(ticket) => self.gates[ticket.call as usize].failed(now, ticket, &self.terms),
            Event::Silent(ticket) => {
                if self.gates[ticket.call as usize].silent(now, ticket, &self.terms) {
                    self.fall_silent(now);
                }
            }
            Event::Deserted => self.fall_silent(now),
            Event::Left(ticket) => self.gates[ticket.call as usize].left(now, ticket),
            Event::Hit { cost, gain } => self.hit(now, cost, gain),
            Event::Probed(true) => {
                self.gates.iter_mut().for_each(|gate| gate.reached(now, &self.terms));
            }
            Event::Probed(false) => self.gates.iter_mut().for_each(|gate| gate.unreached(now, &self.terms)),
        }
        self.effects(now, before, pass)
    }

    /// Whether calls of each kind are refused, or tried one at a time.
    pub fn open(&self) -> [Option<Cause>; 5] {
        self.gates.each_ref().map(Gate::cause)
    }

    /// In what time an answer to such a call must come.
    fn limit(&self, call: Call) -> Duration {
        self.gates[call as usize].limit(&self.terms)
    }

    /// In what time a cheap call must be answered: that of the kind of which the answers are known to come soonest.
    pub fn shortest_limit(&self) -> Duration {
        Call::ALL.map(|call| self.limit(call)).into_iter().min().unwrap_or(self.terms.limits.1)
    }

    /// When a probe would be of use; none while all is well.
    pub fn probe_in(&self) -> Option<Duration> {
        self.gates.iter().filter_map(Gate::pause).min()
    }

    fn fall_silent(&mut self, now: Instant) {
        self.gates.iter_mut().for_each(|gate| gate.open(now, Cause::Silence, &self.terms));
    }

    fn effects(&mut self, now: Instant, before: [Option<Cause>; 5], pass: Option<Pass>) -> Effects {
        let after = self.open();
        let mut released = [false; 5];
        for (index, released) in released.iter_mut().enumerate() {
            *released = before[index] != after[index] && after[index] == Some(Cause::Silence);
        }
        let first = Call::ALL.into_iter().find_map(|call| Some((call, after[call as usize]?)));
        let quiet = self.reassured.is_some_and(|at| now.saturating_duration_since(at) < self.terms.quiet);
        let talk = match first {
            Some((call, cause)) if !self.told && !quiet => Some(Talk::Opened(call, cause)),
            None if self.told => Some(Talk::Closed),
            _ => None,
        };
        match talk {
            Some(Talk::Opened(..)) => self.told = true,
            Some(Talk::Closed) => (self.told, self.reassured) = (false, Some(now)),
            None => {}
        }
        Effects { pass, released, talk }
    }

    fn hit(&mut self, now: Instant, cost: Duration, gain: Duration) {
        let tasting = self.gates[Call::LookUp as usize].is_tasting(now);
        let closed = self.gates[Call::LookUp as usize].cause().is_none();
        if !tasting && !closed {
            // Begun before the gate opened.
            return;
        }
        self.hits.push_back((now, cost, gain));
        self.hits.retain(|(at, ..)| now.saturating_duration_since(*at) < self.terms.window);
        let enough = if tasting { self.terms.taste } else { self.terms.hits };
        if self.hits.len() < enough {
            return;
        }
        let (costs, gains) =
            self.hits.iter().fold((Duration::ZERO, Duration::ZERO), |(costs, gains), (_, cost, gain)| {
                (costs + *cost, gains + *gain)
            });
        let of_use = costs <= gains;
        for call in [Call::LookUp, Call::Read] {
            let gate = &mut self.gates[call as usize];
            match (of_use, tasting) {
                (true, true) => gate.close(now),
                (false, _) => gate.open(now, Cause::NoBenefit, &self.terms),
                (true, false) => {}
            }
        }
        if tasting || !of_use {
            self.hits.clear();
        } else if self.hits.len() > 2 * self.terms.hits {
            self.hits.pop_front();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
