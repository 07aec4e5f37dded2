//! Generates `crates/wire/src/generated` from `crates/wire/proto`, without protoc.
//! The output is checked in, so that an ordinary build needs neither this step nor its dependencies.

use anyhow::{Context, bail};
use std::{collections::BTreeMap, fs, path::Path};

const FILES: &[&str] = &[
    "build/bazel/remote/execution/v2/remote_execution.proto",
    "google/bytestream/bytestream.proto",
    "mortar/admin/v1/admin.proto",
    "mortar/companion/v1/companion.proto",
    "mortar/execution/v1/execution.proto",
    "mortar/introspection/v1/introspection.proto",
    "mortar/lookahead/v1/look_ahead.proto",
    "mortar/worker/v1/session.proto",
];

/// Generates the code, or with `check` compares it with what is checked in.
pub fn run(check: bool) -> anyhow::Result<()> {
    let wire = crate::root().join("crates/wire");
    let target = wire.join("src/generated");
    let fresh = wire.join("../../target/xtask-codegen");
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    fs::create_dir_all(&fresh)?;
    generate(&wire.join("proto"), &fresh)?;
    let (new, old) = (read(&fresh)?, read(&target)?);
    if check {
        if new != old {
            bail!(
                "`crates/wire/src/generated` is out of date: run `cargo xtask codegen` and commit the result"
            );
        }
        println!("generated code is up to date");
        return Ok(());
    }
    fs::create_dir_all(&target)?;
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        fs::remove_file(target.join(name))?;
    }
    for (name, content) in &new {
        fs::write(target.join(name), content)?;
        println!("wrote {name}");
    }
    Ok(())
}

fn generate(protos: &Path, out: &Path) -> anyhow::Result<()> {
    let descriptors = protox::compile(FILES, [protos]).context("the .proto files do not compile")?;
    fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure()
        .out_dir(out)
        .bytes(".")
        .generate_default_stubs(true)
        .codec_path("crate::MessageCodec")
        .compile_fds(descriptors)
        .context("code generation failed")
}

fn read(directory: &Path) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    if directory.exists() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            files.insert(entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?);
        }
    }
    Ok(files)
}
