//! Whether an upstream takes our credentials, for people: told once when it no longer does, and once when it does again.
//!
//! Servers may let everybody read and only some write, so each kind of call is judged by itself; who may write may do
//! anything. Calls that began before a refusal say nothing about the time after it.

use mortar_remote::breaker::Call;
use parking_lot::Mutex;
use std::time::Instant;

#[derive(Default)]
pub(super) struct Admission(Mutex<State>);

#[derive(Default)]
struct State {
    /// When calls of each kind were refused last, by their place in [`Call::ALL`].
    refused: [Option<Instant>; 5],
    told: bool,
}

impl Admission {
    /// A call was refused. Whether people are to be told.
    pub fn refused(&self, call: Call) -> bool {
        let mut state = self.0.lock();
        state.refused[call as usize] = Some(Instant::now());
        !std::mem::replace(&mut state.told, true)
    }

    /// A call that began then was not refused. Whether people are to be told.
    pub fn admitted(&self, call: Call, begun: Instant) -> bool {
        let mut state = self.0.lock();
        if !state.told {
            return false;
        }
        for kind in Call::ALL {
            let refused = &mut state.refused[kind as usize];
            if (kind == call || call == Call::Write) && refused.is_some_and(|at| at < begun) {
                *refused = None;
            }
        }
        let is_in = state.refused.iter().all(Option::is_none);
        is_in && std::mem::replace(&mut state.told, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_told_once_each_way() {
        let (admission, before) = (Admission::default(), Instant::now());
        assert!(!admission.admitted(Call::Read, before), "nobody had been refused");
        assert!(admission.refused(Call::LookUp));
        assert!(!admission.refused(Call::Write) && !admission.refused(Call::LookUp));
        assert!(!admission.admitted(Call::Write, before), "it was under way already");
        let after = Instant::now() + std::time::Duration::from_millis(1);
        assert!(!admission.admitted(Call::LookUp, after), "writes are still refused");
        assert!(!admission.admitted(Call::Read, after));
        assert!(admission.admitted(Call::Write, after));
        assert!(!admission.admitted(Call::Write, after), "told once");
        assert!(admission.refused(Call::Read));
        assert!(
            admission.admitted(Call::Write, after + std::time::Duration::from_secs(60)),
            "who may write may read"
        );
    }
}
