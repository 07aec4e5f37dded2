//! What a network is like.

use std::time::Duration;

/// The properties of a network, the same both ways. The default changes nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Link {
    /// How long each byte is on its way, each way. Any number of bytes may be on their way at once. Making a connection
    /// takes three times this until the first byte of the client arrives, as with TCP's handshake.
    pub latency: Duration,
    /// Bytes per second, each way, shared by all connections.
    pub rate: Option<u64>,
    /// The share of packets that are lost: what they hold, and what follows, comes later by a retransmission time-out.
    pub loss: f64,
    /// The share of packets that reset their connection.
    pub resets: f64,
    /// A connection ends in good order after this many bytes, both ways counted.
    pub cut_after: Option<u64>,
    /// Whether anything passes.
    pub state: State,
    /// The network goes away again and again.
    pub flaps: Option<Flaps>,
}

/// Whether anything passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// As the rest of the link says.
    #[default]
    Up,
    /// Connections are kept and accepted, and nothing passes until the network is up again.
    BlackHole,
    /// Connections are reset, new ones too.
    Down,
}

/// A network that goes away again and again while it is up otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flaps {
    /// From one time that it goes away to the next.
    pub every: Duration,
    /// How long it stays away.
    pub lasting: Duration,
    /// How it is then.
    pub state: State,
}

impl Flaps {
    /// The state at `age` since this began, and how long it lasts from then on. Each period begins up.
    pub(super) fn at(&self, age: Duration) -> (State, Duration) {
        let every = self.every.as_nanos().max(1);
        let into = age.as_nanos() % every;
        let up = every.saturating_sub(self.lasting.as_nanos());
        let (state, until) = if into < up { (State::Up, up) } else { (self.state, every) };
        (state, Duration::from_nanos(u64::try_from(until - into).unwrap_or(u64::MAX)))
    }
}

impl Link {
    /// A network with this latency each way and nothing else.
    pub fn with_latency(latency: Duration) -> Self {
        Self { latency, ..Self::default() }
    }

    /// How long TCP waits before it sends again what was lost: at least 200 ms, as on Linux, beyond a round trip.
    pub(super) fn retransmission(&self) -> Duration {
        Duration::from_millis(200) + 2 * self.latency
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flaps_begin_up_and_come_again() {
        let ms = Duration::from_millis;
        let flaps = Flaps { every: ms(100), lasting: ms(30), state: State::Down };
        for (age, state, left) in [
            (0, State::Up, 70),
            (69, State::Up, 1),
            (70, State::Down, 30),
            (99, State::Down, 1),
            (100, State::Up, 70),
            (1_075, State::Down, 25),
        ] {
            assert_eq!(flaps.at(ms(age)), (state, ms(left)), "{age}");
        }
        let always = Flaps { every: ms(10), lasting: ms(20), state: State::BlackHole };
        assert_eq!(always.at(ms(3)), (State::BlackHole, ms(7)));
    }
}
