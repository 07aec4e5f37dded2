//! The rate of one way of a link, shared by its connections, and the decisions of chance.

use std::{sync::Mutex, time::Duration};
use tokio::time::Instant;

/// Bytes of one packet, for loss and resets.
pub(super) const PACKET: u64 = 1_460;

/// When the next byte may leave, one way.
pub(super) struct Shaper {
    free: Mutex<Option<Instant>>,
}

impl Shaper {
    pub(super) fn new() -> Self {
        Self { free: Mutex::new(None) }
    }

    /// When `bytes` that are here now have left. The link is theirs until then.
    pub(super) fn send(&self, bytes: usize, rate: Option<u64>) -> Instant {
        let now = Instant::now();
        let Some(rate) = rate else { return now };
        let mut free = self.free.lock().expect("nothing panics while it is locked");
        let start = free.map_or(now, |free| free.max(now));
        let end = start + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        *free = Some(end);
        end
    }
}

/// What chance has in store for one way of one connection: the same for the same seed, however bytes are cut into pieces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chance {
    base: u64,
}

impl Chance {
    pub(super) fn new(seed: u64, connection: u64, way: super::counters::Way) -> Self {
        Self { base: mix(mix(seed).wrapping_add(connection) ^ ((way as u64) << 63)) }
    }

    /// How many of the packets that begin in `offset..offset + length` meet a fate of this probability. `salt` tells fates apart.
    pub(super) fn hits(self, offset: u64, length: usize, probability: f64, salt: u64) -> u64 {
        if probability <= 0.0 {
            return 0;
        }
        let (first, end) = (offset.div_ceil(PACKET), (offset + length as u64).div_ceil(PACKET));
        let is_hit = |packet: &u64| {
            let drawn = mix(self.base ^ mix(packet.wrapping_mul(2) ^ (salt << 60)));
            ((drawn >> 11) as f64) / ((1u64 << 53) as f64) < probability
        };
        (first..end).filter(is_hit).count() as u64
    }
}

/// The finaliser of SplitMix64, after its step.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::{super::counters::Way, *};

    #[test]
    fn chance_depends_on_seed_connection_and_way_and_not_on_pieces() {
        let length = 3_000_000;
        let whole = |chance: Chance| chance.hits(0, length, 0.1, 0);
        let chance = Chance::new(7, 3, Way::Up);
        let expected = whole(chance);
        assert!((150..260).contains(&expected), "a tenth of 2055 packets, about: {expected}");
        let in_pieces: u64 =
            (0..length).step_by(777).map(|at| chance.hits(at as u64, 777.min(length - at), 0.1, 0)).sum();
        assert_eq!(in_pieces, expected);
        let which = |chance: Chance| -> Vec<u64> {
            (0..2_000).filter(|packet| chance.hits(packet * PACKET, 1, 0.1, 0) > 0).collect()
        };
        assert_eq!(which(chance), which(Chance::new(7, 3, Way::Up)));
        for other in [Chance::new(8, 3, Way::Up), Chance::new(7, 4, Way::Up), Chance::new(7, 3, Way::Down)] {
            assert_ne!(which(chance), which(other));
        }
        assert_eq!(chance.hits(0, length, 0.0, 0), 0);
        assert_eq!(chance.hits(0, 14_600, 1.0, 0), 10);
    }

    #[tokio::test]
    async fn the_rate_is_shared() {
        let shaper = Shaper::new();
        let start = Instant::now();
        for _ in 0..3 {
            shaper.send(1_000, Some(10_000));
        }
        assert!(shaper.send(1_000, Some(10_000)) >= start + Duration::from_millis(400));
        assert!(Shaper::new().send(1 << 30, None) <= Instant::now());
    }
}
