//! `status`, `db` and `kargs` on real libostree sysroots in a directory, made by the ostree command line, which is the
//! oracle as well. Needs root, as every ostree deployment does.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

mod updates;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Runs a program that must succeed, and returns its stdout.
#[track_caller]
fn sh(program: &str, args: &[&str]) -> String {
    // Immutable deployments could not be removed with the temporary directory.
    let output = Command::new(program).args(args).env("OSTREE_SYSROOT_DEBUG", "mutable-deployments").output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

const REF: &str = "debian/13/amd64/minimal";
const BASE_1: &str = "[('base-files', '0', '13.8', '', 'amd64'), ('htop', '0', '3.4.1', '5', 'amd64'), \
                       ('vim', '2', '9.1.1230', '2', 'amd64')]";
const BASE_2: &str = "[('base-files', '0', '13.9', '', 'amd64'), ('nano', '0', '8.4', '1', 'amd64'), \
                       ('vim', '2', '9.1.1230', '2', 'amd64')]";

/// A server repository with commits, and a sysroot that has it as remote `origin`.
struct Fixture {
    dir: TempDir,
}

impl Fixture {
    fn new(remote_options: &[&str]) -> Self {
        let fixture = Self { dir: tempfile::tempdir().unwrap() };
        let (server, tree) = (fixture.path("server"), fixture.path("tree"));
        sh("ostree", &["init", "--mode=archive", "--repo", &server]);
        for dir in ["usr/lib/modules/6.12.0", "usr/etc", "usr/bin"] {
            std::fs::create_dir_all(Path::new(&tree).join(dir)).unwrap();
        }
        let write = |path: &str, text: &str| std::fs::write(Path::new(&tree).join(path), text).unwrap();
        write("usr/lib/os-release", "ID=debian\nVERSION_ID=13\nPRETTY_NAME=\"Debian 13\"\n");
        write("usr/lib/modules/6.12.0/vmlinuz", "kernel");
        write("usr/lib/modules/6.12.0/initramfs.img", "initramfs");
        let sysroot = fixture.sysroot();
        std::fs::create_dir(&sysroot).unwrap();
        sh("ostree", &["admin", "init-fs", &sysroot]);
        fixture.admin(&["stateroot-init", "debian"]);
        fixture.ostree(&["config", "set", "sysroot.bootloader", "none"]);
        let mut add = vec!["remote", "add", "origin"];
        add.extend(remote_options);
        let url = format!("file://{server}");
        add.push(&url);
        fixture.ostree(&add);
        fixture
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn sysroot(&self) -> String {
        self.path("sysroot")
    }

    fn repo(&self) -> String {
        self.path("sysroot/ostree/repo")
    }

    /// `ostree --repo=` the sysroot's.
    #[track_caller]
    fn ostree(&self, args: &[&str]) -> String {
        let repo = format!("--repo={}", self.repo());
        let mut all = args.to_vec();
        all.push(&repo);
        sh("ostree", &all)
    }

    #[track_caller]
    fn admin(&self, args: &[&str]) -> String {
        let sysroot = format!("--sysroot={}", self.sysroot());
        let mut all = vec!["admin", args[0], &sysroot];
        all.extend(&args[1..]);
        sh("ostree", &all)
    }

    /// Commits the tree on the server, and returns the checksum.
    #[track_caller]
    fn commit(&self, version: &str, time: u64, pkglist: &str, more: &[&str]) -> String {
        let (server, tree) = (self.path("server"), format!("--tree=dir={}", self.path("tree")));
        let version = format!("--add-metadata-string=version={version}");
        let pkglist = format!("--add-metadata=rpmostree.rpmdb.pkglist={pkglist}");
        let time = format!("--timestamp=@{time}");
        let mut args = vec!["commit", "--repo", &server, "-b", REF, &tree, &version, &time, "--owner-uid=0"];
        if !pkglist.ends_with('=') {
            args.push(&pkglist);
        }
        args.extend(more);
        sh("ostree", &args).trim().to_owned()
    }

    fn pull(&self) {
        self.ostree(&["pull", "origin", REF]);
    }

    /// A layered commit on `base` and its deployment, as an installation writes them.
    fn deploy_layered(&self, base: &str) -> String {
        let (tree, repo) = (format!("--tree=ref={base}"), self.repo());
        let parent = format!("--parent={base}");
        let layered = sh(
            "ostree",
            &[
                "commit",
                "--repo",
                &repo,
                "-b",
                "apt-ostree/base/0",
                "--no-bindings",
                &tree,
                &parent,
                "--add-metadata-string=version=13.1",
                "--timestamp=@1700000500",
                "--add-metadata=rpmostree.clientlayer=true",
                "--add-metadata=rpmostree.clientlayer_version=uint32 6",
                "--add-metadata=rpmostree.packages=['zsh', 'curl']",
                "--add-metadata=rpmostree.removed-base-packages=[<('nano-8.4-1.amd64', 'nano', uint64 0, '8.4', '1', 'amd64')>]",
                "--add-metadata=rpmostree.replaced-base-packages=[(<('vim-2:9.2-1.amd64', 'vim', uint64 2, '9.2', '1', 'amd64')>, \
             <('vim-2:9.1.1230-2.amd64', 'vim', uint64 2, '9.1.1230', '2', 'amd64')>)]",
                "--add-metadata=apt-ostree.base-upgrades=[('base-files-13.8.amd64', 'base-files-13.9.amd64', 'needed by zsh')]",
                "--add-metadata-string=rpmostree.state-sha512=abc",
                "--add-metadata=rpmostree.rpmdb.pkglist=[('curl', '0', '8.14.1', '2', 'amd64'), ('zsh', '0', '5.9', '8', 'amd64')]",
            ],
        );
        let layered = layered.trim();
        let origin = self.path("origin");
        let text = format!(
            "[origin]\nbaserefspec=origin:{REF}\n\n[packages]\nrequested=curl;zsh;vim;\nrequested-local={}:hello_2.10-3_amd64;\n\n\
             [overrides]\nremove=nano;ghost;\n",
            "ab".repeat(32)
        );
        std::fs::write(&origin, text).unwrap();
        self.admin(&["deploy", "--os=debian", &format!("--origin-file={origin}"), layered]);
        layered.to_owned()
    }

    fn run(&self, args: &[&str]) -> Output {
        let sysroot = format!("--sysroot={}", self.sysroot());
        let mut command = Command::new(env!("CARGO_BIN_EXE_apt-ostree"));
        command.arg(sysroot).args(args).env("OSTREE_SYSROOT_DEBUG", "mutable-deployments");
        command.output().unwrap()
    }

    /// stdout of a run that must succeed and be silent on stderr.
    #[track_caller]
    fn out(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.out(args)).unwrap()
    }
}

/// Two bases, both deployed; the newer one first.
fn two_bases() -> (Fixture, String, String) {
    let fixture = Fixture::new(&["--no-gpg-verify"]);
    let first = fixture.commit("13.1", 1_700_000_000, BASE_1, &["--add-metadata=n=uint32 7"]);
    fixture.pull();
    let refspec = format!("origin:{REF}");
    fixture.admin(&["deploy", "--os=debian", "--karg=quiet", "--karg=root=LABEL=x", &refspec]);
    let second = fixture.commit("13.2", 1_700_100_000, BASE_2, &[]);
    fixture.pull();
    fixture.admin(&["deploy", "--os=debian", &refspec]);
    (fixture, first, second)
}

#[test]
fn an_empty_sysroot() {
    let fixture = Fixture::new(&["--no-gpg-verify"]);
    assert_eq!(
        fixture.json(&["status", "--json"]),
        json!({"deployments": [], "transaction": null, "cached-update": null, "update-driver": null})
    );
    assert_eq!(fixture.out(&["status"]), "State: idle\nDeployments:\n");
    assert_eq!(fixture.run(&["status", "--pending-exit-77"]).status.code(), Some(0));
    assert_eq!(fixture.run(&["db", "diff"]).status.code(), Some(1));
}

#[test]
fn deployments_are_those_of_ostree() {
    let (fixture, first, second) = two_bases();
    let status = fixture.json(&["status", "--json"]);
    let deployments = status["deployments"].as_array().unwrap();
    // The oracle: `ostree admin status` lists `STATEROOT CHECKSUM.SERIAL`.
    let admin = fixture.admin(&["status"]);
    let listed: Vec<_> = deployments
        .iter()
        .map(|d| format!("{} {}.{}", d["osname"].as_str().unwrap(), d["checksum"].as_str().unwrap(), d["serial"]))
        .collect();
    let wanted: Vec<_> =
        admin.lines().filter(|l| l.contains("debian ")).map(|l| l.trim_start_matches(['*', ' '])).collect();
    assert_eq!(listed.len(), 2);
    for (have, want) in listed.iter().zip(wanted) {
        assert!(want.starts_with(have), "{have} is not {want}");
    }
    let d = &deployments[1];
    assert_eq!((d["checksum"].as_str(), deployments[0]["checksum"].as_str()), (Some(&*first), Some(&*second)));
    assert_eq!(d["id"], format!("debian-{first}.0"));
    assert_eq!(d["origin"], format!("origin:{REF}"));
    assert_eq!((&d["version"], &d["timestamp"]), (&json!("13.1"), &json!(1_700_000_000)));
    assert_eq!(d["base-commit-meta"]["n"], 7);
    assert_eq!(d["base-commit-meta"].get("rpmostree.rpmdb.pkglist"), None);
    assert_eq!(d["pending-base-checksum"], second);
    assert_eq!((&d["pending-base-version"], &d["pending-base-timestamp"]), (&json!("13.2"), &json!(1_700_100_000)));
    assert_eq!(deployments[0].get("pending-base-checksum"), None);
    assert_eq!((&d["gpg-enabled"], d.get("signatures")), (&json!(false), None));
    for key in ["booted", "staged", "pinned", "regenerate-initramfs"] {
        assert_eq!(d[key], false, "{key}");
    }
    assert_eq!(d["unlocked"], "none");
    for key in [
        "requested-packages",
        "requested-local-packages",
        "requested-local-fileoverride-packages",
        "requested-base-removals",
        "requested-base-local-replacements",
        "packages",
        "base-removals",
        "base-local-replacements",
    ] {
        assert_eq!(d[key], json!([]), "{key}");
    }
    assert_eq!(d["base-remote-replacements"], json!({}));
    for key in ["base-checksum", "layered-commit-meta", "finalization-locked", "custom-origin", "remote-error"] {
        assert_eq!(d.get(key), None, "{key}");
    }
}

#[test]
fn status_as_text() {
    let (fixture, first, second) = two_bases();
    assert_eq!(
        fixture.out(&["status"]),
        format!(
            "State: idle
Deployments:
  origin:{REF}
                  Version: 13.2 (2023-11-16T02:00:00Z)
                   Commit: {second}

  origin:{REF}
                  Version: 13.1 (2023-11-14T22:13:20Z)
                   Commit: {first}
"
        )
    );
    // The command may stand last, and a closed pipe is nobody's problem.
    assert_eq!(fixture.run(&["-q", "status"]).status.code(), Some(0));
    assert_eq!(fixture.run(&["status", "--pending-exit-77"]).status.code(), Some(77));
    assert_eq!(fixture.out(&["status", "-b"]), "State: idle\nBootedDeployment:\n");
    assert_eq!(fixture.json(&["status", "-b", "--json"])["deployments"], json!([]));
    let verbose = fixture.out(&["status", "-v"]);
    for line in [
        &format!("  origin:{REF} (index: 1)\n"),
        "                   Staged: no\n                StateRoot: debian\n",
        "AutomaticUpdates: disabled\n",
    ] {
        assert!(verbose.contains(line), "{verbose}");
    }
    fixture.admin(&["pin", "1"]);
    assert_eq!(fixture.json(&["status", "-J", "$.deployments[*].pinned"]), json!([false, true]));
    assert!(fixture.out(&["status"]).ends_with("                   Pinned: yes\n"));
    assert_eq!(fixture.run(&["status", "-J", "$["]).status.code(), Some(1));
}

/// What the service writes; tests/real/bus/last.rs has the service.
#[test]
fn status_tells_of_a_transaction_that_failed() {
    let (fixture, ..) = two_bases();
    let plain = fixture.out(&["status"]);
    let folder = Path::new(&fixture.sysroot()).join("run/apt-ostree");
    std::fs::create_dir_all(&folder).unwrap();
    let ended = |document: &Value| std::fs::write(folder.join("last-transaction.json"), document.to_string()).unwrap();
    let mut document = json!({"method": "PkgChange", "title": "install htop", "initiator": "client(id:cli)",
        "timestamp": 1_700_000_000, "success": false, "cancelled": false, "error": "no\u{1b}[2Jroute"});
    ended(&document);
    assert_eq!(fixture.json(&["status", "--json"])["last-transaction"], document);
    let line = "LastTransaction: install htop failed: no\u{fffd}[2Jroute (2023-11-14T22:13:20Z)\n";
    assert_eq!(fixture.out(&["status"]), plain.replace("Deployments:\n", &format!("{line}Deployments:\n")));
    let verbose = fixture.out(&["status", "-v"]);
    assert!(verbose.contains(&format!("{line}  Initiator: client(id:cli)\n")), "{verbose}");
    for (success, cancelled, said) in [(true, false, "succeeded"), (false, true, "was cancelled")] {
        document["success"] = success.into();
        document["cancelled"] = cancelled.into();
        ended(&document);
        assert_eq!(fixture.out(&["status"]), plain, "{said}");
        let verbose = fixture.out(&["status", "-v"]);
        assert!(verbose.contains(&format!("LastTransaction: install htop {said} (2023-")), "{verbose}");
    }
    ended(&json!("nonsense"));
    assert_eq!(fixture.out(&["status", "-v"]).matches("LastTransaction").count(), 0);
}

#[test]
fn a_worker_of_ones_own_is_told_of_with_verbose() {
    let (fixture, ..) = two_bases();
    let told = |words: &[&str]| {
        let output = fixture.run(words);
        assert!(output.status.success(), "{output:?}");
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert!(!stdout.contains("Not using"), "{stdout}");
        String::from_utf8(output.stderr).unwrap()
    };
    let line = format!("Not using the service: the system in {} does not run\n", fixture.sysroot());
    assert_eq!(told(&["cleanup", "-b", "-v"]), line);
    assert_eq!(told(&["--verbose", "cleanup", "-b"]), line);
    assert_eq!(told(&["cleanup", "-b"]), "");
    // What only reads has nothing to tell of it, and `-v` is its own.
    assert_eq!(told(&["status", "-v"]), "");
    assert_eq!(told(&["-v", "kargs"]), "");
    assert!(fixture.out(&["-v", "status"]).contains("StateRoot: debian"));
}

#[test]
fn status_needs_no_root_and_ignores_its_environment() {
    let (fixture, ..) = two_bases();
    let binary = fixture.path("apt-ostree");
    // By a process of its own: what another test starts just then would inherit the open file, and keep it from being run.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_apt-ostree")).arg(&binary).status().unwrap();
    assert!(copied.success());
    std::fs::set_permissions(fixture.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let sysroot = format!("--sysroot={}", fixture.sysroot());
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--", &binary, "status", "--json", &sysroot])
        .env_clear()
        .env("PATH", "/usr/bin")
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value, fixture.json(&["status", "--json"]));
}

#[test]
fn a_layered_deployment() {
    let (fixture, first, second) = two_bases();
    // As every layered commit's base has: nothing else keeps the commit once it has no deployment.
    fixture.ostree(&["refs", "--create=apt-ostree/base/test", &first]);
    let layered = fixture.deploy_layered(&first);
    let status = fixture.json(&["status", "--json"]);
    let d = &status["deployments"][0];
    assert_eq!(d["checksum"], layered);
    assert_eq!(d["base-checksum"], first);
    assert_eq!((&d["base-version"], &d["base-timestamp"]), (&json!("13.1"), &json!(1_700_000_000)));
    assert_eq!(d["timestamp"], 1_700_000_500);
    assert_eq!(d["packages"], json!(["zsh", "curl"]));
    assert_eq!(d["requested-packages"], json!(["curl", "vim", "zsh"]));
    assert_eq!(d["requested-local-packages"], json!(["hello-2.10-3.amd64"]));
    assert_eq!(d["requested-base-removals"], json!(["ghost", "nano"]));
    assert_eq!(d["base-removals"], json!([["nano-8.4-1.amd64", "nano", 0, "8.4", "1", "amd64"]]));
    assert_eq!(
        d["base-local-replacements"],
        json!([[
            ["vim-2:9.2-1.amd64", "vim", 2, "9.2", "1", "amd64"],
            ["vim-2:9.1.1230-2.amd64", "vim", 2, "9.1.1230", "2", "amd64"]
        ]])
    );
    assert_eq!(
        d["layered-commit-meta"],
        json!({
            "version": "13.1", "rpmostree.clientlayer": true, "rpmostree.clientlayer_version": 6,
            "rpmostree.state-sha512": "abc",
        })
    );
    assert_eq!(d["base-commit-meta"]["version"], "13.1");
    assert_eq!(d["pending-base-checksum"], second);
    let text = fixture.out(&["status"]);
    let expected = format!(
        "  origin:{REF}
                  Version: 13.1 (2023-11-14T22:21:40Z)
               BaseCommit: {first}
      RemovedBasePackages: nano-8.4-1.amd64
           LocalOverrides: vim 2:9.1.1230-2 -> 2:9.2-1
             BaseUpgrades: base-files-13.8.amd64 -> base-files-13.9.amd64 (needed by zsh)
          LayeredPackages: curl zsh
            LocalPackages: hello-2.10-3.amd64
"
    );
    assert!(text.contains(&expected), "{text}");
    let verbose = fixture.out(&["status", "-v"]);
    for line in [
        &format!("                   Commit: {layered}\n"),
        "     InactiveBaseRemovals: ghost\n",
        "         InactiveRequests: vim\n",
    ] {
        assert!(verbose.contains(line), "{verbose}");
    }
    // `--base` compares what the layers stand on.
    let diff = fixture.json(&["db", "diff", "--base", "--format=json"]);
    assert_eq!(diff["ostree-commit-to"], first);
    assert_eq!(fixture.json(&["db", "diff", "--format=json"])["ostree-commit-to"], layered);
}

#[test]
fn signatures_are_those_of_ostree() {
    let keys = tempfile::tempdir().unwrap();
    let home = keys.path().to_str().unwrap();
    let gpg = |args: &[&str]| {
        let output =
            Command::new("gpg").args(["--homedir", home, "--batch", "--passphrase", ""]).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    gpg(&["--quick-gen-key", "Test <test@example.org>", "ed25519", "sign", "never"]);
    let listing = gpg(&["--list-keys", "--with-colons"]);
    let fingerprint = listing.lines().find_map(|l| l.strip_prefix("fpr:")).unwrap().trim_matches(':').to_owned();
    let public: PathBuf = keys.path().join("public.gpg");
    gpg(&["--output", public.to_str().unwrap(), "--export"]);

    let fixture = Fixture::new(&[&format!("--gpg-import={}", public.display())]);
    let signed = [&*format!("--gpg-sign={fingerprint}"), &*format!("--gpg-homedir={home}")];
    fixture.commit("13.1", 1_700_000_000, BASE_1, &signed);
    fixture.pull();
    sh("gpgconf", &["--homedir", home, "--kill", "all"]);
    fixture.admin(&["deploy", "--os=debian", &format!("origin:{REF}")]);

    let oracle = fixture.ostree(&["show", &format!("origin:{REF}")]);
    assert!(oracle.contains("Good signature from \"Test <test@example.org>\""), "{oracle}");
    let status = fixture.json(&["status", "--json"]);
    let d = &status["deployments"][0];
    assert_eq!(d["gpg-enabled"], true);
    let signature = d["signatures"][0].as_array().unwrap();
    assert_eq!((&signature[0], &signature[5]), (&json!(true), &json!(fingerprint)));
    assert_eq!((&signature[10], &signature[11]), (&json!("Test"), &json!("test@example.org")));
    assert!(
        fixture.out(&["status"]).contains(&format!("             GPGSignature: Valid signature by {fingerprint}\n"))
    );
    // Without the key it is no longer valid, which is not an error of status.
    std::fs::remove_file(Path::new(&fixture.repo()).join("origin.trustedkeys.gpg")).unwrap();
    let text = fixture.out(&["status"]);
    assert!(text.contains("GPGSignature: Can't check signature: public key not found\n"), "{text}");
    // And without the remote, the deployment is still shown.
    fixture.ostree(&["remote", "delete", "origin"]);
    assert!(fixture.json(&["status", "--json"])["deployments"][0]["remote-error"].is_string());
}

#[test]
fn the_package_database() {
    let (fixture, first, second) = two_bases();
    let list = fixture.out(&["db", "list", &first]);
    assert_eq!(
        list,
        format!("ostree commit: {first}\n base-files-13.8.amd64\n htop-3.4.1-5.amd64\n vim-2:9.1.1230-2.amd64\n")
    );
    let refspec = format!("origin:{REF}");
    let list = fixture.out(&["db", "list", &refspec, &first, "v*", "*-5.amd64"]);
    assert_eq!(
        list,
        format!(
            "ostree commit: {refspec} ({second})\n vim-2:9.1.1230-2.amd64\nostree commit: {first}\n htop-3.4.1-5.amd64\n vim-2:9.1.1230-2.amd64\n"
        )
    );
    assert_eq!(
        fixture.json(&["db", "list", &first, "htop", "--format=json"]),
        json!({"ostree-commit": first, "packages": [["htop", "0", "3.4.1", "5", "amd64"]], "advisories": []})
    );
    let head = format!("ostree diff commit from: {first}\nostree diff commit to:   {second}\n");
    assert_eq!(
        fixture.out(&["db", "diff", &first, &second]),
        format!(
            "{head}Upgraded:\n  base-files 13.8 -> 13.9\nRemoved:\n  htop-3.4.1-5.amd64\nAdded:\n  nano-8.4-1.amd64\n"
        )
    );
    assert_eq!(
        fixture.out(&["db", "diff", "-F", "diff", &first, &second]),
        format!("{head}!base-files-13.8.amd64\n=base-files-13.9.amd64\n-htop-3.4.1-5.amd64\n+nano-8.4-1.amd64\n")
    );
    let json = json!({
        "ostree-commit-from": first,
        "ostree-commit-to": second,
        "pkgdiff": [
            ["nano", 0, {"NewPackage": ["nano", "8.4-1", "amd64"]}],
            ["htop", 1, {"PreviousPackage": ["htop", "3.4.1-5", "amd64"]}],
            ["base-files", 2, {"PreviousPackage": ["base-files", "13.8", "amd64"], "NewPackage": ["base-files", "13.9", "amd64"]}],
        ],
        "advisories": [],
    });
    assert_eq!(fixture.json(&["db", "diff", "--format=json", &first, &second]), json);
    // Without revisions as well, and from the repository of the sysroot.
    assert_eq!(fixture.json(&["db", "diff", "--format=json"]), json);
    assert!(fixture.out(&["db", "diff"]).starts_with(&format!(
        "ostree diff commit from: rollback deployment ({first})\nostree diff commit to:   pending deployment ({second})\n"
    )));
    let repo = format!("--repo={}", fixture.repo());
    let output =
        Command::new(env!("CARGO_BIN_EXE_apt-ostree")).args(["rpm", "diff", &repo, &first, &second]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let missing = fixture.run(&["db", "list", "nothing"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&missing.stderr).starts_with("error: Refspec 'nothing' not found in "),
        "{missing:?}"
    );
}

#[test]
fn the_version_of_the_package_database() {
    let (fixture, first, _) = two_bases();
    let version =
        fixture.json(&["db", "version", "--format=json", &first])["rpmdb-version"].as_str().unwrap().to_owned();
    // The oracle: coreutils on the list.
    let script = format!(
        "{} db list --repo {} {first} | sed -n 's/^ //p' | LC_ALL=C sort | sha256sum | cut -d' ' -f1",
        env!("CARGO_BIN_EXE_apt-ostree"),
        fixture.repo()
    );
    assert_eq!(version, format!("3:{}", sh("sh", &["-c", &script]).trim()));
    assert_eq!(fixture.out(&["db", "version", &first]), format!("ostree commit: {first}\n  rpmdbv is: {version}\n"));
}

#[test]
fn packages_come_from_dpkg_when_the_metadata_has_none() {
    let fixture = Fixture::new(&["--no-gpg-verify"]);
    let admindir = fixture.path("tree/usr/lib/sysimage/dpkg");
    std::fs::create_dir_all(&admindir).unwrap();
    let status = "Package: dash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 0.5.12-12\n\n\
                  Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n\n\
                  Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2.37-2+b5\n";
    std::fs::write(format!("{admindir}/status"), status).unwrap();
    let commit = fixture.commit("13.1", 1_700_000_000, "", &[]);
    fixture.pull();
    // The oracle: dpkg-query on the same file.
    let format = "--showformat= ${Package}-${Version}.${Architecture} ${db:Status-Status}\\n";
    let dpkg = sh("dpkg-query", &[&format!("--admindir={admindir}"), "-W", format]);
    let wanted: String = dpkg.lines().filter_map(|l| l.strip_suffix(" installed")).flat_map(|l| [l, "\n"]).collect();
    assert_eq!(fixture.out(&["db", "list", &commit]), format!("ostree commit: {commit}\n{wanted}"));
    // A commit without any packages says so.
    std::fs::remove_dir_all(fixture.path("tree/usr/lib/sysimage")).unwrap();
    let commit = fixture.commit("13.2", 1_700_000_001, "", &[]);
    fixture.pull();
    let output = fixture.run(&["db", "list", &commit]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("has neither a package list nor a dpkg database"), "{text}");
}

#[test]
fn kernel_arguments_are_read_without_a_worker() {
    let (fixture, first, _) = two_bases();
    let entry = std::fs::read_dir(fixture.path("sysroot/boot/loader/entries")).unwrap();
    let options: Vec<String> = entry
        .map(|e| std::fs::read_to_string(e.unwrap().path()).unwrap())
        .map(|text| text.lines().find_map(|l| l.strip_prefix("options ")).unwrap().to_owned())
        .collect();
    assert!(options.iter().all(|o| o.contains("ostree=") && o.starts_with("quiet root=LABEL=x")), "{options:?}");
    for args in [&["kargs"][..], &["kargs", "--deploy-index=1"], &["kargs", "--os=debian"]] {
        assert_eq!(fixture.out(args), "quiet root=LABEL=x\n", "{args:?}");
    }
    assert_eq!(fixture.json(&["kargs", "--json"]), json!({"kargs": "quiet root=LABEL=x", "image-kargs": []}));
    assert_eq!(fixture.run(&["kargs", "--deploy-index=2"]).status.code(), Some(1));
    assert_eq!(fixture.run(&["kargs", "--stateroot=other"]).status.code(), Some(1));
    let edit = |editor: &str, more: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_apt-ostree"))
            .args(["kargs", "--editor", "--sysroot", &fixture.sysroot()])
            .args(more)
            .env("EDITOR", editor)
            .env_remove("VISUAL")
            .output()
            .unwrap()
    };
    let same = edit("true", &[]);
    assert_eq!(String::from_utf8_lossy(&same.stderr), "error: The kernel arguments remained the same\n");
    let same = edit("true", &["--unchanged-exit-77"]);
    assert_eq!((same.status.code(), &*same.stdout), (Some(77), &b"No changes.\n"[..]));
    assert!(String::from_utf8_lossy(&edit("false", &[]).stderr).starts_with("error: The editor 'false' failed"));
    let stolen = edit("echo ostree=/x >>", &[]);
    assert!(String::from_utf8_lossy(&stolen.stderr).contains("managed by OSTree"), "{stolen:?}");
    assert_eq!(fixture.json(&["status", "--json"])["deployments"][1]["checksum"], first);
}

#[test]
fn the_image_brings_kernel_arguments_and_takes_its_own_away() {
    let fixture = Fixture::new(&["--no-gpg-verify"]);
    let kargs_d = Path::new(&fixture.path("tree")).join("usr/lib/bootc/kargs.d");
    std::fs::create_dir_all(&kargs_d).unwrap();
    let write = |name: &str, text: &str| std::fs::write(kargs_d.join(name), text).unwrap();
    write("20-late.toml", "kargs = [\"late\"]\n");
    write("10-first.toml", "kargs = [\"quiet\", \"console=ttyS0\"]\n");
    write("30-other.toml", "kargs = [\"never\"]\nmatch-architectures = [\"s390x\"]\n");
    write("README", "not a file of arguments");
    fixture.commit("13.1", 1_700_000_000, BASE_1, &[]);
    let sysroot = fixture.path("machine");
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_apt-ostree"))
            .arg(format!("--sysroot={sysroot}"))
            .args(args)
            .env("OSTREE_SYSROOT_DEBUG", "mutable-deployments")
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    // What libostree wrote for the boot loader, the newest entry.
    let entry = || {
        let dir = Path::new(&sysroot).join("boot/loader/entries");
        let newest = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).max().unwrap();
        let text = std::fs::read_to_string(newest).unwrap();
        let options = text.lines().find_map(|l| l.strip_prefix("options ")).unwrap().to_owned();
        options.split(' ').filter(|w| !w.starts_with("ostree=")).collect::<Vec<_>>().join(" ")
    };
    run(&["init-sysroot", &format!("--pull-local={}", fixture.path("server")), "--karg=root=1", REF]);
    assert_eq!(entry(), "root=1 quiet console=ttyS0 late");
    let verbose = run(&["kargs", "-v"]);
    assert!(verbose.contains("root=1         machine\n"), "{verbose}");
    assert!(verbose.contains("console=ttyS0  image (10-first.toml)\n"), "{verbose}");
    run(&["kargs", "--delete=quiet", "--append=mine"]);

    std::fs::remove_file(kargs_d.join("20-late.toml")).unwrap();
    write("10-first.toml", "kargs = [\"quiet\", \"console=ttyS1\"]\n");
    let second = fixture.commit("13.2", 1_700_100_000, BASE_2, &[]);
    sh("ostree", &["pull-local", "--repo", &format!("{sysroot}/ostree/repo"), &fixture.path("server"), REF]);
    run(&["upgrade"]);
    assert!(run(&["status"]).contains(&second));
    assert_eq!(entry(), "root=1 mine console=ttyS1", "deleted by hand stays away, the machine's own stays");
    // The arguments of the older one, and nothing else of it.
    run(&["kargs", "--deploy-index=1", "--append=older"]);
    assert_eq!(entry(), "root=1 console=ttyS0 late mine older");
    let first: Value = serde_json::from_str(&run(&["status", "--json"])).unwrap();
    assert_eq!(first["deployments"][0]["checksum"], second);
    run(&["kargs", "--delete=late", "--delete=older", "--delete=console=ttyS0", "--append=console=ttyS1"]);
    assert_eq!(entry(), "root=1 mine console=ttyS1");

    write("10-first.toml", "kargs = \"quiet\"\n");
    fixture.commit("13.3", 1_700_200_000, BASE_2, &[]);
    sh("ostree", &["pull-local", "--repo", &format!("{sysroot}/ostree/repo"), &fixture.path("server"), REF]);
    let refused = Command::new(env!("CARGO_BIN_EXE_apt-ostree"))
        .args([&format!("--sysroot={sysroot}"), "upgrade"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains("/usr/lib/bootc/kargs.d/10-first.toml"), "{text}");
    assert_eq!(entry(), "root=1 mine console=ttyS1");
}

#[test]
fn a_damaged_origin_does_not_hide_the_deployment() {
    let (fixture, _, second) = two_bases();
    let origin = fixture.path(&format!("sysroot/ostree/deploy/debian/deploy/{second}.0.origin"));
    std::fs::write(&origin, "[origin]\nnothing=1\n").unwrap();
    let status = fixture.json(&["status", "--json"]);
    assert_eq!(status["deployments"][0]["checksum"], second);
    assert_eq!(status["deployments"][0].get("origin"), None);
    assert!(fixture.out(&["status"]).contains(&format!("Deployments:\n  {second}\n")));
}

#[test]
fn status_warns_of_what_is_broken() {
    let fixture = Fixture::new(&["--no-gpg-verify"]);
    let tree = PathBuf::from(fixture.path("tree"));
    for dir in ["usr/lib/sysimage/dpkg", "usr/etc/systemd/system", "usr/lib/systemd/system"] {
        std::fs::create_dir_all(tree.join(dir)).unwrap();
    }
    fixture.commit("13.1", 1_700_000_000, BASE_1, &[]);
    fixture.pull();
    fixture.admin(&["deploy", "--os=debian", &format!("origin:{REF}")]);
    assert!(!fixture.out(&["status"]).contains("Warning"));
    assert_eq!(fixture.json(&["status", "--json"]).get("warnings"), None);

    let sysroot = PathBuf::from(fixture.sysroot());
    let var = sysroot.join("ostree/deploy/debian/var/lib");
    std::fs::create_dir_all(&var).unwrap();
    std::os::unix::fs::symlink("../../usr/lib/sysimage/dpkg", var.join("dpkg")).unwrap();
    assert!(!fixture.out(&["status"]).contains("Warning"), "the link is as it should be");
    std::fs::remove_file(var.join("dpkg")).unwrap();
    std::fs::create_dir(var.join("dpkg")).unwrap();

    let id = fixture.json(&["status", "--json"])["deployments"][0]["id"].as_str().unwrap().to_owned();
    let name = id.strip_prefix("debian-").unwrap();
    let requires = sysroot.join("ostree/deploy/debian/deploy").join(name).join("etc/systemd/system/x.target.requires");
    std::fs::create_dir(&requires).unwrap();
    std::os::unix::fs::symlink("/lib/systemd/system/gone.service", requires.join("gone.service")).unwrap();

    let entries = sysroot.join("boot/loader/entries");
    let entry = std::fs::read_dir(entries).unwrap().next().unwrap().unwrap().path();
    let entry = std::fs::read_to_string(entry).unwrap();
    let initrd = entry.lines().find_map(|l| l.strip_prefix("initrd ")).unwrap();
    let initrd = sysroot.join("boot").join(initrd.trim_start_matches('/'));
    std::fs::remove_file(&initrd).unwrap();
    std::fs::write(sysroot.join("boot/ostree/finalize-failure.stamp"), "Installing kernel: No space left").unwrap();

    let text = fixture.out(&["status"]);
    let short = &name[..12];
    let want = format!(
        "State: idle
Warning: failed to finalize previous deployment
         error: Installing kernel: No space left
         check `journalctl -b -1 -u ostree-finalize-staged.service`
Warning: deployment 0 ({short}) would not boot
         its initramfs {} does not exist
         drop it, or deploy its commit again, before you rely on it
Warning: /var/lib/dpkg is not the link to ../../usr/lib/sysimage/dpkg
         dpkg and apt see other packages than those of the image
         systemd-tmpfiles --create puts it right; move away first what is in its place
Warning: deployment 0 ({short}) has links to units that do not exist
         /etc/systemd/system/x.target.requires/gone.service -> /lib/systemd/system/gone.service
         the units are gone from the image; remove these links
Deployments:
",
        initrd.display()
    );
    assert!(text.starts_with(&want), "{text}");
    let warnings = fixture.json(&["status", "--json"])["warnings"].clone();
    assert_eq!(warnings.as_array().unwrap().len(), 4);
    assert_eq!(warnings[0]["details"][0], "error: Installing kernel: No space left");
}

/// A small file system of its own, unmounted at the end.
struct Small(PathBuf);

impl Small {
    fn mount(path: &Path, size: &str) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let size = format!("size={size}");
        sh("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", path.to_str().unwrap()]);
        Self(path.to_owned())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

#[test]
fn old_deployments_make_room_for_a_kernel() {
    let fixture = Fixture::new(&["--no-gpg-verify"]);
    let boot = PathBuf::from(fixture.path("sysroot/boot"));
    sh("rm", &["-rf", boot.to_str().unwrap()]);
    let mounted = Small::mount(&boot, "9M");
    // Each with a kernel of its own, 2 MB together.
    let commit = |n: u8| {
        let kernel = PathBuf::from(fixture.path("tree")).join("usr/lib/modules/6.12.0");
        for (name, letter) in [("vmlinuz", b'k'), ("initramfs.img", b'i')] {
            std::fs::write(kernel.join(name), [letter, n].repeat(1 << 19)).unwrap();
        }
        let checksum = fixture.commit(&format!("13.{n}"), 1_700_000_000 + u64::from(n), BASE_1, &[]);
        fixture.pull();
        checksum
    };
    let refspec = format!("origin:{REF}");
    let first: Vec<String> = (1..=3)
        .map(|n| {
            let checksum = commit(n);
            fixture.admin(&["deploy", "--os=debian", "--retain", &refspec]);
            checksum
        })
        .collect();
    let deployed = || -> Vec<String> {
        let status = fixture.json(&["status", "--json"]);
        let list = status["deployments"].as_array().unwrap().clone();
        list.iter().map(|d| d["checksum"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(deployed(), [first[2].clone(), first[1].clone(), first[0].clone()]);
    let fourth = commit(4);
    // Pinned: nothing may go.
    fixture.admin(&["pin", "2"]);
    let refused = fixture.run(&["upgrade", "--cache-only"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("error: Not enough space on") && said.contains("the new kernel and its initramfs"), "{said}");
    assert_eq!(deployed().len(), 3);
    fixture.admin(&["pin", "--unpin", "2"]);
    let done = fixture.run(&["upgrade", "--cache-only"]);
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert_eq!(done.status.code(), Some(0), "{said}");
    assert!(said.contains(&format!("Dropping deployment {}.0 to make room in", first[0])), "{said}");
    assert_eq!(deployed()[0], fourth);
    assert_eq!(deployed()[1], first[2], "what would have booted stays");
    drop(mounted);
}

/// What bash offers for a line that ends at the cursor, by the script that is installed.
fn completed(fixture: &Fixture, line: &str) -> Vec<String> {
    const SCRIPT: &str = "source <(\"$1\" internals completions bash)\n\
        compopt() { echo \"compopt $*\"; }\n\
        COMP_LINE=$2 COMP_POINT=${#2} COMP_WORDBREAKS=$' \\t\\n\"\\'><=;|&(:'\n\
        _apt_ostree apt-ostree\n\
        printf '%s\\n' \"${COMPREPLY[@]}\"\n";
    let bin = Path::new(env!("CARGO_BIN_EXE_apt-ostree"));
    let path = format!("{}:{}", bin.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let line = line.replacen("apt-ostree", &format!("apt-ostree --sysroot={}", fixture.sysroot()), 1);
    let output = Command::new("bash")
        .args(["--norc", "-c", SCRIPT, "bash"])
        .arg(bin)
        .arg(line)
        .env("PATH", path)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|l| !l.is_empty()).map(str::to_owned).collect()
}

#[test]
fn shells_complete_what_the_system_knows() {
    let (fixture, first, second) = two_bases();
    assert_eq!(completed(&fixture, "apt-ostree override remove v"), ["vim"]);
    assert_eq!(completed(&fixture, "apt-ostree kargs --deploy-index "), ["0", "1"]);
    let layered = fixture.deploy_layered(&first);
    let lists = Path::new(&fixture.repo()).join("extensions/apt-ostree/apt/lists");
    std::fs::create_dir_all(&lists).unwrap();
    std::fs::write(lists.join("a_Packages"), "Package: htop\nVersion: 1\n\nPackage: hello\n\nPackage: vim\n").unwrap();
    let offers = |line: &str, want: &[&str]| assert_eq!(completed(&fixture, line), want, "{line}");
    offers("apt-ostree fin", &["finalize-deployment"]);
    offers("apt-ostree override re", &["remove", "replace", "reset"]);
    offers("apt-ostree install --app", &["--apply-live"]);
    offers("apt-ostree install h", &["hello", "htop"]);
    offers("apt-ostree install htop v", &["vim"]);
    offers("apt-ostree install ./a", &["compopt -o default"]);
    offers("apt-ostree compose tree ", &["compopt -o default"]);
    offers("apt-ostree uninstall ", &["curl", "hello-2.10-3.amd64", "vim", "zsh"]);
    offers("apt-ostree override reset ", &["ghost", "nano"]);
    offers("apt-ostree kargs --delete-if-present=q", &["quiet"]);
    offers("apt-ostree kargs --delete=root=", &["LABEL=x"]);
    offers("apt-ostree rebase origin:deb", &["debian/13/amd64/minimal"]);
    offers("apt-ostree rebase --remote ", &["origin"]);
    offers("apt-ostree deploy version=", &["13.1", "13.2"]);
    offers(&format!("apt-ostree db diff {}", &second[..12]), &[&second]);
    offers(&format!("apt-ostree db diff {} {}", &first[..12], &layered[..12]), &[&layered]);
    offers("apt-ostree status --stateroot ", &[]);
    offers("apt-ostree history --stateroot ", &["debian"]);
    // Where nothing is known nothing is said.
    let output = Command::new(env!("CARGO_BIN_EXE_apt-ostree"))
        .args(["internals", "complete", "--", "--sysroot=/nonexistent", "install", ""])
        .output()
        .unwrap();
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
}
