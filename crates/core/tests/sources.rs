//! apt as the oracle for the reading and writing of its sources.

use std::fs;
use std::path::Path;
use std::process::Command;

use apt_ostree_core::model::sources;

/// What `apt-get update` would fetch from a file of sources; sorted, since apt goes by host.
fn uris(file: &Path) -> Vec<String> {
    let output = Command::new("apt-get")
        .args(["update", "--print-uris"])
        .args(["-o", &format!("Dir::Etc::sourcelist={}", file.display()), "-o", "Dir::Etc::sourceparts=/dev/null"])
        .args(["-o", &format!("Dir::State::lists={}", file.with_extension("lists").display())])
        .args(["-o", "APT::Architecture=amd64", "-o", "APT::Architectures::=amd64", "-o", "APT::Architectures::=i386"])
        .output()
        .expect("apt-get runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut lines: Vec<String> = String::from_utf8(output.stdout).expect("UTF-8").lines().map(str::to_owned).collect();
    assert!(!lines.is_empty());
    lines.sort();
    lines
}

const LINES: &str = "\
deb http://a.invalid/debian trixie main contrib
deb [arch=i386] http://b.invalid/debian/ trixie main
deb [ arch-=i386 lang=de,en pdiffs=no by-hash=force ] http://c.invalid trixie main # comment
deb-src http://a.invalid/debian trixie main
deb [trusted=yes check-valid-until=no] file:///srv/x ./
deb [target=Packages allow-insecure=yes] http://d.invalid/x sub/$(ARCH)/
#deb http://off.invalid trixie main
";

#[test]
fn apt_reads_our_stanzas_as_it_reads_the_lines() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (list, stanzas) = (dir.path().join("a.list"), dir.path().join("b.sources"));
    fs::write(&list, LINES).expect("written");
    let parsed = sources::parse_list(LINES).expect("parsed");
    let text: Vec<String> = parsed.iter().map(ToString::to_string).collect();
    fs::write(&stanzas, text.join("\n")).expect("written");
    assert_eq!(uris(&list), uris(&stanzas));
}

#[test]
fn arch_is_replaced_where_apt_replaces_it() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let line = "deb http://d.invalid/$(ARCH) sub/$(ARCH)/\ndeb http://e.invalid/$(ARCH) x main\n";
    let (list, stanza) = (dir.path().join("a.list"), dir.path().join("b.sources"));
    fs::write(&list, line).expect("written");
    let mut text = String::new();
    for mut source in sources::parse_list(line).expect("parsed") {
        source.expand_arch("amd64");
        text.push_str(&format!("{source}\n"));
    }
    fs::write(&stanza, text).expect("written");
    assert_eq!(uris(&list), uris(&stanza));
}
