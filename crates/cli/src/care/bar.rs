//! How far a long command is, on stderr: a bar on a terminal, a line now and then elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

/// Shows how far a command is.
pub(super) struct Bar {
    what: &'static str,
    bar: Option<ProgressBar>,
    /// Lines that were printed.
    told: u64,
}

impl Bar {
    pub(super) fn new(what: &'static str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style =
                ProgressStyle::with_template("{prefix} {wide_bar} {bytes} of {total_bytes}, {eta} left");
            let bar = ProgressBar::new(0).with_prefix(what);
            style.map_or(bar.clone(), |style| bar.with_style(style))
        });
        Self { what, bar, told: 0 }
    }

    /// Of known length. Elsewhere than on a terminal, a line for each tenth.
    pub(super) fn bytes(&mut self, done: u64, total: u64) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(total);
                bar.set_position(done);
            }
            None => {
                let tenths = (done * 10).checked_div(total).unwrap_or(10);
                if tenths > self.told {
                    self.told = tenths;
                    eprintln!("{}: {} %", self.what, tenths * 10);
                }
            }
        }
    }

    /// Of unknown length. Elsewhere than on a terminal, a line for each thousand.
    pub(super) fn files(&mut self, files: u64) {
        match &self.bar {
            Some(bar) => {
                let style = ProgressStyle::with_template("{prefix} {spinner} {pos} files");
                if let Ok(style) = style {
                    bar.set_style(style);
                }
                bar.set_position(files);
            }
            None if files / 1000 > self.told => {
                self.told = files / 1000;
                eprintln!("{}: {files} files", self.what);
            }
            None => {}
        }
    }

    /// Prints a line of data without tearing the bar.
    pub(super) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| println!("{line}")),
            None => println!("{line}"),
        }
    }

    pub(super) fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
