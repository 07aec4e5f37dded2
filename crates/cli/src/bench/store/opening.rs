//! How long a store takes to open and answer, and how much memory it needs, in a process that has done nothing else.

use super::{
    super::{content::Random, load::Measured},
    Args,
    engine::{Place, Ports, anonymous_memory},
    fill::Numbered,
};
use anyhow::{Context as _, Result, bail};
use mortar_model::{Context, Digest, DigestSet};
use serde::{Deserialize, Serialize};
use std::{
    process::Stdio,
    time::{Duration, Instant},
};

/// Digests in one question.
const ASKED: u64 = 1000;
/// Different questions; each is asked again and again.
const QUESTIONS: u64 = 64;
/// How long the process before this one may take to let go of the store.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was measured.
#[derive(Serialize, Deserialize)]
pub(super) struct Opening {
    open_seconds: f64,
    /// From the beginning of opening to the answer to a first question after one blob.
    pub(super) first_answer_seconds: f64,
    rss_anon_before: u64,
    rss_anon_open: u64,
    pub(super) rss_anon_after: u64,
    /// What the store needs, for each blob that it was filled with.
    rss_anon_bytes_per_blob: f64,
    find_missing_calls: u64,
    pub(super) find_missing_p50_ms: f64,
    pub(super) find_missing_p99_ms: f64,
    /// Blobs that were asked for and had been written, and how many of them were called missing (evicted, if they did not fit).
    asked: u64,
    missing: u64,
}

/// Opens the store and asks it questions for some time.
pub(super) async fn measure(place: &Place, numbered: &Numbered, duration: Duration) -> Result<Opening> {
    let questions = questions(numbered);
    let before = anonymous_memory()?;
    let (began, ports) = open(place).await?;
    let open_seconds = began.elapsed().as_secs_f64();
    let first = DigestSet::from_iter([numbered.blob(0).0]);
    ports.blobs.find_missing(&Context::internal(), &first).await?;
    let first_answer_seconds = began.elapsed().as_secs_f64();
    let open = anonymous_memory()?;
    let Answers { measured, asked, missing } = ask(&ports, &questions, duration).await?;
    let after = anonymous_memory()?;
    let millis = |share| measured.percentile(share).as_secs_f64() * 1e3;
    Ok(Opening {
        open_seconds,
        first_answer_seconds,
        rss_anon_before: before,
        rss_anon_open: open,
        rss_anon_after: after,
        rss_anon_bytes_per_blob: after.saturating_sub(before) as f64 / numbered.count as f64,
        find_missing_calls: measured.calls,
        find_missing_p50_ms: millis(0.5),
        find_missing_p99_ms: millis(0.99),
        asked,
        missing,
    })
}

/// What came of the questions.
#[derive(Default)]
struct Answers {
    measured: Measured,
    asked: u64,
    missing: u64,
}

/// Asks every question once, and on until the time is over.
async fn ask(ports: &Ports, questions: &[Question], duration: Duration) -> Result<Answers> {
    let (mut answers, started) = (Answers::default(), Instant::now());
    for (number, (written, all)) in questions.iter().cycle().enumerate() {
        let again = number >= questions.len();
        if again && started.elapsed() >= duration {
            break;
        }
        let began = Instant::now();
        let missing = ports.blobs.find_missing(&Context::internal(), all).await?;
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        answers.measured.latencies.push(micros);
        answers.measured.calls += 1;
        if !again {
            answers.asked += written.len() as u64;
            answers.missing += written.iter().filter(|digest| missing.contains(digest)).count() as u64;
        }
    }
    answers.measured.latencies.sort_unstable();
    Ok(answers)
}

/// Digests that were written, and those with as many that were not.
type Question = (Vec<Digest>, DigestSet);

/// Opens the store as soon as nobody else has it; and when that opening began.
async fn open(place: &Place) -> Result<(Instant, Ports)> {
    let started = Instant::now();
    loop {
        let began = Instant::now();
        match place.open() {
            Ok(ports) => return Ok((began, ports)),
            Err(error) if started.elapsed() > PATIENCE => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// What to ask: digests of which every second was written.
fn questions(numbered: &Numbered) -> Vec<Question> {
    let mut random = Random::new();
    let below = usize::try_from(numbered.count).unwrap_or(usize::MAX);
    let question = |_| {
        let mut digest = |number: u64| {
            let known = random.below(below) as u64;
            numbered.blob(if number.is_multiple_of(2) { known } else { numbered.count + known }).0
        };
        let all: Vec<Digest> = (0..ASKED).map(&mut digest).collect();
        (all.iter().copied().step_by(2).collect(), all.into_iter().collect())
    };
    (0..QUESTIONS).map(question).collect()
}

/// Has another process open the store that was filled: this one's memory has seen too much.
pub(super) async fn in_another_process(args: &Args, blobs: u64) -> Result<Opening> {
    let mut command = tokio::process::Command::new(std::env::current_exe().context("finding this program")?);
    command.args(["bench", "store", "--probe"]).arg(&args.directory);
    command.args(["--blobs", &blobs.to_string()]).args(["--size", &args.size.to_string()]);
    command.args(["--max-size", &args.max_size.to_string()]);
    command.args(["--duration", &args.load.duration.to_string()]);
    command.args(["--digest-function", args.load.digest_function.name()]);
    for (flag, value) in
        [("--engine", format!("{:?}", args.engine)), ("--content", format!("{:?}", args.load.content))]
    {
        command.args([flag, &value.to_lowercase()]);
    }
    let finished = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let finished = finished.context("starting another process to open the store")?;
    if !finished.status.success() {
        bail!("opening the store in another process: {}", String::from_utf8_lossy(&finished.stderr).trim());
    }
    serde_json::from_slice(&finished.stdout).context("reading what the other process measured")
}
