//! Debian version order (deb-version(7), policy section 5.6.12): `[epoch:]upstream[-revision]`.

use std::cmp::Ordering;

/// Epoch (`0` when absent), upstream version, revision (empty for a native package).
pub fn split(version: &str) -> (&str, &str, &str) {
    let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch, upstream, revision)
}

/// The reverse of [`split`]; an epoch that is empty or 0 is left out, unless what follows would be taken for one.
pub fn join(epoch: &str, upstream: &str, revision: &str) -> String {
    let needless = matches!(epoch, "" | "0") && !upstream.contains(':') && !revision.contains(':');
    let epoch = if needless { String::new() } else { format!("{}:", if epoch.is_empty() { "0" } else { epoch }) };
    let revision = if revision.is_empty() { String::new() } else { format!("-{revision}") };
    format!("{epoch}{upstream}{revision}")
}

/// The version without an epoch of 0, as rpm-ostree writes an EVR. It stays where what follows would be taken for one.
pub fn evr(version: &str) -> &str {
    version.strip_prefix("0:").filter(|rest| !rest.contains(':')).unwrap_or(version)
}

/// Compares two versions as `dpkg --compare-versions` does.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (ea, ua, ra) = split(a);
    let (eb, ub, rb) = split(b);
    let number = |s: &str| s.trim().parse::<u64>().unwrap_or(0);
    number(ea).cmp(&number(eb)).then_with(|| compare_part(ua, ub)).then_with(|| compare_part(ra, rb))
}

/// `~` sorts before the end, the end before letters, letters before everything else.
fn weight(c: Option<u8>) -> i32 {
    match c {
        Some(b'~') => -1,
        None => 0,
        Some(c) if c.is_ascii_digit() => 0,
        Some(c) if c.is_ascii_alphabetic() => i32::from(c),
        Some(c) => i32::from(c) + 256,
    }
}

fn compare_part(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while !a.is_empty() || !b.is_empty() {
        loop {
            let digit = |s: &[u8]| s.first().is_none_or(u8::is_ascii_digit);
            if digit(a) && digit(b) {
                break;
            }
            let order = weight(a.first().copied()).cmp(&weight(b.first().copied()));
            if order != Ordering::Equal {
                return order;
            }
            a = a.get(1..).unwrap_or_default();
            b = b.get(1..).unwrap_or_default();
        }
        let number = |s: &[u8]| s.iter().take_while(|c| c.is_ascii_digit()).count();
        let (da, db) = (&a[..number(a)], &b[..number(b)]);
        a = &a[da.len()..];
        b = &b[db.len()..];
        let trim = |s: &[u8]| s.iter().position(|c| *c != b'0').unwrap_or(s.len());
        let (da, db) = (&da[trim(da)..], &db[trim(db)..]);
        let order = da.len().cmp(&db.len()).then_with(|| da.cmp(db));
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_policy() {
        // Each is older than the next one (examples of policy 5.6.12 and of dpkg's own test suite).
        let sorted = [
            "0.9~~",
            "0.9~",
            "0.9",
            "1.0~rc1-1",
            "1.0-1",
            "1.0-1+b1",
            "1.0-1.1",
            "1.0-2",
            "1.0a",
            "1.0+b",
            "1.00.1",
            "1.2",
            "1.10",
            "1:0.1",
        ];
        for pair in sorted.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{} < {}", pair[0], pair[1]);
        }
        assert_eq!(compare("1.0", "1.0-0"), Ordering::Equal);
        assert_eq!(compare("0:1", "1"), Ordering::Equal);
    }

    #[test]
    fn parts() {
        for text in ["1.2", "1:1.2-3", "2024-01-02-1", "0:1:2-3"] {
            let (epoch, upstream, revision) = split(text);
            assert_eq!(join(epoch, upstream, revision), text);
        }
        assert_eq!(join("", "1", ""), "1");
        assert_eq!((evr("0:1.2"), evr("0:1:2"), evr("1:2")), ("1.2", "0:1:2", "1:2"));
    }
}
