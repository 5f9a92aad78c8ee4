//! Questions about packages against a signed local archive; apt-cache and apt with the same files are the oracle.

#[allow(dead_code)]
mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;

use apt_ostree_apt::AptSource;
use apt_ostree_core::ErrorKind;
use apt_ostree_core::catalog::{KnownPackage, PackageCatalog};
use apt_ostree_core::model::package::PackageId;
use apt_ostree_core::source::SourceConfig;
use apt_ostree_testkit::archive::Archive;
use apt_ostree_testkit::deb::Deb;
use common::{World, isolated, write};

fn described(name: &str, version: &str, text: &str) -> Deb {
    Deb::new(name, version).field("Description", text)
}

fn fill(archive: &mut Archive) {
    for deb in [
        described("editor", "2.0", "edits Text\n Long words about it.\n .\n More."),
        described("editor-doc", "2.0", "manual of the thing").arch("all"),
        described("viewer", "1.0", "shows text").depends("libview (>= 1)").provides("pager").field("Section", "text"),
        described("libview", "1.0", "library").multi_arch("same"),
        described("libview", "1.0", "library").multi_arch("same").arch("i386"),
        described("only32", "1.0", "for the other architecture").arch("i386"),
        described("pinned", "1.0", "in two suites"),
    ] {
        archive.add("stable", &deb);
    }
    archive.add("backports", &described("pinned", "2.0", "in two suites"));
    archive.add("backports", &described("editor", "3.0", "edits Text"));
    archive.release_field("backports", "NotAutomatic", "yes");
}

fn base() -> Vec<Deb> {
    vec![described("editor", "1.0", "edits text\n The long one."), described("local-only", "1.0", "of nobody")]
}

fn world() -> World {
    let mut world = World::unrefreshed(&base(), fill);
    world.config.sources.push(world.archive.sources("backports"));
    world.refresh().expect("a good archive");
    world
}

/// The configuration of a question: a private folder with links to the indexes.
fn reading(world: &World, name: &str) -> SourceConfig {
    let private = world.dir.path().join(name);
    fs::create_dir(&private).expect("own directory");
    for part in ["lists", "cache"] {
        symlink(world.config.state.join(part), private.join(part)).expect("own directory");
    }
    SourceConfig { state: private, reading: true, offline: true, ..world.config.clone() }
}

fn all(config: &SourceConfig) -> Vec<KnownPackage> {
    AptSource::new().packages(config, &|_| true, true).expect("an answer")
}

#[test]
fn names_and_descriptions_are_those_of_apt() {
    isolated(|| {
        let world = world();
        let list = all(&reading(&world, "q"));
        let mut theirs: BTreeSet<String> = BTreeSet::new();
        for line in world.apt_says("apt-cache", &["search", "--names-only", "."]).lines() {
            theirs.insert(line.to_owned());
        }
        let ours: BTreeSet<String> = list.iter().map(|p| format!("{} - {}", p.name, p.summary)).collect();
        assert_eq!(ours, theirs);
        // Architectures, where apt-cache search has names only.
        let names: Vec<String> = list.iter().map(|p| format!("{}:{}", p.name, p.arch)).collect();
        assert_eq!(
            names,
            [
                "editor:amd64",
                "editor-doc:amd64",
                "libview:amd64",
                "libview:i386",
                "local-only:amd64",
                "only32:i386",
                "pinned:amd64",
                "viewer:amd64"
            ]
        );
    });
}

#[test]
fn versions_and_candidates_are_those_of_apt() {
    isolated(|| {
        let mut world = world();
        let pins = world.dir.path().join("pins");
        world.config.preferences = vec![write(&pins, "Package: pinned\nPin: release n=backports\nPin-Priority: 700\n")];
        for package in all(&reading(&world, "q")) {
            let name = format!("{}:{}", package.name, package.arch);
            let policy = world.apt_says("apt-cache", &["policy", &name]);
            let field = |key: &str| {
                let line = policy.lines().find_map(|l| l.trim().strip_prefix(key));
                line.map(|l| l.trim().to_owned()).filter(|v| v != "(none)")
            };
            assert_eq!(package.installed().map(|v| v.version.clone()), field("Installed:"), "{policy}");
            assert_eq!(package.candidate, field("Candidate:"), "{policy}");
            for version in &package.versions {
                let line = format!("{} {}", version.version, version.priority);
                assert!(policy.contains(&line), "{line} in\n{policy}");
            }
        }
        let pinned = all(&reading(&world, "again")).into_iter().find(|p| p.name == "pinned").expect("it is there");
        assert_eq!(pinned.candidate.as_deref(), Some("2.0"));
        assert_eq!(pinned.versions[0].origins, ["backports/main"]);
        assert_eq!(pinned.versions[1].origins, ["stable/main"]);
    });
}

#[test]
fn records_are_those_of_apt() {
    isolated(|| {
        let world = world();
        let config = reading(&world, "q");
        let names = ["viewer", "editor", "libview:i386", "only32"].map(str::to_owned);
        let records = AptSource::new().records(&config, &names).expect("an answer");
        assert_eq!(records.len(), 4);
        for record in &records {
            let wanted = format!("{}:{}={}", record.package.name, record.package.arch, record.version);
            let theirs = world.apt_says("apt-cache", &["show", &wanted]);
            for (key, value) in &record.fields {
                assert!(theirs.contains(&format!("{key}: {value}\n")), "{key}: {value} in\n{theirs}");
            }
        }
        let viewer = &records[0];
        let fields: Vec<&str> = viewer.fields.iter().map(|(k, _)| k.as_str()).collect();
        assert_eq!(fields, ["Priority", "Section", "Maintainer", "Provides", "Depends"]);
        assert_eq!(viewer.description, "shows text");
        assert!(viewer.download_size > 0);
        // The installed one, with its long description.
        assert_eq!(records[1].version, "1.0");
        assert_eq!(records[1].description, "edits text\n The long one.");

        let unknown = ["viewr", "pager", "nothing-like-it"].map(str::to_owned);
        let error = AptSource::new().records(&config, &unknown).expect_err("three unknown names");
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert_eq!(error.to_string(), "Packages not found: viewr, pager, nothing-like-it");
        assert!(error.hints.contains(&"Instead of viewr, did you mean viewer?".to_owned()), "{:?}", error.hints);
        assert!(error.hints.iter().any(|h| h.contains("virtual package, provided by viewer")), "{:?}", error.hints);
    });
}

#[test]
fn a_question_leaves_everything_as_it_was() {
    isolated(|| {
        let world = world();
        let caches = || {
            ["pkgcache.bin", "srcpkgcache.bin"]
                .map(|name| fs::read(world.config.state.join("cache").join(name)).expect("a cache of the refresh"))
        };
        // The solver's cache is of its base; a question about another status must not replace it.
        AptSource::new()
            .packages(&SourceConfig { reading: false, ..world.config.clone() }, &|_| true, false)
            .expect("a cache");
        let before = caches();
        let etc = fs::read_dir(world.config.state.join("etc")).expect("it is there").count();
        let mut config = reading(&world, "q");
        config.status = write(&world.dir.path().join("other-status"), &Deb::new("other", "1.0").status_stanza());
        let list = all(&config);
        assert!(list.iter().any(|p| p.name == "other" && p.installed().is_some()), "{list:?}");
        assert!(caches() == before, "the caches were written");
        assert_eq!(fs::read_dir(world.config.state.join("etc")).expect("it is there").count(), etc);
    });
}

#[test]
fn changelogs_come_from_where_the_archive_says() {
    isolated(|| {
        let mut world = World::unrefreshed(&base(), |archive| {
            archive.add("stable", &described("libfoo1", "1:2.0-1+b1", "x").field("Source", "libfoo (1:2.0-1)"));
            archive.add("stable", &described("viewer", "1.0", "x"));
            let template = format!("copy:{}/changelogs/@CHANGEPATH@_changelog", archive.dir().display());
            archive.release_field("stable", "Changelogs", &template);
        });
        world.refresh().expect("a good archive");
        let config = reading(&world, "q");
        let id = |name: &str, version: &str| PackageId::new(name, version, "amd64");
        // The oracle: where apt-get looks for it.
        let uris = world.apt_says("apt-get", &["changelog", "--print-uris", "libfoo1"]);
        let path = uris.split('\'').nth(1).and_then(|u| u.strip_prefix("copy:")).expect("an address").to_owned();
        fs::create_dir_all(std::path::Path::new(&path).parent().expect("a folder")).expect("own directory");
        fs::write(&path, "libfoo (1:2.0-1) stable; urgency=low\n").expect("own directory");
        let mut source = AptSource::new();
        let text = source.changelog(&config, &id("libfoo1", "1:2.0-1+b1")).expect("it is there");
        assert_eq!(text.as_deref(), Some("libfoo (1:2.0-1) stable; urgency=low\n"));
        let error = source.changelog(&config, &id("viewer", "1.0")).expect_err("no such file");
        assert_eq!(error.kind, ErrorKind::Network);
        assert!(error.to_string().contains("/changelogs/main/v/viewer/viewer_1.0_changelog: "), "{error}");
        assert_eq!(source.changelog(&config, &id("local-only", "1.0")).expect("an answer"), None);
    });
}
