//! ccache over the HTTP cache: its values below `/ac/` are its own.

use anyhow::Result;
use mortar_testkit::ccache::Ccache;

use crate::up;

#[test]
fn a_second_ccache_gets_what_the_first_compiled() -> Result<()> {
    let server = up()?;
    let dir = tempfile::tempdir()?;
    let source = dir.path().join("answer.c");
    std::fs::write(&source, "int answer(void) { return 42; }\n")?;
    let url = format!("{}/", server.mortar.http());

    let first = Ccache::new(&url)?;
    let compiled = first.compile(&source)?;
    let statistics = first.statistics()?;
    assert_eq!(statistics.get("remote_storage_error").copied().unwrap_or(0), 0, "{statistics:?}");
    assert_eq!(statistics.get("cache_miss"), Some(&1), "{statistics:?}");

    let second = Ccache::new(&url)?;
    assert_eq!(second.compile(&source)?, compiled);
    let statistics = second.statistics()?;
    assert_eq!(statistics.get("remote_storage_hit"), Some(&1), "{statistics:?}");
    assert_eq!(statistics.get("cache_miss").copied().unwrap_or(0), 0, "{statistics:?}");
    Ok(())
}
