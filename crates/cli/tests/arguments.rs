//! The command line from outside: texts, streams and exit codes of wrong and refused arguments.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Output};

fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_apt-ostree")).args(args).env_remove("container").output().unwrap()
}

fn words(text: &str) -> Output {
    run(text.split_whitespace())
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Fails with exit code 1, an empty stdout and this last line on stderr.
#[track_caller]
fn refused(args: &str, last: &str) {
    let output = words(args);
    assert_eq!(output.status.code(), Some(1), "{args}: {output:?}");
    assert_eq!(out(&output), "", "{args}");
    assert_eq!(err(&output).lines().last(), Some(last), "{args}: {}", err(&output));
}

#[test]
fn no_command_and_unknown_command() {
    refused("", "error: No command specified");
    assert!(err(&words("")).starts_with("Usage:\n  apt-ostree [OPTION…] COMMAND\n\nBuiltin Commands:\n"));
    refused("frobnicate", "error: Unknown command 'frobnicate'");
    refused("--foo", "error: usage error: Unknown option --foo");
    refused("compose frob", "error: Unknown \"compose\" subcommand \"frob\"");
    refused("db", "error: No \"db\" subcommand specified");
}

#[test]
fn help_goes_to_stdout() {
    for args in ["--help", "-h", "install --help", "-h install", "db diff -h", "compose tree --help"] {
        let output = words(args);
        assert_eq!((output.status.code(), err(&output).as_str()), (Some(0), ""), "{args}");
        assert!(out(&output).contains("Usage:"), "{args}");
    }
}

#[test]
fn version_is_yaml_with_features() {
    for args in ["--version", "status --version"] {
        let text = out(&words(args));
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("apt-ostree:"));
        assert!(lines.next().unwrap().starts_with(" Version: '"), "{text}");
        assert!(text.contains("\n Features:\n  - rust\n  - compose\n"), "{text}");
    }
}

#[test]
fn usage_errors() {
    for (args, text) in [
        ("install", "At least one PACKAGE must be specified"),
        ("install --frob x", "Unknown option --frob"),
        ("uninstall", "At least one PACKAGE must be specified"),
        ("remove --all x", "Cannot specify both --all and PACKAGE"),
        ("status extra", "Unexpected argument 'extra'"),
        ("status --json --jsonpath $", "Cannot specify both --json and --jsonpath"),
        ("upgrade --preview --reboot", "cannot specify both --reboot and --preview"),
        ("update --preview --install x", "Cannot specify both --preview and --install/--uninstall"),
        ("deploy", "REVISION must be specified"),
        ("rebase", "REFSPEC must be specified"),
        ("rebase a:b -b c", "Cannot specify both REFSPEC and --branch/--remote"),
        ("cleanup", "At least one cleanup option must be specified"),
        ("kargs --editor --append=a", "Cannot specify --editor with --replace, --append, or --delete"),
        ("kargs --delete=a --replace=b=c", "Cannot specify both --delete and --replace"),
        ("kargs --reboot", "Cannot use --reboot without any change of kernel arguments"),
        ("kargs --deploy-index=x", "invalid value 'x' for '--deploy-index <INDEX>': invalid digit found in string"),
        ("init-sysroot a:b", "--sysroot=DIR must be specified"),
        ("init-sysroot --sysroot=/nonexistent a:b --remote x", "--remote expects NAME=URL"),
        ("compose tree", "TREEFILE must be specified"),
        ("compose tree x.yaml", "--repo=REPO must be specified"),
        ("compose disk-image", "REF and OUT must be specified"),
        ("compose disk-image ref out", "--repo=REPO must be specified"),
        ("db list", "At least one REV must be specified"),
        ("db diff a b c", "At most two revisions can be compared"),
        ("search", "At least one TERM must be specified"),
        ("info", "At least one PACKAGE must be specified"),
        (
            "install --sysroot=/nonexistent --lock-finalization x",
            "--lock-finalization is for the booted system; nothing is staged in a directory",
        ),
        ("apply-live --target=x --reset", "Cannot specify both --target and --reset"),
        ("install -A -r x", "Cannot specify both --apply-live and --reboot"),
        ("uninstall -A --json x", "Cannot specify both --apply-live and --json"),
        ("install --sysroot=/nonexistent -r x", "--reboot is for the booted system, not for one in a directory"),
    ] {
        refused(args, &format!("error: usage error: {text}"));
    }
    refused(
        "deploy --sysroot=/nonexistent --register-driver=z x",
        "error: usage error: --register-driver is for the booted system, not for one in a directory",
    );
    refused("db diff -a -F diff a b", "error: diff format and --advisories not supported together");
    // The help of the command itself comes first.
    assert!(err(&words("deploy")).starts_with("Deploy a specific commit\n\nUsage: apt-ostree deploy"));
}

#[test]
fn what_is_not_there_yet_is_refused_by_name() {
    for args in ["install --enablerepo=a x", "install --force-replacefiles x", "uninstall --disablerepo=* x"] {
        let output = words(args);
        assert_eq!(output.status.code(), Some(1), "{args}");
        assert!(err(&output).contains("is not available in this version: "), "{args}: {}", err(&output));
    }
    refused("db diff --format=frob a b", "error: Format argument is invalid, pick one of: diff, block, json");
    refused("kargs --append=ostree=/x", "error: The argument 'ostree=/x' is managed by OSTree and cannot be changed");
    for args in ["rebase ostree-unverified-registry:quay.io/x", "install https://example.org/a.deb"] {
        assert!(err(&words(args)).starts_with("error: "), "{args}");
    }
}

#[test]
fn commands_that_are_not_here_are_refused_with_the_reason() {
    for args in [
        "countme",
        "cliwrap install-to-root /",
        "scriptlet-intercept useradd -- -r x",
        "kernel-install add 6.12 /boot/vmlinuz",
        "fix-shadow-perms",
        "shlib-backend",
        "testutils inject-pkglist --repo=x",
        "module enable a:b",
        "ex deploy-from-self /target --reboot",
        "ex module list",
        "container-encapsulate --repo=x ref oci:y",
        "experimental compose rootfs a b",
        "compose install --unified-core x.yaml dir",
        "compose postprocess root",
        "compose commit --repo=r x.yaml root",
        "compose extensions --output-dir=o x.yaml e.yaml",
        "compose image --format=oci x.yaml out",
        "compose rootfs x.yaml dir",
        "compose build-chunked-oci --bootc --rootfs=x",
        "compose container-encapsulate --repo=r ref oci:y",
    ] {
        let output = words(args);
        assert_eq!((output.status.code(), out(&output).as_str()), (Some(1), ""), "{args}");
        let said = err(&output);
        let lines: Vec<&str> = said.lines().collect();
        assert!(lines.len() == 2 && lines[1].starts_with("hint: "), "{args}: {said}");
        let name: String =
            lines[0].strip_prefix("error: ").unwrap().split(" is not available: ").next().unwrap().into();
        assert!(args.starts_with(&name), "{args}: {said}");
    }
    // Nothing of it is in the help.
    assert!(!out(&words("--help")).contains("countme") && !out(&words("compose --help")).contains("extensions"));
}

#[test]
fn rebuild_is_for_containers() {
    for args in ["rebuild", "ex rebuild"] {
        let output = words(args);
        assert_eq!((output.status.code(), out(&output).as_str()), (Some(1), ""), "{args}");
        let said = err(&output);
        assert!(said.starts_with("error: rebuild is for container builds, and this is no container"), "{said}");
        assert!(said.contains("\nhint: On a system, `install`"), "{said}");
    }
}

#[test]
fn old_names_of_commands() {
    for (old, new) in [
        ("ex apply-live", "apply-live"),
        ("ex livefs", "apply-live"),
        ("ex initramfs-etc", "initramfs-etc"),
        ("ex history", "history"),
        ("update", "upgrade"),
        ("pkg-add", "install"),
        ("pkg-remove", "uninstall"),
        ("remove", "uninstall"),
        ("makecache", "refresh-md"),
        ("unlock", "usroverlay"),
        ("rpm diff", "db diff"),
    ] {
        let options = |command: &str| {
            let help = out(&words(&format!("{command} --help")));
            let at = help.find("\nOptions:").expect("a list of options");
            help[at..].to_owned()
        };
        assert_eq!(options(old), options(new), "{old}");
    }
}

#[test]
fn not_a_booted_ostree_system() {
    // The machine that runs the tests is not one.
    for args in ["status", "install htop", "rollback", "kargs", "-q refresh-md"] {
        let output = words(args);
        assert_eq!(output.status.code(), Some(1), "{args}");
        assert!(
            err(&output).starts_with(
                "error: This system was not booted via libostree.\n\
                 Currently, most apt-ostree commands only work on ostree-based host systems.\n"
            ),
            "{args}: {}",
            err(&output)
        );
    }
    let output =
        Command::new(env!("CARGO_BIN_EXE_apt-ostree")).arg("status").env("container", "podman").output().unwrap();
    assert!(err(&output).contains("; found container=podman environment variable."), "{}", err(&output));
}

#[test]
fn invalid_utf8_is_refused() {
    let output = run([OsStr::new("status"), OsStr::from_bytes(b"\xff")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).starts_with("error: Argument is invalid UTF-8: "), "{output:?}");
}

#[test]
fn runs_without_an_environment() {
    let output = Command::new(env!("CARGO_BIN_EXE_apt-ostree")).arg("--version").env_clear().output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_closed_stdout_is_no_panic() {
    let command = format!("{} --help | true", env!("CARGO_BIN_EXE_apt-ostree"));
    let output = Command::new("sh").args(["-c", &command]).output().unwrap();
    assert_eq!(err(&output), "");
}

#[test]
fn man_pages_and_completions_are_generated() {
    let dir = tempfile::tempdir().unwrap();
    let man = dir.path().join("man");
    assert!(run([OsStr::new("internals"), OsStr::new("man"), man.as_os_str()]).status.success());
    for page in [
        "apt-ostree.1",
        "apt-ostree-status.1",
        "apt-ostree-db-diff.1",
        "apt-ostree-compose-tree.1",
        "apt-ostree-compose-disk-image.1",
    ] {
        let text = std::fs::read_to_string(man.join(page)).unwrap();
        assert!(text.contains(".TH"), "{page}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let text = out(&run(["internals", "completions", shell]));
        assert!(text.contains("apt-ostree internals complete -- ") && !text.contains("FUNCTION"), "{shell}");
    }
}

#[test]
fn mutating_commands_need_root() {
    let dir = tempfile::tempdir().unwrap();
    // The directory and the binary must be reachable for the other user.
    let binary = dir.path().join("apt-ostree");
    // By a process of its own: what another test starts just then would inherit the open file, and keep it from being run.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_apt-ostree")).arg(&binary).status().unwrap();
    assert!(copied.success());
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let treefile = dir.path().join("t.yaml");
    std::fs::write(&treefile, "{}").unwrap();
    let sysroot = format!("--sysroot={}", dir.path().display());
    let as_user = |args: &[&str]| {
        Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
            .arg(&binary)
            .args(args)
            .output()
            .unwrap()
    };
    for args in [
        vec![&sysroot, "install", "htop"],
        vec![&sysroot, "upgrade"],
        vec![&sysroot, "kargs", "--append=quiet"],
        vec!["compose", "tree", "--repo=/nonexistent", treefile.to_str().unwrap()],
    ] {
        let output = as_user(&args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert_eq!(err(&output), "error: This command requires root privileges\n", "{args:?}");
    }
}
