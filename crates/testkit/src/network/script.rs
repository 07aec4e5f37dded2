//! What changes when, as text: one change a line.
//!
//! ```text
//! # A train: a tunnel, a station, a better line.
//! at 2s latency 100ms
//! at 5s blackhole
//! at 8s up
//! after 10MiB reset
//! at 10s flap every 2s for 300ms down
//! at 30s flap never
//! ```

use super::{
    link::{Flaps, Link, State},
    units,
};
use anyhow::{Context, Result, bail};
use std::{str::FromStr, time::Duration};

/// What changes when.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Script(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    pub(super) trigger: Trigger,
    pub(super) change: Change,
}

/// When something changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// This long after the relay began.
    At(Duration),
    /// When this many bytes have arrived, of all connections and both ways.
    After(u64),
}

/// What changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// `latency 50ms`
    Latency(Duration),
    /// `rate 10mbit`, `rate unlimited`
    Rate(Option<u64>),
    /// `loss 0.02`: a share of packets.
    Loss(f64),
    /// `resets 0.001`: a share of packets.
    Resets(f64),
    /// `cut 1MiB`, `cut never`: how much each connection may carry.
    Cut(Option<u64>),
    /// `up`, `blackhole`, `down`
    State(State),
    /// `flap every 2s for 300ms down`, `flap never`
    Flaps(Option<Flaps>),
    /// `reset`: all connections that there are, once.
    Reset,
    /// `strand`: all connections that there are carry nothing any more, not even their end.
    Strand,
}

impl Script {
    /// The script, and one step more.
    #[must_use]
    pub fn then(mut self, trigger: Trigger, change: Change) -> Self {
        self.0.push(Step { trigger, change });
        self
    }

    pub(super) fn into_steps(self) -> Vec<Step> {
        self.0
    }
}

impl Change {
    /// What is done to connections changes nothing about the link.
    pub(super) fn apply(self, link: &mut Link) {
        match self {
            Self::Latency(latency) => link.latency = latency,
            Self::Rate(rate) => link.rate = rate,
            Self::Loss(loss) => link.loss = loss,
            Self::Resets(resets) => link.resets = resets,
            Self::Cut(cut_after) => link.cut_after = cut_after,
            Self::State(state) => link.state = state,
            Self::Flaps(flaps) => link.flaps = flaps,
            Self::Reset | Self::Strand => {}
        }
    }
}

impl FromStr for Script {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut steps = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() {
                let step = step(line).with_context(|| format!("line {}: `{line}`", number + 1))?;
                steps.push(step);
            }
        }
        Ok(Self(steps))
    }
}

fn step(line: &str) -> Result<Step> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (trigger, change) = match words.as_slice() {
        ["at", time, change @ ..] => (Trigger::At(units::duration(time)?), change),
        ["after", bytes, change @ ..] => (Trigger::After(units::size(bytes)?), change),
        _ => bail!("expected `at TIME CHANGE` or `after BYTES CHANGE`"),
    };
    Ok(Step { trigger, change: change_of(change)? })
}

fn change_of(words: &[&str]) -> Result<Change> {
    Ok(match words {
        ["latency", latency] => Change::Latency(units::duration(latency)?),
        ["rate", "unlimited"] => Change::Rate(None),
        ["rate", rate] => Change::Rate(Some(units::rate(rate)?)),
        ["loss", share] => Change::Loss(units::share(share)?),
        ["resets", share] => Change::Resets(units::share(share)?),
        ["cut", "never"] => Change::Cut(None),
        ["cut", bytes] => Change::Cut(Some(units::size(bytes)?)),
        ["flap", "never"] => Change::Flaps(None),
        ["flap", "every", every, "for", lasting, state] => {
            let (every, lasting) = (units::duration(every)?, units::duration(lasting)?);
            Change::Flaps(Some(Flaps { every, lasting, state: state_of(state)? }))
        }
        ["reset"] => Change::Reset,
        ["strand"] => Change::Strand,
        [state] => Change::State(state_of(state)?),
        _ => bail!("no such change"),
    })
}

fn state_of(word: &str) -> Result<State> {
    Ok(match word {
        "up" => State::Up,
        "blackhole" => State::BlackHole,
        "down" => State::Down,
        _ => bail!("`{word}` is no state; expected `up`, `blackhole` or `down`"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_understood() {
        let ms = Duration::from_millis;
        let flaps = Flaps { every: ms(2_000), lasting: ms(300), state: State::Down };
        for (line, trigger, change) in [
            ("at 2s latency 100ms", Trigger::At(ms(2_000)), Change::Latency(ms(100))),
            ("at 0s rate 10mbit", Trigger::At(ms(0)), Change::Rate(Some(1_250_000))),
            ("at 0s rate unlimited", Trigger::At(ms(0)), Change::Rate(None)),
            ("after 1KiB loss 0.5", Trigger::After(1024), Change::Loss(0.5)),
            ("after 1B resets 1", Trigger::After(1), Change::Resets(1.0)),
            ("at 1min cut 5MB", Trigger::At(ms(60_000)), Change::Cut(Some(5_000_000))),
            ("at 1s cut never", Trigger::At(ms(1_000)), Change::Cut(None)),
            ("at 1s up", Trigger::At(ms(1_000)), Change::State(State::Up)),
            ("at 1s  blackhole # a tunnel", Trigger::At(ms(1_000)), Change::State(State::BlackHole)),
            ("at 1s reset", Trigger::At(ms(1_000)), Change::Reset),
            ("at 1s strand", Trigger::At(ms(1_000)), Change::Strand),
            ("at 1s flap every 2s for 300ms down", Trigger::At(ms(1_000)), Change::Flaps(Some(flaps))),
            ("at 1s flap never", Trigger::At(ms(1_000)), Change::Flaps(None)),
        ] {
            let script: Script = line.parse().unwrap();
            assert_eq!(script, Script::default().then(trigger, change), "{line}");
        }
        assert_eq!("# nothing\n\n".parse::<Script>().unwrap(), Script::default());
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_line() {
        for line in [
            "latency 5ms",
            "at latency 5ms",
            "at 5 up",
            "at 1s",
            "at 1s sideways",
            "at 1s loss 2",
            "at 1s loss -1",
            "at 1s rate 5",
            "after 5s up",
            "at 1s flap every 2s down",
            "at 1s latency 5ms 6ms",
        ] {
            let error = format!("{:#}", format!("at 1s up\n{line}").parse::<Script>().unwrap_err());
            assert!(error.contains("line 2") && error.contains(line), "{error}");
        }
    }
}
