//! The way of one invocation: what was sent ahead, what was asked for, and when to look again. Pure.

use bytes::Bytes;
use mortar_model::{ActionKey, DigestFunction, Whence};
use std::collections::{HashMap, HashSet};
use tokio::sync::oneshot;

/// A look goes on when fewer results than these are left that nobody has asked for. Builds ask for the same in another
/// order, so that what is needed next may come last.
const FEW: usize = 1_024;
/// Results that are remembered, so that they are not kept again.
const REMEMBERED: usize = 100_000;
/// Looks at the same time.
const LOOKS: usize = 2;
/// A look of which the last so many came before goes the way of another one.
const KNOWN_WAY: usize = 32;
/// The longest pause after looks that brought nothing, in look-ups that find nothing here.
const LONGEST_PAUSE: u32 = 256;

/// One look: what it brings.
#[derive(Default)]
pub(super) struct Look {
    /// Results that came, and those of them that were new.
    pub came: usize,
    pub brought: usize,
    /// How many that were not have come since.
    known: usize,
}

impl Look {
    /// A result came.
    pub fn brings(&mut self, is_new: bool) {
        self.came += 1;
        self.brought += usize::from(is_new);
        self.known = if is_new { 0 } else { self.known + 1 };
    }

    /// Whether another one has gone before it lately, and may go on alone.
    pub fn follows_another(&self) -> bool {
        self.known >= KNOWN_WAY
    }
}

#[derive(Default)]
pub(super) struct Course {
    looks: usize,
    /// Looks in a row that brought nothing, and how many look-ups are still let pass before the next.
    fruitless: u32,
    pause: u32,
    /// What came or is being kept, and of that what nobody has asked for yet.
    brought: HashSet<ActionKey>,
    unasked: HashSet<ActionKey>,
    /// Where looks ended that can go on.
    further: Vec<Whence>,
    waiting: HashMap<ActionKey, Vec<oneshot::Sender<()>>>,
    /// The number of the last look-up of all invocations that was one of this one.
    pub(super) touched: u64,
}

impl Course {
    /// An action is asked for, and its result is here. From where to look further now, if it is time to; that look counts
    /// as begun. Whether the result had been sent ahead.
    pub(super) fn found(&mut self, key: ActionKey) -> (bool, Option<Whence>) {
        let sent_ahead = self.unasked.remove(&key);
        if self.looks >= LOOKS || self.unasked.len() >= FEW {
            return (sent_ahead, None);
        }
        let further = self.further.pop();
        self.looks += usize::from(further.is_some());
        (sent_ahead, further)
    }

    /// An action is asked for, and its result is not here. Whether to look ahead from it now; that look counts as begun.
    /// While looks are under way, its result may be among what comes: whoever asks is told.
    pub(super) fn missed(&mut self, key: ActionKey) -> (bool, Option<oneshot::Receiver<()>>) {
        let looks = self.looks < LOOKS && self.pause == 0;
        self.pause = self.pause.saturating_sub(1);
        self.looks += usize::from(looks);
        let told = (self.looks > 0).then(|| {
            let (tell, told) = oneshot::channel();
            self.waiting.entry(key).or_default().push(tell);
            told
        });
        (looks, told)
    }

    /// A result comes. Whether it is one that did not come before: looks that begin near each other bring the same.
    pub(super) fn comes(&mut self, key: ActionKey) -> bool {
        if self.brought.len() >= REMEMBERED {
            self.brought.clear();
        }
        self.brought.insert(key)
    }

    /// A result has come and is here now.
    pub(super) fn came(&mut self, key: ActionKey) {
        let waiting = self.waiting.remove(&key).unwrap_or_default();
        if waiting.is_empty() {
            self.unasked.insert(key);
        }
        for tell in waiting {
            // Who has been answered otherwise does not listen any more.
            let _ = tell.send(());
        }
    }

    /// A look has ended after so many results; it can go on from `further`.
    pub(super) fn ended(&mut self, brought: usize, further: Option<(DigestFunction, Bytes)>) {
        self.looks -= 1;
        if brought > 0 {
            (self.fruitless, self.pause) = (0, 0);
        } else {
            self.fruitless += 1;
            self.pause = (1 << self.fruitless.min(8)).min(LONGEST_PAUSE);
        }
        self.further.extend(further.map(|(function, cursor)| Whence::Cursor(function, cursor)));
        if self.looks == 0 {
            // Nobody brings anything any more.
            self.waiting.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> ActionKey {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&number.to_le_bytes());
        ActionKey { function: DigestFunction::Sha256, hash }
    }

    #[test]
    fn who_waits_is_told_and_what_comes_early_is_counted() {
        let mut course = Course::default();
        let (looks, told) = course.missed(key(0));
        assert!(looks);
        let mut told = told.unwrap();
        course.came(key(0));
        assert_eq!(told.try_recv(), Ok(()));
        course.came(key(1));
        assert_eq!(course.found(key(1)), (true, None));
        assert_eq!(course.found(key(1)), (false, None), "it counts once");
    }

    #[test]
    fn a_look_goes_on_when_little_is_left() {
        let mut course = Course::default();
        assert!(course.missed(key(0)).0);
        (1..=2 * FEW).for_each(|number| course.came(key(number)));
        course.ended(2 * FEW, Some((DigestFunction::Sha256, Bytes::from_static(b"further"))));
        for number in 1..=FEW {
            assert_eq!(course.found(key(number)), (true, None), "{number}");
        }
        let further = Whence::Cursor(DigestFunction::Sha256, Bytes::from_static(b"further"));
        assert_eq!(course.found(key(FEW + 1)), (true, Some(further)));
        assert_eq!(course.found(key(FEW + 2)), (true, None), "it is under way");
    }

    #[test]
    fn what_came_is_not_kept_again() {
        let mut course = Course::default();
        assert!(course.comes(key(1)) && course.comes(key(2)));
        assert!(!course.comes(key(1)));
    }

    #[test]
    fn a_look_that_brings_what_came_before_follows_another() {
        let mut look = Look::default();
        for (count, is_new) in [(10, true), (KNOWN_WAY, false), (1, true), (KNOWN_WAY - 1, false)] {
            (0..count).for_each(|_| look.brings(is_new));
        }
        assert!(!look.follows_another(), "it has found something of its own");
        look.brings(false);
        assert!(look.follows_another());
        assert_eq!((look.came, look.brought), (11 + 2 * KNOWN_WAY, 11));
    }

    #[test]
    fn looks_that_bring_nothing_become_rarer_and_are_few_at_a_time() {
        let mut course = Course::default();
        let begun = (0..10).filter(|number| course.missed(key(*number)).0).count();
        assert_eq!(begun, LOOKS);
        (0..begun).for_each(|_| course.ended(0, None));
        let mut looks = 0;
        for number in 0..10_000 {
            if course.missed(key(number)).0 {
                course.ended(0, None);
                looks += 1;
            }
        }
        assert!((30..60).contains(&looks), "{looks}");
        assert!(course.waiting.is_empty());
    }

    #[test]
    fn without_a_look_nobody_waits() {
        let mut course = Course::default();
        course.missed(key(0)).1.unwrap();
        course.ended(0, None);
        assert!(course.missed(key(1)).1.is_none(), "it pauses");
    }
}
