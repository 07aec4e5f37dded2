//! `mortar credential-helper`, called as Bazel calls a helper.

use crate::{MORTAR, assert_refused, mortar, run};
use mortar_remote::credentials::{Helper, Wallet};
use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

const SOURCES: &str = r#"
[[credentials]]
hosts = ["cache.example.com", "*.internal.example.com"]
kind = "token-file"
file = "TOKEN"

[[credentials]]
hosts = ["cache.example.com"]
kind = "headers"
headers = { x-tenant = "blue", authorization = "never: the first source has its way" }

[[credentials]]
hosts = ["helped.example.com"]
kind = "helper"
program = "HELPER"
timeout = "30s"
"#;

/// A home with a configuration and all that it names.
fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name).display().to_string();
    fs::write(at("token"), "abc\n").unwrap();
    let script = r#"#!/bin/sh
echo '{"headers": {"Authorization": ["Bearer deep"]}, "expires": "2100-01-01T00:00:00Z"}'
"#;
    fs::write(at("helper"), script).unwrap();
    let status = Command::new("chmod").args(["755", &at("helper")]).status().unwrap();
    assert!(status.success());
    fs::create_dir_all(at(".config/mortar")).unwrap();
    let sources = SOURCES.replace("TOKEN", &at("token")).replace("HELPER", &at("helper"));
    fs::write(at(".config/mortar/credentials.toml"), sources).unwrap();
    symlink(MORTAR, at("mortar-credential-helper")).unwrap();
    home
}

/// What the helper answers to this on stdin.
fn answer(home: &Path, program: &Path, arguments: &[&str], question: &str) -> serde_json::Value {
    let file = home.join("question");
    fs::write(&file, question).unwrap();
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("HOME", home).env("PATH", "/usr/bin:/bin");
    let output = command.stdin(File::open(file).unwrap()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn bazel_is_answered_under_either_name() {
    let home = home();
    let link = home.path().join("mortar-credential-helper");
    for (program, arguments) in
        [(Path::new(MORTAR), &["credential-helper", "get"][..]), (&link, &["get"][..])]
    {
        let ask = |uri: &str| answer(home.path(), program, arguments, &format!(r#"{{"uri": "{uri}"}}"#));
        let both = serde_json::json!({ "authorization": ["Bearer abc"], "x-tenant": ["blue"] });
        assert_eq!(ask("https://cache.example.com/ac/1")["headers"], both);
        let one = serde_json::json!({ "authorization": ["Bearer abc"] });
        assert_eq!(ask("https://a.internal.example.com:8443")["headers"], one);
        let helped = ask("https://helped.example.com");
        assert_eq!(helped["headers"]["authorization"][0], "Bearer deep");
        assert_eq!(helped["expires"], "2100-01-01T00:00:00Z");
        assert_eq!(ask("https://elsewhere.example.com"), serde_json::json!({ "headers": {} }));
    }
}

/// Our client of helpers and our helper understand each other.
#[test]
fn it_is_a_helper_for_our_own_client() {
    let home = home();
    let script = home.path().join("wrapper");
    let link = home.path().join("mortar-credential-helper");
    let text = format!("#!/bin/sh\nHOME='{}' exec '{}' \"$@\"\n", home.path().display(), link.display());
    fs::write(&script, text).unwrap();
    assert!(Command::new("chmod").arg("755").arg(&script).status().unwrap().success());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let wallet = Wallet::of(Helper::new(script, Duration::from_secs(60)));
    let uri = "https://helped.example.com".parse().unwrap();
    let (headers, expires) = runtime.block_on(wallet.headers(&http::Method::GET, &uri)).unwrap();
    assert_eq!(headers["authorization"], "Bearer deep");
    assert!(expires.is_some_and(|expires| expires > SystemTime::now()));
}

#[test]
fn what_is_wrong_is_told_without_secrets() {
    let home = home();
    let login = |uri: &str| run(home.path(), &["credential-helper", "login", uri]);
    let finished = login("https://cache.example.com");
    assert_eq!(
        finished.stderr,
        "There are credentials for https://cache.example.com: authorization, x-tenant\n"
    );
    assert_refused(
        &login("https://elsewhere.example.com"),
        1,
        "error: no source of credentials is for `https://elsewhere.example.com`\n",
    );
    assert_refused(&login("nowhere/"), 1, "error: `nowhere/` is no address with a host\n");
    let wrong = home.path().join("wrong.toml");
    fs::write(&wrong, "[[credentials]]\nhosts = [\"a\"]\nkind = \"headers\"\nheaders = \"hush\"\n").unwrap();
    let mut command = mortar(home.path(), &["credential-helper", "get", "--config", "wrong.toml"]);
    let file = home.path().join("question");
    fs::write(&file, r#"{"uri": "https://a"}"#).unwrap();
    let output = command.stdin(File::open(&file).unwrap()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("`wrong.toml`, near line") && output.stdout.is_empty(), "{said}");
    assert!(!output.status.success());
}
