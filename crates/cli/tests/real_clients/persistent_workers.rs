//! Bazel 4.2.3 asks for persistent workers by exec properties; it has no flag yet that would mark the inputs of tools.

use anyhow::Result;
use mortar_testkit::{
    bazel::{Bazel, Project},
    http,
};
use std::collections::BTreeSet;

use crate::{assert_all_cached, assert_all_remote, up};

#[test]
fn actions_of_one_tool_are_done_by_one_process() -> Result<()> {
    let server = up()?;
    let mut bazel = Bazel::v4(&Project::persistent()?)?;
    bazel.set_flags(&[&format!("--remote_executor={}", server.mortar.grpc()), "--jobs=1"]);
    assert_all_remote(bazel.build(&[], &["//:one", "//:two", "//:three"])?.success()?);
    let mut requests = BTreeSet::new();
    for name in ["one", "two", "three"] {
        let said = bazel.output(&format!("{name}.txt"))?;
        let (text, by) = said.trim().split_once(" by ").unwrap_or_default();
        assert_eq!(text, format!("said {name}"), "{said}");
        requests.insert(by.to_owned());
    }
    assert_eq!(requests, ["request 1", "request 2", "request 3"].map(String::from).into());

    assert_all_remote(bazel.build(&[], &["//:other", "//:plain"])?.success()?);
    assert_eq!(bazel.output("other.txt")?, "said one by request 1\n");
    assert_eq!(bazel.output("plain.txt")?, "said one by itself\n");

    let answer = http::get(server.mortar.address(), "/status.json")?;
    let status: serde_json::Value = serde_json::from_slice(&answer.body)?;
    assert_eq!(status["executions"]["persistent"], 4, "{status}");

    bazel.clean()?;
    assert_all_cached(bazel.build(&[], &["//..."])?.success()?);
    Ok(())
}
