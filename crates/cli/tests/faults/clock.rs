//! The clock on the wall is set, by hours and by years, forth and back, while actions run and wait: nothing that has a
//! limit ends early or late, and nothing hangs.
//!
//! The clock is that of the processes under test alone: a small library between them and the C library adds to it what
//! a file says.

use crate::{
    LIMIT, MORTAR, executions,
    task::{Task, client, marker, output},
    wait_for,
};
use mortar_testkit::{
    mortar::Mortar,
    process::{self, wait_until},
};
use std::{ffi::OsStr, path::Path, process::Command};

const SHIFTED_CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

static volatile long *shift;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("SHIFTED_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(0, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) shift = mapped;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) {
        void *found = dlsym(RTLD_NEXT, "clock_gettime");
        memcpy(&real, &found, sizeof real);
    }
    int answer = real(clock, time);
    if (!answer && shift && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) time->tv_sec += *shift;
    return answer;
}
"#;

const HOUR: i64 = 60 * 60;
const YEAR: i64 = 365 * 24 * HOUR;

/// Sets the clock, relative to the true one.
fn set_clock(file: &Path, seconds: i64) {
    // In place: it is mapped.
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(file).unwrap();
    file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
}

fn compile_library(directory: &Path) -> std::path::PathBuf {
    let (source, library) = (directory.join("shifted_clock.c"), directory.join("shifted_clock.so"));
    std::fs::write(&source, SHIFTED_CLOCK).unwrap();
    let mut gcc = Command::new("gcc");
    gcc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl");
    let made = process::run(&mut gcc, LIMIT).unwrap();
    assert!(made.status.success(), "{}", made.stderr);
    library
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_ends_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (library, clock) = (compile_library(directory.path()), directory.path().join("clock"));
    set_clock(&clock, 0);
    let environment: [(&str, &OsStr); 2] =
        [("LD_PRELOAD", library.as_os_str()), ("SHIFTED_CLOCK", clock.as_os_str())];
    let data = directory.path().join("data");
    let flags = ["--slots", "1", "--queue-timeout", "30min", "--default-timeout", "30min"];
    let mut server = Mortar::start_in(&environment, MORTAR, "up", &data, &flags).unwrap();
    let remote = client(&server.grpc());
    let kept = Task { script: "echo kept > out".into(), ..Task::default() };
    kept.run(&remote).await.unwrap();

    let mut ended = 1;
    for (shift, restarts) in [(3 * HOUR, false), (-3 * HOUR, false), (YEAR, true), (-YEAR, true), (0, false)]
    {
        let names = [marker(), marker()];
        let mut asked = Vec::new();
        for name in &names {
            let script = format!("echo {name} > out");
            let task = Task::after_a_nap(&remote, name, 1.0, &script).await.unwrap();
            asked.push(task.start(&remote));
        }
        // One runs, one waits.
        let runs =
            || Ok((executions(&server, "running") == 1 && executions(&server, "queued") == 1).then_some(()));
        wait_until("one that runs and one that waits", LIMIT, runs).unwrap();
        set_clock(&clock, shift);
        if restarts {
            server.kill().unwrap();
            server.restart().unwrap();
            ended = 0;
        }
        for (name, asked) in names.iter().zip(asked) {
            let outcome = asked.await.unwrap().unwrap_or_else(|error| panic!("{shift}: {error}"));
            assert_eq!(output(&remote, &outcome).await.unwrap(), format!("{name}\n"));
        }
        ended += 2;
        // What was promised is there, and is known.
        let outcome = kept.run(&remote).await.unwrap();
        assert!(outcome.cached, "{shift}: {outcome:?}");
        assert_eq!(output(&remote, &outcome).await.unwrap(), "kept\n");
        wait_for(&server, "executed", ended);
        assert_eq!((executions(&server, "retried"), executions(&server, "failed")), (0, 0), "{shift}");
    }
    // The library does what it is for.
    set_clock(&clock, 10 * YEAR);
    let late = Task { script: "echo late > out".into(), ..Task::default() }.run(&remote).await.unwrap();
    let queued = late.result.metadata.queued.unwrap();
    let ahead = queued.duration_since(std::time::SystemTime::now()).unwrap();
    assert!(ahead.as_secs() > 9 * YEAR as u64, "the clock of the server did not move");
}
