//! Runs one target over mutations of what it knows, and learns from what becomes of them.

use crate::{Mutator, Target};
use std::{
    collections::HashMap,
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

/// The longest input that is kept in a corpus, in bytes, and the most that all of a corpus may have.
const LONGEST_KEPT: usize = 4096;
const MOST_KEPT: usize = 40 * 1024;
/// Attempts to make an input shorter before it is kept.
const SHORTENINGS: usize = 200;

/// Fuzzing of one target.
pub struct Campaign {
    target: Target,
    mutator: Mutator,
    known: Vec<Vec<u8>>,
    /// The shortest input of each outcome.
    outcomes: HashMap<String, Vec<u8>>,
    executions: u64,
}

/// An input with which something does not hold.
#[derive(Debug)]
pub struct Finding {
    /// The input.
    pub input: Vec<u8>,
    /// What the panic said.
    pub message: String,
}

impl Campaign {
    /// With the target's seeds and what its corpus in `directory` holds, if there is one. All of it is run first.
    pub fn new(target: Target, directory: &Path, seed: u64) -> io::Result<Result<Self, Finding>> {
        let (outcomes, known) = (HashMap::new(), Vec::new());
        let mut campaign = Self { target, mutator: Mutator::new(seed), known, outcomes, executions: 0 };
        for input in (target.seeds)().into_iter().chain(corpus(directory)?) {
            if let Err(finding) = campaign.learn(input) {
                return Ok(Err(finding));
            }
        }
        Ok(Ok(campaign))
    }

    /// One more input.
    pub fn step(&mut self) -> Result<(), Finding> {
        let input = self.mutator.input(&self.known);
        let outcome = self.outcome(&input)?;
        if self.outcomes.contains_key(&outcome) {
            return Ok(());
        }
        let input = self.shortened(input, &outcome)?;
        self.outcomes.insert(outcome, input.clone());
        self.known.push(input);
        Ok(())
    }

    /// How many inputs were run.
    pub fn executions(&self) -> u64 {
        self.executions
    }

    /// How many different things became of them.
    pub fn outcomes(&self) -> usize {
        self.outcomes.len()
    }

    /// Writes the shortest inputs of all outcomes to `directory`, as far as there is room. Those that are there stay.
    pub fn keep(&self, directory: &Path) -> io::Result<usize> {
        fs::create_dir_all(directory)?;
        let mut inputs: Vec<_> = self.outcomes.values().filter(|input| input.len() <= LONGEST_KEPT).collect();
        inputs.sort_by_key(|input| (input.len(), *input));
        let (mut size, mut added) = (corpus(directory)?.iter().map(Vec::len).sum::<usize>(), 0);
        for input in inputs {
            let path = directory.join(name(input));
            size += input.len();
            if size > MOST_KEPT {
                break;
            }
            if !path.exists() {
                fs::write(path, input)?;
                added += 1;
            }
        }
        Ok(added)
    }

    fn learn(&mut self, input: Vec<u8>) -> Result<(), Finding> {
        let outcome = self.outcome(&input)?;
        self.known.push(input.clone());
        let shortest = self.outcomes.entry(outcome).or_insert_with(|| input.clone());
        if input.len() < shortest.len() {
            *shortest = input;
        }
        Ok(())
    }

    /// What becomes of an input, in words without numbers, since those are without end.
    fn outcome(&mut self, input: &[u8]) -> Result<String, Finding> {
        self.executions += 1;
        match catch_unwind(AssertUnwindSafe(|| (self.target.run)(input))) {
            Ok(outcome) => {
                Ok(outcome.chars().filter(char::is_ascii).filter(|c| !c.is_ascii_hexdigit()).collect())
            }
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                Err(Finding { input: input.to_vec(), message: text.unwrap_or_default() })
            }
        }
    }

    /// Leaves out what makes no difference to the outcome.
    fn shortened(&mut self, mut input: Vec<u8>, outcome: &str) -> Result<Vec<u8>, Finding> {
        let mut part = input.len() / 2;
        let mut at = 0;
        for _ in 0..SHORTENINGS {
            if part == 0 {
                break;
            }
            if at >= input.len() {
                (part, at) = (part / 2, 0);
                continue;
            }
            let end = input.len().min(at + part);
            let shorter = [&input[..at], &input[end..]].concat();
            match self.outcome(&shorter)? == outcome {
                true => input = shorter,
                false => at = end,
            }
        }
        Ok(input)
    }
}

/// The files of a corpus, in the order of their names.
fn corpus(directory: &Path) -> io::Result<Vec<Vec<u8>>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    paths.sort();
    paths.iter().map(fs::read).collect()
}

/// What an input is called in a corpus.
fn name(input: &[u8]) -> String {
    mortar_model::Digest::of(Default::default(), input).hex()[..16].to_owned()
}
