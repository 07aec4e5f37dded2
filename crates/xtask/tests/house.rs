//! Holds the arrows between the crates: who may see whom, and what some may never see at all.

use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

/// Every crate and the crates of the house that it may depend on (for tests, anybody may also use `testkit`).
const ARROWS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("wire", &["model"]),
    ("store", &["model"]),
    ("remote", &["model", "wire"]),
    ("scheduler", &["model"]),
    ("sandbox", &[]),
    ("worker", &["model", "wire", "sandbox"]),
    ("services", &["model", "wire"]),
    ("server", &["model", "wire", "store", "scheduler", "services"]),
    ("companion", &["model", "wire", "store", "remote", "services"]),
    ("cli", &["model", "wire", "store", "remote", "sandbox", "worker", "services", "server", "companion"]),
    ("testkit", &["model"]),
    ("fuzz", &["model", "store", "testkit", "wire"]),
    ("xtask", &["fuzz", "model", "remote", "testkit", "wire"]),
];

/// What a crate must not know, by the name of the dependency.
const STRANGERS: &[(&str, &[&str])] = &[
    ("model", &["prost", "prost-types", "tonic", "tokio", "serde", "toml", "clap", "hyper", "rustix"]),
    ("store", &["prost", "prost-types", "tonic", "hyper", "axum"]),
    ("scheduler", &["prost", "prost-types", "tonic", "hyper", "axum", "rustix", "libc"]),
    ("sandbox", &["prost", "tonic", "tokio"]),
];

/// The longest chain of crates of the house, both ends counted.
const LONGEST_CHAIN: usize = 5;

struct House {
    /// Normal and build dependencies of each crate.
    uses: BTreeMap<String, BTreeSet<String>>,
    /// Dependencies of its tests.
    tests_use: BTreeMap<String, BTreeSet<String>>,
}

fn house() -> House {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let mut house = House { uses: BTreeMap::new(), tests_use: BTreeMap::new() };
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("name");
        let name = name.strip_prefix("mortar-").unwrap_or_else(|| panic!("`{name}` should be `mortar-…`"));
        let manifest = package["manifest_path"].as_str().expect("path");
        assert!(manifest.ends_with(&format!("crates/{name}/Cargo.toml")), "`{name}` lies at {manifest}");
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let set = if dependency["kind"] == "dev" { &mut house.tests_use } else { &mut house.uses };
            let dependency = dependency["name"].as_str().expect("name").to_owned();
            set.entry(name.to_owned()).or_default().insert(dependency);
        }
        house.uses.entry(name.to_owned()).or_default();
    }
    house
}

fn own(dependencies: &BTreeSet<String>) -> impl Iterator<Item = &str> {
    dependencies.iter().filter_map(|name| name.strip_prefix("mortar-"))
}

#[test]
fn arrows() {
    let house = house();
    let listed: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    let present: BTreeSet<&str> = house.uses.keys().map(String::as_str).collect();
    assert_eq!(listed, present, "the crates of the house and those in this test");
    for (name, allowed) in ARROWS {
        for used in own(&house.uses[*name]) {
            assert!(allowed.contains(&used), "`{name}` must not depend on `{used}`");
        }
    }
}

#[test]
fn strangers() {
    let house = house();
    for (name, strangers) in STRANGERS {
        for stranger in *strangers {
            assert!(!house.uses[*name].contains(*stranger), "`{name}` must not know `{stranger}`");
        }
    }
}

#[test]
fn testkit_is_for_tests() {
    for (name, uses) in house().uses {
        assert!(
            ["fuzz", "xtask"].contains(&name.as_str()) || !uses.contains("mortar-testkit"),
            "`{name}` uses testkit outside its tests"
        );
    }
}

#[test]
fn chains_are_short() {
    fn longest(house: &House, name: &str) -> Vec<String> {
        let below =
            own(&house.uses[name]).map(|used| longest(house, used)).max_by_key(Vec::len).unwrap_or_default();
        [name.to_owned()].into_iter().chain(below).collect()
    }
    let house = house();
    for name in house.uses.keys().filter(|name| *name != "xtask") {
        let chain = longest(&house, name);
        assert!(chain.len() <= LONGEST_CHAIN, "{}", chain.join(" → "));
    }
    assert!(house.tests_use.contains_key("store"), "dev-dependencies are told apart");
}
