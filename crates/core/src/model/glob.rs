//! Shell patterns, for paths and for names.

/// `*` and `?` do not cross `/`; `[abc]`, `[a-z]` and `[!a-z]` (also `[^a-z]`) are sets; `**` crosses everything.
/// `dir/**` matches what is below `dir`, not `dir` itself; `a/**/b` matches `a/b` too. A `[` without its `]` stands for
/// itself.
///
/// The work grows with the product of both lengths, whatever the pattern.
pub fn matches(pattern: &str, text: &str) -> bool {
    let chars = |s: &str| s.chars().collect::<Vec<_>>();
    let (pattern, text) = (chars(pattern), chars(text));
    // At which places of the text the part of the pattern that was read so far can end.
    let mut places = vec![false; text.len() + 1];
    places[0] = true;
    let mut rest = pattern.as_slice();
    while !rest.is_empty() {
        rest = step(rest, &text, &mut places);
        if !places.contains(&true) {
            return false;
        }
    }
    places[text.len()]
}

/// Takes one element of the pattern, and returns what follows it.
fn step<'a>(pattern: &'a [char], text: &[char], places: &mut [bool]) -> &'a [char] {
    match pattern {
        ['*', '*', '/', rest @ ..] => {
            let mut seen = false;
            for at in 0..places.len() {
                let here = places[at];
                places[at] = here || (seen && text[at - 1] == '/');
                seen |= here;
            }
            rest
        }
        ['*', '*', rest @ ..] => {
            // Something must be there.
            let first = places.iter().position(|p| *p).filter(|at| *at < text.len());
            places.iter_mut().enumerate().for_each(|(at, place)| *place = first.is_some_and(|first| at >= first));
            rest
        }
        ['*', rest @ ..] => {
            for at in 1..places.len() {
                places[at] |= places[at - 1] && text[at - 1] != '/';
            }
            rest
        }
        ['?', rest @ ..] => one(rest, text, places, |c| c != '/'),
        ['[', set @ ..] => match set.iter().skip(1).position(|c| *c == ']') {
            Some(close) => one(&set[close + 2..], text, places, |c| c != '/' && set_contains(&set[..=close], c)),
            None => one(set, text, places, |c| c == '['),
        },
        [literal, rest @ ..] => one(rest, text, places, |c| c == *literal),
        [] => pattern,
    }
}

/// An element that stands for one character.
fn one<'a>(rest: &'a [char], text: &[char], places: &mut [bool], fits: impl Fn(char) -> bool) -> &'a [char] {
    for at in (1..places.len()).rev() {
        places[at] = places[at - 1] && fits(text[at - 1]);
    }
    places[0] = false;
    rest
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
            ("**", "", false),
            ("**", "a", true),
            ("a**", "a", false),
            ("**/a", "a", true),
            ("**/a", "x/y/a", true),
            ("**/a", "xa", false),
            ("a/**/", "a/", true),
            ("*a*a*a*a*a*a*a*a*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
            ("?", "", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
