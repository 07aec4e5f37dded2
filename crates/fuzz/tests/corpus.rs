//! Every target over its corpus and some thousand mutations of it: a glance at what a long run looks at.
#![allow(clippy::unwrap_used)]

use mortar_fuzz::{ALL, Campaign};
use std::{collections::BTreeSet, fs, path::Path};

const MUTATIONS: usize = 4000;
const MOST: u64 = 200 * 1024;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz"))
}

#[test]
fn nothing_is_found_in_the_corpus_and_near_it() {
    for target in ALL {
        let directory = root().join("corpus").join(target.name);
        let mut campaign = Campaign::new(*target, &directory, 1).unwrap().unwrap();
        for _ in 0..MUTATIONS {
            campaign.step().unwrap_or_else(|finding| panic!("{}: {finding:?}", target.name));
        }
        assert!(campaign.outcomes() >= 4, "{}: all inputs look alike", target.name);
    }
}

#[test]
fn seeds_are_good() {
    for target in ALL {
        for seed in (target.seeds)() {
            let outcome = (target.run)(&seed);
            assert!(["good", "blob", "upload"].iter().any(|word| outcome.starts_with(word)), "{outcome}");
        }
    }
}

#[test]
fn every_target_is_there_for_libfuzzer_and_has_a_small_corpus() {
    let names = |directory: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(root().join(directory)).unwrap();
        entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    let targets: BTreeSet<_> = ALL.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names("fuzz_targets"), targets);
    assert_eq!(names("corpus"), targets);
    let mut size = 0;
    for name in names("corpus") {
        let files = fs::read_dir(root().join("corpus").join(name)).unwrap();
        size += files.map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>();
    }
    assert!(size > 0 && size <= MOST, "the corpus has {size} bytes");
}
