//! Who starts when. The place that is likely to be faster starts at once; the other follows when the first is late, so
//! that not every action is paid for twice. What nothing is known of starts at both, and both are learned.

use std::time::Duration;

/// How late the faster place may be before the other starts: its time and half of it again, and this.
const SLACK: Duration = Duration::from_millis(20);

/// After which time each place starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// This machine.
    pub local: Duration,
    /// The upstream.
    pub remote: Duration,
}

impl Plan {
    /// From what each place is likely to take.
    pub fn of(local: Option<Duration>, remote: Option<Duration>) -> Self {
        let at_once = Self { local: Duration::ZERO, remote: Duration::ZERO };
        let (Some(local), Some(remote)) = (local, remote) else { return at_once };
        let late = |faster: Duration| faster + faster / 2 + SLACK;
        if local <= remote {
            Self { remote: late(local), ..at_once }
        } else {
            Self { local: late(remote), ..at_once }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_faster_place_starts_and_the_other_when_it_is_late() {
        let ms = Duration::from_millis;
        let both = Plan { local: ms(0), remote: ms(0) };
        for (local, remote, expected) in [
            (None, None, both),
            (Some(ms(10)), None, both),
            (None, Some(ms(10)), both),
            (Some(ms(100)), Some(ms(300)), Plan { local: ms(0), remote: ms(170) }),
            (Some(ms(300)), Some(ms(100)), Plan { local: ms(170), remote: ms(0) }),
            (Some(ms(100)), Some(ms(100)), Plan { local: ms(0), remote: ms(170) }),
        ] {
            assert_eq!(Plan::of(local, remote), expected, "{local:?} {remote:?}");
        }
    }
}
