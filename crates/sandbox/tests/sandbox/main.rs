//! Real commands in real sandboxes: what they see, what they cannot do, and how they end.
#![allow(clippy::unwrap_used)]

mod escape;
mod image;
mod inputs;
mod life;
mod limits;
mod reuse;
mod view;

use mortar_sandbox::{Assembly, Config, Ending, Exit, Isolation, Running, Sandbox, Spec};
use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command, time::Duration};
use tempfile::TempDir;

/// A directory of one run, and what to run in it.
pub struct Case {
    pub directory: TempDir,
    pub spec: Spec,
    pub sandbox: Sandbox,
}

/// What a run left.
pub struct Ran {
    pub exit: Exit,
    pub stdout: String,
    pub stderr: String,
    pub case: Case,
}

/// The helper programme.
pub fn helper() -> PathBuf {
    let helper = std::env::var_os("MORTAR_TEST_HELPER");
    helper.map_or(env!("CARGO_BIN_EXE_mortar-sandbox-init").into(), PathBuf::from)
}

impl Case {
    pub fn new(script: &str) -> Self {
        Self::with(Isolation::Namespaces, script)
    }

    pub fn with(isolation: Isolation, script: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("exec")).unwrap();
        let helper = helper();
        let attached = std::env::var_os("MORTAR_TEST_ATTACHED").is_some();
        let assembly = if attached { Assembly::Attached } else { Assembly::Best };
        let sandbox = Sandbox::new(Config { isolation, helper, assembly, ..Config::default() });
        let spec = Spec {
            directory: directory.path().into(),
            arguments: ["/bin/bash", "-c", script].map(String::from).to_vec(),
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            timeout: Some(Duration::from_secs(60)),
            ..Spec::default()
        };
        Self { directory, spec, sandbox }
    }

    pub fn exec(&self, path: &str) -> PathBuf {
        self.directory.path().join("exec").join(path)
    }

    /// An input file that is nobody's to change.
    pub fn input(self, path: &str, content: &str) -> Self {
        let path = self.exec(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o555)).unwrap();
        self
    }

    /// A directory for outputs.
    pub fn writable(mut self, path: &str) -> Self {
        let full = self.exec(path);
        fs::create_dir_all(&full).unwrap();
        if let Some((uid, gid)) = self.sandbox.owner() {
            std::os::unix::fs::chown(&full, Some(uid), Some(gid)).unwrap();
        }
        self.spec.writable.push(path.into());
        self
    }

    pub fn start(&self) -> Running {
        self.sandbox.start(self.spec.clone()).unwrap()
    }

    pub fn run(self) -> Ran {
        let exit = self.start().wait().unwrap();
        self.ran(exit)
    }

    pub fn ran(self, exit: Exit) -> Ran {
        let log = |name| fs::read_to_string(self.directory.path().join(name)).unwrap();
        Ran { exit, stdout: log("stdout"), stderr: log("stderr"), case: self }
    }
}

impl Ran {
    /// Expects success; standard output.
    pub fn ok(&self) -> &str {
        assert_eq!(self.exit.ending, Ending::Code(0), "{}{}", self.stdout, self.stderr);
        &self.stdout
    }
}

/// Whether a process with this mark in its command line lives anywhere.
pub fn lives(mark: &str) -> bool {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok()).any(|line| {
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(mark) && !line.contains("mortar-sandbox-init")
    })
}

#[test]
fn every_layer_is_permitted_where_the_tests_run() {
    let case = Case::new("");
    let layers = case.sandbox.probe(case.directory.path()).unwrap();
    assert!(layers.complete(), "{layers}");
}

#[test]
fn an_ordinary_user_gets_the_same() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // The tests of this binary again, as somebody who is not root, over copies that such a one may reach.
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (scratch, itself) = (directory.path().join("tmp"), directory.path().join("tests"));
    fs::create_dir(&scratch).unwrap();
    std::os::unix::fs::chown(&scratch, Some(65534), Some(65534)).unwrap();
    fs::copy(std::env::current_exe().unwrap(), &itself).unwrap();
    let helper = directory.path().join("helper");
    fs::copy(env!("CARGO_BIN_EXE_mortar-sandbox-init"), &helper).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&itself)
        .env("TMPDIR", &scratch)
        .env("MORTAR_TEST_HELPER", &helper)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn kernels_that_mount_only_on_what_is_mounted_do_the_same() {
    if std::env::var_os("MORTAR_TEST_ATTACHED").is_some() {
        return;
    }
    let itself = std::env::current_exe().unwrap();
    let output = Command::new(itself).env("MORTAR_TEST_ATTACHED", "").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
