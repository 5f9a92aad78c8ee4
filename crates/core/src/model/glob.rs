//! Shell patterns, for paths and for names.

/// `*` and `?` do not cross `/`; `[abc]`, `[a-z]` and `[!a-z]` (also `[^a-z]`) are sets; `**` crosses everything.
/// `dir/**` matches what is below `dir`, not `dir` itself; `a/**/b` matches `a/b` too. A `[` without its `]` stands for
/// itself.
pub fn matches(pattern: &str, text: &str) -> bool {
    let chars = |s: &str| s.chars().collect::<Vec<_>>();
    match_chars(&chars(pattern), &chars(text))
}

fn match_chars(pattern: &[char], text: &[char]) -> bool {
    match pattern {
        [] => text.is_empty(),
        ['*', '*', '/', rest @ ..] => {
            (0..=text.len()).any(|skip| (skip == 0 || text[skip - 1] == '/') && match_chars(rest, &text[skip..]))
        }
        ['*', '*', rest @ ..] => !text.is_empty() && (0..=text.len()).any(|skip| match_chars(rest, &text[skip..])),
        ['*', rest @ ..] => {
            let end = text.iter().position(|c| *c == '/').unwrap_or(text.len());
            (0..=end).any(|skip| match_chars(rest, &text[skip..]))
        }
        ['?', rest @ ..] => text.first().is_some_and(|c| *c != '/') && match_chars(rest, &text[1..]),
        ['[', rest @ ..] => match (rest.iter().skip(1).position(|c| *c == ']'), text) {
            (Some(close), [c, text @ ..]) => {
                *c != '/' && set_contains(&rest[..=close], *c) && match_chars(&rest[close + 2..], text)
            }
            (Some(_), []) => false,
            (None, _) => text.first() == Some(&'[') && match_chars(rest, &text[1..]),
        },
        [c, rest @ ..] => text.first() == Some(c) && match_chars(rest, &text[1..]),
    }
}

fn set_contains(set: &[char], c: char) -> bool {
    let (negated, mut rest) = match set {
        ['!' | '^', rest @ ..] if !rest.is_empty() => (true, rest),
        _ => (false, set),
    };
    let mut found = false;
    while let [first, tail @ ..] = rest {
        rest = match tail {
            ['-', last, tail @ ..] => {
                found |= (*first..=*last).contains(&c);
                tail
            }
            _ => {
                found |= *first == c;
                tail
            }
        };
    }
    found != negated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, text, expected) in [
            ("var/tmp/**", "var/tmp", false),
            ("var/tmp/**", "var/tmp/a", true),
            ("var/tmp/**", "var/tmp/a/b", true),
            ("var/tmp/**", "var/tmpx", false),
            ("var/**/*-old", "var/x-old", true),
            ("var/**/*-old", "var/a/b/x-old", true),
            ("var/**/*-old", "var/a/b-old/x", false),
            ("a/*.[0-9]", "a/x.3", true),
            ("a/*.[0-9]", "a/x.y", false),
            ("a/?", "a/bc", false),
            ("etc/ssh/ssh_host_*", "etc/ssh/ssh_host_rsa_key.pub", true),
            ("etc/ssh/ssh_host_*", "etc/ssh/ssh_host_/x", false),
            ("*", "a.service", true),
            ("a*b*c", "axxbyybc", true),
            ("a*b*c", "axxbyyb", false),
            ("getty@tty?.service", "getty@tty1.service", true),
            ("ssh.service", "ssh.service.wants", false),
            ("htop", "htop", true),
            ("*top", "htop", true),
            ("h?op", "htop", true),
            ("lib[a-c]*", "libc6", true),
            ("lib[!c]6", "libc6", false),
            ("lib[^d]6", "libc6", true),
            ("[]x]", "]", true),
            ("[", "[", true),
            ("[a", "[a", true),
            ("[]", "[]", true),
            ("", "", true),
            ("?", "", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
