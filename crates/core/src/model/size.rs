//! Sizes for people.

/// `1.5 MB`: decimal units, one place after the point, as apt and libostree print sizes.
pub fn human_size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["bytes", "kB", "MB", "GB", "TB"].iter().peekable();
    while let Some(unit) = units.next() {
        // What would be rounded up to 1000.0 belongs to the next unit.
        if value < 999.95 || units.peek().is_none() {
            return if *unit == "bytes" { format!("{bytes} bytes") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    unreachable!("the last unit always returns")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        let shown =
            [0, 999, 1000, 171_400, 999_949, 999_950, 1_500_000, 2_000_000_000, 5_000_000_000_000].map(human_size);
        let want = ["0 bytes", "999 bytes", "1.0 kB", "171.4 kB", "999.9 kB", "1.0 MB", "1.5 MB", "2.0 GB", "5.0 TB"];
        assert_eq!(shown, want);
    }
}
