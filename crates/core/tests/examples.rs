//! The treefiles a user starts from load, without a warning, and hold what is said about them.

use std::path::{Path, PathBuf};

use apt_ostree_core::compose::input;
use apt_ostree_core::model::treefile::next_version;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

#[test]
fn every_example_loads() {
    let mut count = 0;
    for entry in std::fs::read_dir(examples()).expect("the examples") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|e| e != "yaml") {
            continue;
        }
        let input = input::load(&path, "amd64").unwrap_or_else(|e| panic!("{e}"));
        assert!(input.warnings.is_empty(), "{:?}", input.warnings);
        assert!(input.treefile.repos.is_empty(), "{}: an example names no archive", path.display());
        let text = std::fs::read_to_string(&path).expect("UTF-8");
        assert!(!text.contains("http:") && !text.contains("https:"), "{}: names a host", path.display());
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn the_minimal_system_is_what_it_says() {
    let input = input::load(&examples().join("debian-13-minimal.yaml"), "amd64").unwrap_or_else(|e| panic!("{e}"));
    let t = input.treefile;
    assert_eq!(t.require_ref().expect("a ref"), "debian/13/amd64/minimal");
    assert_eq!(t.releasever.as_deref(), Some("trixie"));
    let prefix = t.automatic_version_prefix.as_deref().expect("a prefix");
    assert_eq!(next_version(prefix, t.automatic_version_suffix, Some("13"), 0).expect("a version"), "13.1");
    assert!(t.presets.is_empty(), "Debian's packages decide what is on");
    let names: Vec<&str> = t.packages.iter().map(|p| p.name.as_str()).collect();
    for name in ["linux-image-amd64", "dracut", "systemd-sysv", "ostree", "ostree-boot", "openssh-server", "apt"] {
        assert!(names.contains(&name), "{name}");
    }
    assert!(!t.recommends && t.machineid_compat);
}
