//! The version of the next commit: rpm-ostree's rule for `automatic-version-prefix`.

use ostree::glib;

use crate::error::{Context, Error, Result};

/// Names the next version.
///
/// `<date:FORMAT>` in the prefix becomes the UTC date of `now` (seconds since the epoch) in strftime format. Then:
/// - no previous version, or one of another prefix: the prefix itself, with `.0` behind it if it holds a date;
/// - the prefix alone: `prefix.1`;
/// - `prefix.N…`: `prefix.(N+1)`, whatever follows N dropped.
///
/// `suffix` stands for the dot. Errors: a date tag that does not end, or a format glib does not know.
pub fn next_version(prefix: &str, suffix: char, previous: Option<&str>, now: i64) -> Result<String> {
    let (prefix, dated) = expand_date(prefix, now)?;
    let fresh = if dated { format!("{prefix}{suffix}0") } else { prefix.clone() };
    let Some(rest) = previous.and_then(|p| p.strip_prefix(&prefix)) else { return Ok(fresh) };
    if rest.is_empty() {
        return Ok(format!("{prefix}{suffix}1"));
    }
    let Some(rest) = rest.strip_prefix(suffix) else { return Ok(fresh) };
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    // No number behind the separator counts as 0.
    let number: u64 = if digits == 0 {
        0
    } else {
        rest[..digits].parse().map_err(|_| {
            Error::usage(format!("The previous version '{prefix}{suffix}{rest}' ends in too large a number"))
        })?
    };
    Ok(format!("{prefix}{suffix}{}", u128::from(number) + 1))
}

/// Replaces every date tag; says whether there was one.
fn expand_date(prefix: &str, now: i64) -> Result<(String, bool)> {
    const TAG: &str = "<date:";
    let mut text = String::new();
    let mut rest = prefix;
    let mut dated = false;
    while let Some((before, tail)) = rest.split_once(TAG) {
        let Some((format, after)) = tail.split_once('>') else {
            return Err(Error::usage(format!("The date tag in automatic-version-prefix '{prefix}' has no '>'")));
        };
        let date = glib::DateTime::from_unix_utc(now).context(|| "Reading the clock")?;
        let date = date.format(format).map_err(|_| {
            Error::usage(format!("'{format}' in automatic-version-prefix is not a date format"))
                .hint("Use the letters of strftime(3), for example <date:%Y%m%d>.")
        })?;
        text.push_str(before);
        text.push_str(&date);
        rest = after;
        dated = true;
    }
    text.push_str(rest);
    Ok((text, dated))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2025-08-09 12:00:00 UTC, the day Debian 13 was released.
    const DAY: i64 = 1_754_740_800;

    fn next(prefix: &str, suffix: char, previous: &str) -> String {
        next_version(prefix, suffix, (!previous.is_empty()).then_some(previous), DAY).unwrap()
    }

    #[test]
    fn counts_as_upstream_does() {
        for (prefix, previous, expected) in [
            ("13", "", "13"),
            ("13", "xyz", "13"),
            ("13", "12", "13"),
            ("13", "14", "13"),
            ("13", "13", "13.1"),
            ("13", "13.0", "13.1"),
            ("13", "13.9", "13.10"),
            ("13", "13.1.5", "13.2"),
            ("13.1", "13.1.5", "13.1.6"),
            ("13.1", "13.1.1.5", "13.1.2"),
            ("13", "131.1", "13"),
            ("13", "13x.1", "13"),
            ("13.1", "13", "13.1"),
            ("13.1", "13.", "13.1"),
            ("13.1", "13.12", "13.1"),
            ("13.1", "13.1.x", "13.1.1"),
            ("13.1", "13.1.2x", "13.1.3"),
            ("13.<date:%Y%m%d>", "", "13.20250809.0"),
            ("13.<date:%Y%m%d>", "13.20001010.5", "13.20250809.0"),
            ("13.<date:%Y%m%d>", "13.20250809.0", "13.20250809.1"),
            ("13.<date:%Y%m%d>", "13.20250809", "13.20250809.1"),
            ("<date:%Y>.<date:%m>", "2025.08.3", "2025.08.4"),
        ] {
            assert_eq!(next(prefix, '.', previous), expected, "{prefix} after {previous}");
        }
        assert_eq!(next("13", '-', "13"), "13-1");
        assert_eq!(next("13", '-', "13-1"), "13-2");
        assert_eq!(next("13", '-', "13.1"), "13");
    }

    #[test]
    fn every_version_has_a_successor_of_its_prefix() {
        let mut version = next("13", '.', "");
        for n in 1..200 {
            version = next("13", '.', &version);
            assert_eq!(version, format!("13.{n}"));
        }
    }

    #[test]
    fn refuses_what_it_cannot_count_or_format() {
        for (prefix, previous) in [("13.<date:%Y", ""), ("13", "13.99999999999999999999999"), ("<date:%Q>", "")] {
            assert!(next_version(prefix, '.', Some(previous), DAY).is_err(), "{prefix} {previous}");
        }
    }
}
