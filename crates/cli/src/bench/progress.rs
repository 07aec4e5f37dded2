//! What the user sees while it runs, on stderr: a bar on a terminal, plain lines elsewhere.

use super::load::Measured;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    cell::Cell,
    io::IsTerminal,
    time::{Duration, Instant},
};

/// How often a bar moves.
const TICK: Duration = Duration::from_millis(100);

pub(super) struct Progress {
    bar: Option<ProgressBar>,
    total: usize,
    begun: Cell<usize>,
}

/// One scenario.
pub(super) struct Bar<'a> {
    progress: &'a Progress,
    name: &'static str,
    duration: Duration,
    started: Cell<Instant>,
}

impl Progress {
    pub(super) fn new(total: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{prefix} {msg:20} {bar:30} {percent:>3}%");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { bar, total, begun: Cell::new(0) }
    }

    pub(super) fn begin(&self, name: &'static str, duration: Duration) -> Bar<'_> {
        self.begun.set(self.begun.get() + 1);
        if let Some(bar) = &self.bar {
            bar.set_length(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
            bar.set_position(0);
            bar.set_prefix(format!("{}/{}", self.begun.get(), self.total));
            bar.set_message(name);
        }
        Bar { progress: self, name, duration, started: Cell::new(Instant::now()) }
    }

    pub(super) fn skipped(&self, name: &str, why: &str) {
        self.begun.set(self.begun.get() + 1);
        self.line(&format!("{name}: skipped, {why}"));
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Says something in between.
    pub(super) fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }
}

impl Bar<'_> {
    /// Preparation is over.
    pub(super) fn running(&self) {
        self.started.set(Instant::now());
    }

    /// Waits for the next time at which the bar moves, and moves it.
    pub(super) async fn tick(&self) {
        let Some(bar) = &self.progress.bar else { return std::future::pending().await };
        tokio::time::sleep(TICK).await;
        let elapsed = self.started.get().elapsed().min(self.duration);
        bar.set_position(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
    }

    /// Tells the result where there is no bar; the table follows in any case.
    pub(super) fn done(&self, rounds: &[Measured]) {
        if self.progress.bar.is_none() {
            let seconds: f64 = rounds.iter().map(|round| round.elapsed.as_secs_f64()).sum();
            let calls: u64 = rounds.iter().map(|round| round.calls).sum();
            let rate = calls as f64 / seconds.max(f64::EPSILON);
            self.progress.line(&format!("{}: {rate:.0} calls/s in {seconds:.1} s", self.name));
        }
    }
}
