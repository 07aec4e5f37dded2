//! The first pass: all segments from the first to the last, as they lie on disk, compared with what the index expects
//! to find where. Only the places of some segments at a time are held in memory.

use super::{Pass, STEP, Verdict, files::FileCheck, named};
use crate::disk::{
    frame::{HEADER, Header, Place, Role},
    key::Key,
    scan::Scan,
    segments::{FIRST, Unread},
    table::{self, Entry, Form},
};
use bytes::Bytes;
use mortar_model::Digest;
use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::atomic::Ordering::Relaxed,
};

/// So many places are held in memory, unless one segment alone has more.
const PLACES: usize = 1 << 20;
/// So many blobs that the index does not know are taken up in one verification.
const MOST_STRAYS: usize = 1 << 20;

/// The pass, as far as it has come.
pub(super) struct Records {
    /// Those to be read yet, and how many entries of the index point into each.
    segments: VecDeque<(u32, usize)>,
    /// What entries point at, in order, in the segments up to `gathered`.
    expected: VecDeque<Place>,
    gathered: u32,
    scan: Option<Scan>,
    /// What `done` is when the present segment is through.
    segment_end: u64,
    /// Places of the present segment where the index expects what was not met.
    unmet: Vec<Place>,
    /// Records of nobody knows what, that entries point at.
    suspects: HashSet<Place>,
    files: Vec<(Key, u64)>,
    file: Option<FileCheck>,
    pub(super) unknown: Unknown,
}

/// What lies in segments besides that of which the index knows.
#[derive(Default)]
pub(super) struct Unknown {
    /// Blobs without an entry: key, place, sequence.
    pub(super) blobs: Vec<(Key, Place, u64)>,
    /// The last removal of each key, by part of its hash.
    removals: HashMap<u64, u64>,
    /// The last record of each file without an entry.
    files: HashMap<u64, u64>,
}

impl Unknown {
    /// Whether a thing of this sequence was removed later.
    pub(super) fn is_removed(&self, key: &Key, sequence: u64) -> bool {
        self.removals.get(&short(key)).is_some_and(|removed| *removed >= sequence)
    }

    /// Whether the last that was said of a file is that it goes.
    pub(super) fn is_file_removed(&self, key: &Key) -> bool {
        self.is_removed(key, self.files.get(&short(key)).copied().unwrap_or(0))
    }

    fn note(last: &mut HashMap<u64, u64>, key: &Key, sequence: u64) {
        let last = last.entry(short(key)).or_default();
        *last = sequence.max(*last);
    }
}

/// Two keys that have it in common would at worst keep a blob from being taken up again.
fn short(key: &Key) -> u64 {
    crate::disk::frame::number(&key.hash[..8]) ^ key.space as u64
}

impl Records {
    pub(super) fn begin(pass: &mut Pass) -> Self {
        let shared = pass.shared.clone();
        let lengths = shared.segments.from(0);
        pass.now.total = lengths.iter().map(|(_, length)| length).sum::<u64>() + shared.usage.files();
        let mut counts: BTreeMap<u32, usize> = lengths.iter().map(|(number, _)| (*number, 0)).collect();
        let mut gone = 0;
        shared.table.visit(|entry, _| {
            let number = entry.place.segment;
            match shared.segments.contains(number) {
                true => *counts.entry(number).or_default() += 1,
                false => gone += 1,
            }
            table::Verdict::Keep
        });
        // The count at the end forgets them.
        (0..gone).for_each(|_| pass.found(Verdict::Lost, "an entry of the index", "its segment is gone"));
        Self {
            segments: counts.into_iter().collect(),
            expected: VecDeque::new(),
            gathered: 0,
            scan: None,
            segment_end: 0,
            unmet: Vec::new(),
            suspects: HashSet::new(),
            files: Vec::new(),
            file: None,
            unknown: Unknown::default(),
        }
    }

    /// Reads some more. Whether there is anything left.
    pub(super) fn step(&mut self, pass: &mut Pass) -> bool {
        if let Some(file) = &mut self.file {
            if !file.step(pass) {
                self.file = None;
            }
        } else if let Some((key, size)) = self.files.pop() {
            self.file = FileCheck::begin(pass, key, size);
        } else if self.scan.is_some() {
            self.read_on(pass);
        } else if let Some((number, count)) = self.segments.pop_front() {
            self.open(pass, number, count);
        } else {
            self.drop_suspects(pass);
            return false;
        }
        true
    }

    fn open(&mut self, pass: &mut Pass, number: u32, count: usize) {
        if number > self.gathered {
            self.gather(pass, number, count);
        }
        let shared = &pass.shared;
        match Scan::open(&shared.segments, shared.secret, number, FIRST) {
            Ok(scan) => {
                let length = shared.segments.from(number).first().map_or(0, |(_, length)| *length);
                self.segment_end = pass.now.done + length;
                self.scan = Some(scan);
            }
            // It was reclaimed meanwhile.
            Err(Unread::Gone) => self.expected.retain(|place| place.segment > number),
            Err(unread) => {
                self.expected.retain(|place| place.segment > number);
                pass.found(Verdict::Unreadable, format!("segment {number:08x}"), format!("{unread:?}"));
            }
        }
    }

    /// Looks up where in this segment, and in as many of the next ones as memory allows, things are expected.
    fn gather(&mut self, pass: &Pass, first: u32, mut count: usize) {
        self.gathered = first;
        for (number, more) in &self.segments {
            count += more;
            if count > PLACES {
                break;
            }
            self.gathered = *number;
        }
        let mut places = Vec::new();
        pass.shared.table.visit(|entry, _| {
            if (first..=self.gathered).contains(&entry.place.segment) {
                places.push(entry.place);
            }
            table::Verdict::Keep
        });
        places.sort_unstable();
        self.expected = places.into();
    }

    fn read_on(&mut self, pass: &mut Pass) {
        let Some(mut scan) = self.scan.take() else { return };
        let until = pass.now.done + STEP;
        while pass.now.done < until {
            match scan.next() {
                Some((place, header, payload)) => {
                    pass.now.done += header.length() as u64;
                    self.meet(pass, place, header, payload);
                }
                None => return self.end_segment(pass),
            }
        }
        self.scan = Some(scan);
    }

    fn next_expected_if(&mut self, fits: impl FnOnce(&Place) -> bool) -> Option<Place> {
        self.expected.front().is_some_and(fits).then(|| self.expected.pop_front()).flatten()
    }

    fn meet(&mut self, pass: &mut Pass, place: Place, header: Header, payload: Bytes) {
        while let Some(next) = self.next_expected_if(|next| *next < place) {
            self.unmet.push(next);
        }
        let is_expected = self.next_expected_if(|next| *next == place).is_some();
        let (key, sequence) = (header.key, header.sequence);
        while self.next_expected_if(|next| *next == place).is_some() {
            // Which of the entries is wrong, they do not tell: all go, and the blob is found again.
            self.suspects.insert(place);
            self.unknown.blobs.push((key, place, sequence));
        }
        match pass.shared.table.get(&key) {
            _ if header.role == Role::Removed => {
                Unknown::note(&mut self.unknown.removals, &key, sequence);
            }
            Some(entry) if entry.place == place => return self.check(pass, &entry, header, payload),
            Some(_) => {}
            None if header.role == Role::File => Unknown::note(&mut self.unknown.files, &key, sequence),
            // Of things that do not hash their content an older one must not come back: nobody knows what a
            // newer one said that has gone since.
            None if !header.dead
                && key.space.function().is_some()
                && self.unknown.blobs.len() < MOST_STRAYS =>
            {
                self.unknown.blobs.push((key, place, sequence));
            }
            None => {}
        }
        if is_expected {
            self.unmet.push(place);
        }
    }

    /// A record that is as it was written.
    fn check(&mut self, pass: &mut Pass, entry: &Entry, header: Header, payload: Bytes) {
        let key = header.key;
        if entry.form == Form::File && header.role == Role::File {
            return self.files.push((key, header.size));
        }
        let flaw = match entry.size == header.size {
            false => Some("the index knows of another size"),
            true if pass.deep => match pass.shared.content(&header, payload) {
                Ok(content) => key.digest(header.size).and_then(|digest| {
                    let differs = Digest::of(digest.function(), &content) != digest;
                    differs.then_some("its content has another hash")
                }),
                Err(_) => Some("its content cannot be decompressed"),
            },
            true => None,
        };
        match flaw {
            None => pass.checked(&key),
            Some(flaw) => {
                pass.shared.quarantine(key, entry, flaw);
                // The record is a valid one: it must not be taken up again.
                pass.shared.log_removal(&[key]);
                pass.found(Verdict::Damaged, named(&key), flaw);
            }
        }
    }

    fn end_segment(&mut self, pass: &mut Pass) {
        pass.now.done = pass.now.done.max(self.segment_end);
        let number = match self.segments.front() {
            Some((next, _)) => *next,
            None => u32::MAX,
        };
        while let Some(next) = self.next_expected_if(|next| next.segment < number) {
            self.unmet.push(next);
        }
        for place in std::mem::take(&mut self.unmet) {
            self.look_again(pass, place);
        }
    }

    /// Looks at one place alone, where the index expects something that was not met.
    fn look_again(&mut self, pass: &mut Pass, place: Place) {
        let shared = pass.shared.clone();
        let flaw = match shared.segments.read_any(place) {
            Err(Unread::Gone) => return,
            Ok((header, payload)) => {
                match shared.table.get(&header.key).filter(|entry| entry.place == place) {
                    Some(entry) => return self.check(pass, &entry, header, payload),
                    None => "its record is that of something else".to_owned(),
                }
            }
            Err(Unread::Damaged(flaw)) => format!("its record is damaged: {flaw:?}"),
            Err(Unread::Failed(error)) => format!("its record cannot be read: {error}"),
        };
        // What is left of the header may still tell what it was; the index knows whether that is so.
        let disk = shared.segments.disk(place.segment).ok();
        let header = disk.and_then(|disk| disk.read_at(u64::from(place.offset), HEADER).ok());
        let key = header.and_then(|header| Header::parse(&header).ok()).map(|header| header.key);
        let entry = key.and_then(|key| shared.table.get(&key)).filter(|entry| entry.place == place);
        match (key, entry) {
            (Some(key), Some(entry)) => {
                shared.quarantine(key, &entry, &flaw);
                pass.found(Verdict::Damaged, named(&key), flaw);
            }
            _ => drop(self.suspects.insert(place)),
        }
    }

    /// Takes out of the index what points at records that are none.
    fn drop_suspects(&mut self, pass: &mut Pass) {
        if self.suspects.is_empty() {
            return;
        }
        let shared = pass.shared.clone();
        let judge = shared.leases.judge();
        let mut dropped = Vec::new();
        shared.table.visit(|entry, touch| match self.suspects.contains(&entry.place) {
            true => {
                dropped.push((*entry, judge.hold(touch)));
                table::Verdict::Remove
            }
            false => table::Verdict::Keep,
        });
        for (entry, hold) in dropped {
            shared.usage.replaced(Some(&entry), None);
            shared.counters.quarantined.fetch_add(1, Relaxed);
            if hold == crate::disk::leases::Hold::Hard {
                shared.counters.violations.fetch_add(1, Relaxed);
            }
            let Place { segment, offset } = entry.place;
            let (what, bytes) = (entry.space.name(), entry.size);
            let name = format!("{what} of {bytes} bytes in segment {segment:08x} at {offset}");
            pass.found(Verdict::Damaged, name, "its record cannot be read");
        }
    }
}
