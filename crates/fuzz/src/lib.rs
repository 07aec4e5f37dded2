//! What is fuzzed: functions that take any bytes and panic where something does not hold. They are run
//!
//! - over their corpus and seeded mutations of it, by the tests of this crate, on any compiler;
//! - for as long as one likes, without knowledge of what is covered: `cargo xtask fuzz NAME --minutes N`;
//! - by libFuzzer, guided by coverage: `cargo run --release --bin NAME`, in `fuzz/` beside `crates/`.
//!
//! A crate of its own and no part of `testkit`: it sees the crates whose parsers it feeds, and all their tests see
//! `testkit`.

mod campaign;
mod disk;
mod frames;
mod mutation;
mod resource;

pub use campaign::{Campaign, Finding};
pub use mutation::Mutator;

/// Something that is fuzzed.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, and that of its corpus in `fuzz/corpus`.
    pub name: &'static str,
    /// Takes any bytes; panics where a property does not hold. Tells what became of the bytes, in words: an input with
    /// a new outcome is worth keeping.
    pub run: fn(&[u8]) -> String,
    /// Inputs to begin with, valid ones above all.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets. Each also has a file in `fuzz/fuzz_targets`.
pub const ALL: &[Target] = &[
    Target { name: "index", run: disk::index, seeds: disk::index_seeds },
    Target { name: "inflate", run: frames::inflate, seeds: frames::inflate_seeds },
    Target { name: "one_frame", run: frames::one_frame, seeds: frames::one_frame_seeds },
    Target { name: "resource", run: resource::resource, seeds: resource::seeds },
    Target { name: "segment", run: disk::segment, seeds: disk::segment_seeds },
    Target { name: "seekable", run: frames::seekable, seeds: frames::seekable_seeds },
];

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    ALL.iter().copied().find(|target| target.name == name)
}

/// Runs a target by name, for libFuzzer; panics if there is none.
pub fn run(name: &str, data: &[u8]) {
    let target = target(name).unwrap_or_else(|| panic!("`{name}` is no target"));
    (target.run)(data);
}
