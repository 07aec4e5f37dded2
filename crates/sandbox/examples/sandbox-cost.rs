//! What a run costs that does nothing: one after another, and several at once.

use mortar_sandbox::{Config, Sandbox, Spec};
use std::{fs, path::Path, thread, time::Instant};

const RUNS: u32 = 200;

fn main() {
    mortar_sandbox::init_if_asked();
    for threads in [1, 2, 4] {
        let started = Instant::now();
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| (0..RUNS / threads).for_each(|_| run()));
            }
        });
        let each = started.elapsed() / RUNS;
        println!("{threads} at once: {each:?} a run, {:.0} runs/s", 1.0 / each.as_secs_f64());
    }
}

fn run() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    stage(directory.path());
    let spec = Spec {
        directory: directory.path().into(),
        arguments: vec!["/bin/true".into()],
        writable: vec!["out".into()],
        ..Spec::default()
    };
    let exit = Sandbox::new(Config::default()).run(spec).expect("the sandbox works here");
    assert_eq!(exit.ending.code(), 0);
}

fn stage(directory: &Path) {
    fs::create_dir_all(directory.join("exec/out")).expect("a directory can be made");
}
