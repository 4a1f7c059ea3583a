//! Sizes, times and errors in a form for people.

use std::time::{Duration, SystemTime};

use super::failure::without_numbers;
use crate::sys;

/// A number of bytes with a unit, in three digits or so: `1.5 MiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    // It would be shown as 1024.0.
    while value >= 1023.95 {
        value /= 1024.0;
        unit = units.next().or(unit);
    }
    format!("{value:.1} {}", unit.unwrap_or(&""))
}

/// Seconds since 1970, negative before it.
pub(super) fn seconds(time: SystemTime) -> i64 {
    let whole = |distance: Duration| i64::try_from(distance.as_secs()).unwrap_or(i64::MAX);
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => whole(after),
        Err(before) => -whole(before.duration()),
    }
}

/// Seconds since 1970 as a time in UTC: `2026-11-24T09:29:01Z`.
pub(super) fn utc(seconds: i64) -> String {
    let time = sys::utc(seconds);
    time.map_or_else(String::new, |[year, month, day, hour, minute, second]| {
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    })
}

/// A time in UTC.
pub(super) fn time(time: SystemTime) -> String {
    utc(seconds(time))
}

/// An errno in words, without its number.
pub(super) fn reason(errno: i32) -> String {
    without_numbers(&std::io::Error::from_raw_os_error(errno).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_unit_that_fits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1 << 20, "1.0 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (3 << 29, "1.5 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn times_are_in_utc() {
        assert_eq!(utc(1_700_000_000), "2023-11-14T22:13:20Z");
        // The last years of a tm have numbers that do not fit into its type
        // (found by tests/fuzz/fuzz_targets/report.rs).
        assert_eq!(utc(67_768_036_191_676_799), "");
        assert_eq!(utc(67_767_976_233_532_799), "2147483647-12-31T23:59:59Z");
        assert_eq!(utc(i64::MIN), "");
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(time(before), "1969-12-31T23:59:59Z");
    }
}
