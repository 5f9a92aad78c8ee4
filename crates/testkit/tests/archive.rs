//! The archives of this kit are good enough for the real tools: dpkg-deb, gpg, apt-get.

use std::fs;
use std::process::Command;

use apt_ostree_testkit::archive::Archive;
use apt_ostree_testkit::deb::Deb;
use apt_ostree_testkit::run;

fn text(command: &mut Command) -> String {
    String::from_utf8(run(command).stdout).expect("text")
}

#[test]
fn a_package_holds_what_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let deb = Deb::new("demo", "1:2.0-1")
        .arch("all")
        .depends("base (>= 1)")
        .file("/usr/bin/demo", 0o4755, "#!/bin/sh\n")
        .file_owned("/usr/games/score", 0o2664, 0, 60, "0")
        .symlink("/usr/bin/alias", "demo")
        .hardlink("/usr/bin/twin", "/usr/bin/demo")
        .conffile("/etc/demo.conf", "a=1\n")
        .script("postinst", "#!/bin/sh\nexit 0\n")
        .build(dir.path());
    assert!(deb.ends_with("demo_1%3a2.0-1_all.deb"));
    assert_eq!(text(Command::new("dpkg-deb").arg("-f").arg(&deb).arg("Depends")), "base (>= 1)\n");
    assert_eq!(text(Command::new("dpkg-deb").arg("-I").arg(&deb).arg("conffiles")), "/etc/demo.conf\n");
    let list = text(Command::new("dpkg-deb").arg("-c").arg(&deb));
    let line = |name: &str| list.lines().find(|l| l.contains(name)).unwrap_or_else(|| panic!("{name} in\n{list}"));
    assert!(line("usr/bin/demo").starts_with("-rwsr-xr-x root/root"), "{list}");
    assert!(line("usr/games/score").starts_with("-rw-rwSr-- root/games"), "{list}");
    assert!(line("usr/bin/alias").ends_with("-> demo"), "{list}");
    assert!(line("usr/bin/twin").contains("link to ./usr/bin/demo"), "{list}");
}

#[test]
fn apt_takes_the_archive_and_refuses_it_when_broken() {
    let dir = tempfile::tempdir().unwrap();
    let mut archive = Archive::new(&dir.path().join("archive"));
    archive.add("stable", &Deb::new("demo", "1.0"));
    archive.publish();

    let state = dir.path().join("apt");
    fs::create_dir_all(state.join("lists/partial")).unwrap();
    fs::create_dir_all(state.join("parts")).unwrap();
    fs::write(state.join("status"), "").unwrap();
    fs::write(state.join("parts/test.sources"), archive.sources("stable")).unwrap();
    let apt = |tool: &str, args: &[&str]| {
        let mut command = Command::new(tool);
        for (key, value) in [
            ("Dir::State", state.display().to_string()),
            ("Dir::State::status", state.join("status").display().to_string()),
            ("Dir::Cache", state.join("cache").display().to_string()),
            ("Dir::Etc::sourcelist", "/dev/null".into()),
            ("Dir::Etc::sourceparts", state.join("parts").display().to_string()),
            ("APT::Sandbox::User", "root".into()),
            ("APT::Update::Error-Mode", "any".into()),
        ] {
            command.args(["-o", &format!("{key}={value}")]);
        }
        command.args(args);
        command
    };
    run(&mut apt("apt-get", &["update"]));
    assert!(text(&mut apt("apt-cache", &["policy", "demo"])).contains("Candidate: 1.0"));

    archive.add("stable", &Deb::new("demo", "1.1"));
    archive.publish();
    run(&mut apt("apt-get", &["update"]));
    assert!(text(&mut apt("apt-cache", &["policy", "demo"])).contains("Candidate: 1.1"));

    archive.break_signature("stable");
    assert!(!apt("apt-get", &["update"]).output().unwrap().status.success());
    archive.publish();
    run(&mut apt("apt-get", &["update"]));
    archive.sign_with_stranger("stable");
    assert!(!apt("apt-get", &["update"]).output().unwrap().status.success());
}
