//! Calendar time.

/// The UTC calendar time of a number of seconds since 1970: year, month (1 to
/// 12), day, hour, minute, second (gmtime_r(3)).
#[allow(unsafe_code)]
pub fn utc(seconds: i64) -> Option<[i32; 6]> {
    // SAFETY: tm is a struct of integers and one pointer, for which all
    // zeroes is a value.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of the right type.
    let result = unsafe { libc::gmtime_r(&raw const seconds, &raw mut tm) };
    if result.is_null() {
        return None;
    }
    Some([
        // The years near the end of a tm's range are too large.
        tm.tm_year.checked_add(1900)?,
        tm.tm_mon + 1,
        tm.tm_mday,
        tm.tm_hour,
        tm.tm_min,
        tm.tm_sec,
    ])
}
