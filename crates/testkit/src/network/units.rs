//! Values with units, as scripts and flags give them.

use anyhow::{Context, Result, ensure};
use std::time::Duration;

/// A time such as `50ms`, `2s`, `1min`.
pub fn duration(text: &str) -> Result<Duration> {
    let micros = with_unit(text, &[("us", 1), ("ms", 1_000), ("s", 1_000_000), ("min", 60_000_000)])
        .with_context(|| format!("`{text}` is no time; expected one such as 50ms, 2s or 1min"))?;
    Ok(Duration::from_micros(micros))
}

/// A number of bytes such as `10MiB`.
pub fn size(text: &str) -> Result<u64> {
    let units = [
        ("B", 1),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
    ];
    with_unit(text, &units).with_context(|| format!("`{text}` is no size; expected one such as 10MiB"))
}

/// A rate such as `10mbit` (per second), in bytes per second.
pub fn rate(text: &str) -> Result<u64> {
    let bits = with_unit(text, &[("kbit", 1_000), ("mbit", 1_000_000), ("gbit", 1_000_000_000)]);
    let bits = bits.filter(|bits| *bits >= 8);
    Ok(bits.with_context(|| format!("`{text}` is no rate; expected one such as 10mbit"))? / 8)
}

/// A share, from 0 to 1.
pub(super) fn share(text: &str) -> Result<f64> {
    let share: f64 = text.parse().with_context(|| format!("`{text}` is no number"))?;
    ensure!((0.0..=1.0).contains(&share), "`{text}` is no share; expected a number from 0 to 1");
    Ok(share)
}

fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}
