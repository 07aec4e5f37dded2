//! How large the blobs of real builds are, and which calls a build makes of which kind: what the scenario `mix` draws from.
//!
//! Measured on a build of abseil's strings, cord, str_format, flat_hash_map and synchronization (the 20220623 release, as
//! Debian has it) by Bazel 4.2.3 with remote execution on this very server: 90 actions, whose inputs, Action, Command and Directory
//! messages and outputs are 1,077 blobs of 10.2 MB. Bazel's own log of its calls counted, for the build from nothing, 90
//! GetActionResult, 90 FindMissingBlobs, 902 Write and 175 Read; for the same build out of the cache, 90 GetActionResult
//! and 175 Read.

use super::content::Random;

/// The mean size of each thirty-second of the blobs, from the smallest to the largest. So a draw has the distribution of
/// the whole, and the mean of many draws its mean, 9.4 kB.
pub(super) const SIZES: [usize; 32] = [
    78, 83, 109, 144, 144, 153, 161, 162, 162, 178, 297, 446, 640, 804, 977, 1063, 1119, 1178, 1323, 1975,
    2504, 3283, 4404, 5599, 7641, 9365, 10530, 11680, 14406, 23111, 39240, 159_413,
];

/// Digests in one question after what is missing, on average: the inputs of an action, with their directories.
pub(super) const ASKED: usize = 84;

/// A call of the mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    GetResult,
    PutResult,
    FindMissing,
    Write,
    Read,
}

/// Out of a hundred calls: those of one build from nothing and four out of the cache, and an UpdateActionResult for each
/// action that ran.
const MIX: [(Call, usize); 5] = [
    (Call::GetResult, 19),
    (Call::PutResult, 4),
    (Call::FindMissing, 4),
    (Call::Write, 37),
    (Call::Read, 36),
];

/// The next call of a build.
pub(super) fn call(random: &mut Random) -> Call {
    let mut left = random.below(100);
    for (call, share) in MIX {
        if left < share {
            return call;
        }
        left -= share;
    }
    Call::Read
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_are_of_a_hundred() {
        assert_eq!(MIX.iter().map(|(_, share)| share).sum::<usize>(), 100);
        let mut random = Random::of(1);
        let calls: Vec<Call> = (0..10_000).map(|_| call(&mut random)).collect();
        for (kind, share) in MIX {
            let seen = calls.iter().filter(|call| **call == kind).count();
            assert!(
                seen.abs_diff(share * 100) < 300,
                "{kind:?}: {seen} of 10,000; expected some {}",
                share * 100
            );
        }
    }

    #[test]
    fn sizes_are_in_order_and_blobs_can_be_that_small() {
        assert!(SIZES.is_sorted() && SIZES[0] >= super::super::content::TAIL);
        assert_eq!(SIZES.iter().sum::<usize>() / SIZES.len(), 9449);
    }
}
