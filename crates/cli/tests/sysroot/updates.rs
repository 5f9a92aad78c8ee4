//! Updates, looked at and made: what is downloaded for a look, what is told of it, and what the policies do.

use std::path::{Path, PathBuf};
use std::process::Command;

use apt_ostree_testkit::http::HttpServer;
use serde_json::{Value, json};

use super::{BASE_1, BASE_2, Fixture, REF, Small, sh};

/// A server at the first of two versions and a deployment of that; then the second one comes, with a large new file and a
/// security update.
fn an_update(pkglist: &str, more: &[&str]) -> (Fixture, String, String) {
    let fixture = Fixture::new(&["--no-gpg-verify"]);
    let first = fixture.commit("13.1", 1_700_000_000, BASE_1, &[]);
    fixture.pull();
    fixture.admin(&["deploy", "--os=debian", &format!("origin:{REF}")]);
    let tree = fixture.path("tree");
    std::fs::write(Path::new(&tree).join("usr/bin/large"), "only in the second version").unwrap();
    std::fs::create_dir_all(Path::new(&tree).join("usr/lib/sysimage/dpkg/info")).unwrap();
    let status = "Package: vim\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2:9.1.1230-3\n\n";
    std::fs::write(Path::new(&tree).join("usr/lib/sysimage/dpkg/status"), status).unwrap();
    std::fs::write(Path::new(&tree).join("usr/lib/sysimage/dpkg/info/vim.list"), "/usr/bin/vim\n").unwrap();
    let second = fixture.commit("13.2", 1_700_100_000, pkglist, more);
    (fixture, first, second)
}

const CVE: &str = "https://security-tracker.debian.org/tracker/CVE-2025-1234";

impl Fixture {
    /// Whether the repository has a file of a commit.
    fn has_file(&self, commit: &str, path: &str) -> bool {
        let output = Command::new("ostree").args(["cat", "--repo", &self.repo(), commit, path]).output().unwrap();
        output.status.success()
    }

    fn cached_update(&self) -> Value {
        self.json(&["status", "--json"])["cached-update"].clone()
    }
}

#[test]
fn an_update_is_looked_at_without_the_image() {
    let advisories = format!(
        "--add-metadata=rpmostree.advisories=[('nano 8.4-1', uint32 1, uint32 0, ['nano-8.4-1.amd64'], \
         {{'cve_references': <[('{CVE}', 'CVE-2025-1234')]>}})]"
    );
    let (fixture, first, second) = an_update(BASE_2, &[&advisories]);
    let update = fixture.run(&["upgrade", "--check"]);
    let (text, error) = (String::from_utf8(update.stdout).unwrap(), String::from_utf8_lossy(&update.stderr));
    assert_eq!(update.status.code(), Some(0), "{text}{error}");
    let block = format!(
        "AvailableUpdate:\n        Version: 13.2 (2023-11-16T02:00:00Z)\n         Commit: {second}\n  \
         SecAdvisories: 1 unknown severity\n           Diff: 1 upgraded, 1 removed, 1 added\n"
    );
    assert!(text.ends_with(&block), "{text}");
    let diff = json!({
        "upgraded": [[0, "base-files", ["13.8", "amd64"], ["13.9", "amd64"]]], "downgraded": [],
        "removed": [[0, "htop", "3.4.1-5", "amd64"]], "added": [[0, "nano", "8.4-1", "amd64"]],
    });
    let cached = json!({
        "osname": "debian", "checksum": second, "version": "13.2", "timestamp": 1_700_100_000,
        "origin": format!("origin:{REF}"), "gpg-enabled": false, "ref-has-new-commit": true, "rpm-diff": diff,
        "advisories": [["nano 8.4-1", 1, 0, ["nano-8.4-1.amd64"], {"cve_references": [[CVE, "CVE-2025-1234"]]}]],
        "update-sha256": first,
    });
    assert_eq!(fixture.cached_update(), cached);
    assert!(fixture.out(&["status"]).ends_with(&format!("Commit: {first}\n\n{block}")));
    let all = fixture.out(&["status", "-a"]);
    let security = format!(
        "  SecAdvisories: nano 8.4-1  Unknown  nano-8.4-1.amd64\n                   CVE-2025-1234\n                   {CVE}\n"
    );
    assert!(all.contains(&security), "{all}");
    let preview = fixture.run(&["upgrade", "--preview"]);
    let preview = String::from_utf8(preview.stdout).unwrap();
    assert!(preview.contains(&security) && preview.contains("       Upgraded: base-files 13.8 -> 13.9\n"), "{preview}");

    // Nothing of the tree is here, nothing follows it, and what is here is sound.
    assert!(
        !fixture.has_file(&second, "/usr/bin/large") && !fixture.has_file(&second, "/usr/lib/sysimage/dpkg/status")
    );
    assert_eq!(fixture.ostree(&["rev-parse", &format!("origin:{REF}")]).trim(), first);
    fixture.ostree(&["fsck"]);
    assert_eq!(fixture.json(&["status", "--json"])["deployments"][0].get("pending-base-checksum"), None);
    let offline = fixture.run(&["upgrade", "--cache-only"]);
    assert!(String::from_utf8_lossy(&offline.stdout).contains("No upgrade available."), "{offline:?}");
    assert_eq!(fixture.cached_update(), Value::Null, "without the network there is no update");

    // The real one is whole, and is no update any more.
    assert_eq!(fixture.run(&["upgrade", "--check"]).status.code(), Some(0));
    let upgrade = fixture.run(&["upgrade"]);
    assert_eq!(upgrade.status.code(), Some(0), "{upgrade:?}");
    assert!(fixture.has_file(&second, "/usr/bin/large"));
    assert!(!Path::new(&fixture.repo()).join(format!("state/{second}.commitpartial")).exists());
    fixture.ostree(&["fsck"]);
    assert_eq!(fixture.cached_update(), Value::Null);
    assert!(
        !Path::new(&fixture.sysroot()).join("ostree/deploy/debian/var/cache/apt-ostree/cached-update.json").exists()
    );
    let check = fixture.run(&["upgrade", "--check"]);
    assert_eq!(
        (check.status.code(), check.stdout.ends_with(b"No updates available.\n")),
        (Some(77), true),
        "{check:?}"
    );
    assert_eq!(
        fixture.json(&["db", "diff", "--format=json", &first, &second])["advisories"],
        cached["advisories"],
        "the commits tell it for ever"
    );
    let list = fixture.out(&["db", "list", "-a", &second, "nano"]);
    assert!(list.contains("\nSecAdvisories:\n  nano 8.4-1  Unknown  nano-8.4-1.amd64\n    CVE-2025-1234\n"), "{list}");
    assert!(fixture.out(&["db", "diff", "-a", &first, &second]).contains("SecAdvisories:\n  nano 8.4-1"));
    assert!(!fixture.out(&["db", "diff", "-a", &second, &first]).contains("SecAdvisories"));
}

#[test]
fn an_update_of_an_image_that_lists_its_packages_in_dpkg_only() {
    let (fixture, first, second) = an_update("", &[]);
    let update = fixture.run(&["upgrade", "--preview"]);
    let text = String::from_utf8(update.stdout).unwrap();
    assert!(text.contains("Upgraded: vim 2:9.1.1230-2 -> 2:9.1.1230-3\n"), "{text}");
    assert!(fixture.has_file(&second, "/usr/lib/sysimage/dpkg/status"));
    assert!(!fixture.has_file(&second, "/usr/lib/sysimage/dpkg/info/vim.list"), "a plan needs no more than that");
    for revision in [&second, "13.2"] {
        let preview = fixture.run(&["deploy", "--preview", revision]);
        let text = String::from_utf8(preview.stdout).unwrap();
        assert!(
            text.ends_with(
                "-base-files-13.8-amd64\n-htop-3.4.1-5-amd64\n!vim-2:9.1.1230-2-amd64\n=vim-2:9.1.1230-3-amd64\n"
            ),
            "{text}"
        );
    }
    let missing = fixture.run(&["deploy", "version=14"]);
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
    assert_eq!(fixture.ostree(&["rev-parse", &format!("origin:{REF}")]).trim(), first);
    assert!(!fixture.has_file(&second, "/usr/lib/sysimage/dpkg/info/vim.list"));
    fixture.ostree(&["fsck"]);
    // Another deployment by other means, and what was known is no longer told.
    assert_ne!(fixture.cached_update(), Value::Null);
    let deploy = fixture.run(&["deploy", &second]);
    assert_eq!(deploy.status.code(), Some(0), "{deploy:?}");
    assert!(fixture.has_file(&second, "/usr/lib/sysimage/dpkg/info/vim.list"));
    assert_eq!(fixture.cached_update(), Value::Null);
    fixture.ostree(&["fsck"]);
}

/// libostree prefers a delta even to a few files of a commit, and a delta is the whole image.
#[test]
fn an_update_is_looked_at_without_its_delta() {
    let (fixture, first, second) = an_update("", &[]);
    let server = fixture.path("server");
    sh("ostree", &["static-delta", "generate", "--repo", &server, "--from", &first, "--to", &second]);
    sh("ostree", &["summary", "--update", "--repo", &server]);
    let http = HttpServer::start(Path::new(&server));
    fixture.ostree(&["config", "--group=remote \"origin\"", "set", "url", &http.url()]);
    let check = fixture.run(&["upgrade", "--check"]);
    assert!(check.status.success(), "{check:?}");
    assert_eq!((http.count("/deltas/"), http.count(".filez")), (0, 1), "{:?}", http.requests());
    assert!(fixture.has_file(&second, "/usr/lib/sysimage/dpkg/status") && !fixture.has_file(&second, "/usr/bin/large"));
    let upgrade = fixture.run(&["upgrade"]);
    assert!(upgrade.status.success(), "{upgrade:?}");
    assert_ne!(http.count("/deltas/"), 0, "the image itself comes by the delta: {:?}", http.requests());
    fixture.ostree(&["fsck"]);
}

#[test]
fn what_was_only_looked_at_is_no_image_and_does_not_pile_up() {
    let (fixture, first, second) = an_update("", &[]);
    let check = || {
        let check = fixture.run(&["upgrade", "--check"]);
        assert_eq!(check.status.code(), Some(0), "{check:?}");
    };
    check();
    for args in [&["deploy", "--cache-only", "--skip-branch-check", &second][..], &["rebase", &second]] {
        let refused = fixture.run(args);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("Commit {second} of ")) && said.contains("is not here in full"), "{said}");
    }
    let has = |object: &str| {
        let mut command = Command::new("ostree");
        command.args(["show", "--raw", "--repo", &fixture.repo(), object]).output().unwrap().status.success()
    };
    let objects = || walk(&Path::new(&fixture.repo()).join("objects"));
    let after_one = objects();
    // By the way: a commit that somebody pulled, which no ref names.
    let unrelated = fixture.ostree(&["commit", "--orphan", "--tree=ref=origin:debian/13/amd64/minimal"]);
    let status = Path::new(&fixture.path("tree")).join("usr/lib/sysimage/dpkg/status");
    let text = std::fs::read_to_string(&status).unwrap();
    std::fs::write(&status, text.replace("9.1.1230-3", "9.1.1230-4")).unwrap();
    let third = fixture.commit("13.3", 1_700_200_000, "", &[]);
    check();
    assert!(has(&first) && !has(&second) && has(&third) && has(unrelated.trim()));
    assert!(!Path::new(&fixture.repo()).join(format!("state/{second}.commitpartial")).exists());
    assert_eq!(objects().len(), after_one.len() + 1, "the unrelated commit is all that was added");
    assert_eq!(fixture.cached_update()["version"], "13.3");
    fixture.ostree(&["fsck"]);
    check();
    assert!(has(&third));
    // Looking back at what is here in full loses nothing of it.
    assert!(fixture.run(&["deploy", "--preview", &first]).status.success());
    assert!(has(&first) && !has(&third));
    assert!(fixture.run(&["upgrade"]).status.success());
    assert_eq!(fixture.json(&["status", "--json"])["deployments"][0]["checksum"], third.as_str());
    fixture.ostree(&["fsck"]);
}

/// All files below a directory.
fn walk(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn what_failed_to_boot_is_no_update() {
    let (fixture, first, second) = an_update(BASE_2, &[]);
    let check = fixture.run(&["upgrade", "--check"]);
    assert_eq!(check.status.code(), Some(0), "{check:?}");
    assert_ne!(fixture.cached_update(), Value::Null);
    let var = Path::new(&fixture.sysroot()).join("ostree/deploy/debian/var");
    let cached = var.join("cache/apt-ostree/cached-update.json");
    let reports = var.join("lib/apt-ostree/health");
    std::fs::create_dir_all(&reports).unwrap();
    let report =
        json!({"deployment": format!("{second}.0"), "time": 1_700_200_000, "good": false, "reason": "it hung"});
    std::fs::write(reports.join(format!("{second}.0.json")), report.to_string()).unwrap();
    let why = format!("would be the same as {second}.0, which failed to boot at 2023-11-17T05:46:40Z: it hung");

    for args in [&["upgrade", "--check"][..], &["upgrade", "--preview"], &["upgrade", "--check", "--quiet"]] {
        let output = fixture.run(args);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(77), "{output:?}");
        assert!(said.ends_with(&format!("The update {why}\nNo updates available.\n")), "{said}");
        assert!(!cached.exists());
    }
    let forced = fixture.run(&["upgrade", "--check", "--allow-failed"]);
    assert!(forced.status.success() && cached.exists(), "{forced:?}");
    // A person is refused, with a way around it.
    let refused = fixture.run(&["upgrade"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("error: The new deployment {why}")) && said.contains("--allow-failed"), "{said}");
    assert!(!cached.exists());
    // Nobody's run has nothing to do.
    let settings =
        Path::new(&fixture.sysroot()).join(format!("ostree/deploy/debian/deploy/{first}.0/etc/apt-ostreed.conf"));
    for policy in ["check", "stage", "apply"] {
        std::fs::write(&settings, format!("[Daemon]\nAutomaticUpdatePolicy={policy}\n")).unwrap();
        let output = fixture.run(&["upgrade", "--quiet", "--trigger-automatic-update-policy"]);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && said.contains(&why) && !said.contains("error:"), "{said}");
    }
    assert_eq!(fixture.json(&["status", "--json"])["deployments"].as_array().unwrap().len(), 1);
    // The next one is one again.
    std::fs::write(Path::new(&fixture.path("tree")).join("usr/bin/large"), "mended").unwrap();
    fixture.commit("13.3", 1_700_300_000, BASE_2, &[]);
    let check = fixture.run(&["upgrade", "--check"]);
    assert!(check.status.success() && cached.exists(), "{check:?}");
}

/// Whether something changes is a matter of the commit: a new image can have the same versions of everything.
#[test]
fn a_new_image_with_the_same_packages_is_a_change() {
    let (fixture, first, second) = an_update(BASE_1, &[]);
    let outcome = |args: &[&str]| {
        let output = fixture.run(args);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), report["changed"].as_bool().unwrap())
    };
    assert!(outcome(&["upgrade", "--dry-run", "--json"]).1);
    let preview = |revision: &str| outcome(&["deploy", "--preview", "--json", "--unchanged-exit-77", revision]);
    assert_eq!(preview(&second), (Some(0), true));
    assert_eq!(preview(&first), (Some(77), false));
    assert!(fixture.run(&["upgrade"]).status.success());
    assert_eq!(outcome(&["upgrade", "--dry-run", "--json", "--unchanged-exit-77"]), (Some(77), false));
    assert_eq!((preview(&second), preview(&first)), ((Some(77), false), (Some(0), true)));
}

#[test]
fn an_image_that_says_how_large_it_is_must_fit() {
    let (fixture, _, second) = an_update(BASE_2, &["--generate-sizes"]);
    let repo = PathBuf::from(fixture.repo());
    let copy = fixture.path("copy");
    sh("cp", &["-a", repo.to_str().unwrap(), &copy]);
    // Less than what is kept free for the deployment.
    let mounted = Small::mount(&repo, "60M");
    sh("cp", &["-a", &format!("{copy}/."), repo.to_str().unwrap()]);
    let refused = fixture.run(&["upgrade"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("error: Not enough space on") && said.contains("needed for the new image"), "{said}");
    assert!(!fixture.has_file(&second, "/usr/bin/large"));
    drop(mounted);
    let upgrade = fixture.run(&["upgrade"]);
    let said = String::from_utf8_lossy(&upgrade.stdout).into_owned();
    assert!(upgrade.status.success() && said.contains("Will download: the image ("), "{said}");
    assert!(fixture.has_file(&second, "/usr/bin/large"));
}

#[test]
fn automatic_updates_follow_the_policy() {
    let (fixture, first, second) = an_update(BASE_2, &[]);
    let settings_of = |commit: &str| {
        Path::new(&fixture.sysroot()).join(format!("ostree/deploy/debian/deploy/{commit}.0/etc/apt-ostreed.conf"))
    };
    let settings = settings_of(&first);
    let deployed = || fixture.json(&["status", "--json"])["deployments"][0]["checksum"].as_str().unwrap().to_owned();
    let trigger = |policy: &str| {
        std::fs::write(&settings, format!("[Daemon]\nAutomaticUpdatePolicy={policy}\n")).unwrap();
        let output = fixture.run(&["upgrade", "--quiet", "--trigger-automatic-update-policy"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(trigger("none"), "Automatic updates are not enabled; exiting...\n");
    assert_eq!((deployed(), fixture.cached_update()), (first.clone(), Value::Null));
    assert!(!fixture.out(&["status"]).contains("AutomaticUpdates"));
    trigger("check");
    assert_eq!((deployed(), fixture.cached_update()["checksum"].as_str()), (first, Some(second.as_str())));
    assert!(fixture.out(&["status"]).starts_with("State: idle\nAutomaticUpdates: check\nDeployments:\n"));
    trigger("stage");
    assert_eq!(deployed(), second);
    assert_eq!(trigger("stage"), "", "nothing new is no failure");
    let settings = settings_of(&second);
    std::fs::write(&settings, "[Daemon]\nAutomaticUpdatePolicy=sometimes\n").unwrap();
    assert!(fixture.out(&["status"]).starts_with("State: idle\nDeployments:\n"), "a mistake hides no deployment");
}
