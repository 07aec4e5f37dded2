//! Times as the protocols write them: RFC 3339, in UTC, and the compact form of signatures.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: i64 = 86_400;

/// A time such as `2026-11-25T18:40:00Z`, `2026-11-25T18:40:00.5+01:00`.
pub(crate) fn parse(text: &str) -> Option<SystemTime> {
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let mut parts = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let zone_at = rest.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = rest.split_at(zone_at);
    let mut parts = clock.splitn(3, ':');
    let mut whole = || parts.next()?.parse::<i64>().ok();
    let (hour, minute) = (whole()?, whole()?);
    let second: f64 = parts.next()?.parse().ok()?;
    let is_real = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0.0..61.0).contains(&second);
    if !is_real {
        return None;
    }
    let seconds = days(year, month, day) * DAY + hour * 3_600 + minute * 60 - offset(zone)?;
    let whole = Duration::from_secs(u64::try_from(seconds).ok()?);
    Some(UNIX_EPOCH + whole + Duration::from_secs_f64(second))
}

/// Seconds east of Greenwich.
fn offset(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let (sign, digits) = zone.split_at(1);
    let (hours, minutes) = digits.split_once(':')?;
    let seconds = hours.parse::<i64>().ok()? * 3_600 + minutes.parse::<i64>().ok()? * 60;
    Some(if sign == "-" { -seconds } else { seconds })
}

/// `2026-11-25T18:40:00Z`.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let (year, month, day, hour, minute, second) = civil(time);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// `20261125T184000Z`.
pub(crate) fn compact(time: SystemTime) -> String {
    let (year, month, day, hour, minute, second) = civil(time);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// Seconds since 1970.
pub(crate) fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn civil(time: SystemTime) -> (i64, i64, i64, i64, i64, i64) {
    let seconds = unix(time).cast_signed();
    let (days, clock) = (seconds / DAY, seconds % DAY);
    // Years begin in March here, so that leap days come last; 719,468 days lie between that calendar's year 0 and 1970.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day, clock / 3_600, clock / 60 % 60, clock % 60)
}

/// Days from 1970-01-01 to this one.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * shifted_month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:34:56Z", 951_827_696),
            ("2026-11-25T18:40:00Z", 1_795_632_000),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!((parse(text), rfc3339(time).as_str()), (Some(time), text));
        }
        let time = UNIX_EPOCH + Duration::from_secs(1_440_938_160);
        assert_eq!(compact(time), "20150830T123600Z");
        for same in ["2015-08-30T14:36:00+02:00", "2015-08-30t07:06:00.000-05:30", "2015-08-30 12:36:00z"] {
            assert_eq!(parse(same), Some(time), "{same}");
        }
        for no_time in
            ["", "soon", "2015-08-30", "2015-13-30T00:00:00Z", "2015-08-30T25:00:00Z", "2015-08-30T12:00:00"]
        {
            assert_eq!(parse(no_time), None, "{no_time}");
        }
    }
}
