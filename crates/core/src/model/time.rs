//! Points in time as texts.

use ostree::glib;

/// UTC, `YYYY-MM-DDTHH:MM:SSZ`, of seconds since the epoch; `@SECONDS` beyond the year 9999.
pub fn iso8601(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|s| glib::DateTime::from_unix_utc(s).ok())
        .and_then(|d| d.format("%Y-%m-%dT%H:%M:%SZ").ok())
        .map_or_else(|| format!("@{seconds}"), String::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        assert_eq!(iso8601(0), "1970-01-01T00:00:00Z");
        assert_eq!(iso8601(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(iso8601(u64::MAX), "@18446744073709551615");
    }
}
