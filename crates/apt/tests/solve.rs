//! The solver against a signed local archive; `apt-get -s install` with the same files is the oracle.

#[allow(dead_code)]
mod common;

use std::collections::BTreeSet;
use std::fs;

use apt_ostree_core::ErrorKind;
use apt_ostree_core::model::request::PackageRequest;
use apt_ostree_core::source::{BaseUpgrades, SolveTask};
use apt_ostree_testkit::archive::Archive;
use apt_ostree_testkit::deb::Deb;
use common::{World, installs, isolated, names, task, write};

fn base() -> Vec<Deb> {
    vec![
        Deb::new("core", "2.41-1").multi_arch("same"),
        Deb::new("core-tools", "1.0").depends("core"),
        Deb::new("shell", "5.0").essential().provides("posix-shell"),
        Deb::new("old-editor", "3.0").arch("all"),
    ]
}

fn fill(archive: &mut Archive) {
    let debs = [
        Deb::new("core", "2.41-2").multi_arch("same"),
        Deb::new("core", "2.41-2").multi_arch("same").arch("i386"),
        Deb::new("core-dev", "2.41-2").depends("core (= 2.41-2)"),
        Deb::new("core-tools", "1.1").depends("core"),
        Deb::new("shell", "5.0").essential().provides("posix-shell"),
        Deb::new("tar", "1.0").essential().pre_depends("core"),
        Deb::new("apt", "3.0").depends("core"),
        Deb::new("app", "1.0").depends("libapp (>= 1), posix-shell"),
        Deb::new("libapp", "1.0"),
        Deb::new("early", "1.0").pre_depends("early-lib"),
        Deb::new("early-lib", "1.0").arch("all"),
        Deb::new("eager", "1.0").recommends("nice-to-have, does-not-exist"),
        Deb::new("pushy", "1.0").recommends("nice-to-have, unfriendly"),
        Deb::new("other-shell", "1.0").conflicts("posix-shell").provides("posix-shell"),
        Deb::new("nice-to-have", "1.0").arch("all"),
        Deb::new("unfriendly", "1.0").conflicts("core-tools"),
        Deb::new("postman", "1.0").provides("mail-agent"),
        Deb::new("needs-mail", "1.0").depends("mail-agent"),
        Deb::new("vi", "1.0").provides("editor"),
        Deb::new("ed", "1.0").provides("editor"),
        Deb::new("choosy", "1.0").depends("unfriendly | vi"),
        Deb::new("either", "1.0").depends("does-not-exist | ed"),
        Deb::new("top", "1.0").depends("middle"),
        Deb::new("middle", "1.0").depends("leaf (>= 2)"),
        Deb::new("leaf", "1.0"),
        Deb::new("breaker", "1.0").breaks("core-tools (<< 1.1)"),
        Deb::new("old-editor", "4.0").arch("all"),
        Deb::new("needs-new-editor", "1.0").depends("old-editor (>= 4.0)"),
        Deb::new("wine", "1.0").arch("i386").depends("core"),
        Deb::new("many", "1.0"),
        Deb::new("epoch", "1:2.0-1"),
    ];
    for deb in &debs {
        archive.add("stable", deb);
    }
    archive.add("backports", &Deb::new("app", "2.0").depends("libapp (>= 2)"));
    archive.add("backports", &Deb::new("libapp", "2.0"));
    archive.add("backports", &Deb::new("many", "2.0"));
    archive.release_field("backports", "NotAutomatic", "yes");
    archive.release_field("backports", "ButAutomaticUpgrades", "yes");
}

fn world() -> World {
    let mut world = World::unrefreshed(&base(), fill);
    world.config.sources.push(world.archive.sources("backports"));
    world.refresh().expect("a good archive");
    world
}

#[test]
fn agrees_with_apt_get() {
    isolated(|| {
        let mut world = world();
        let cases: &[&[&str]] = &[
            &["app"],
            &["app", "early", "eager"],
            &["early"],
            &["eager"],
            &["needs-mail"],
            &["mail-agent"],
            &["either"],
            &["core-dev"],
            &["breaker"],
            &["needs-new-editor"],
            &["wine"],
            &["core:i386"],
            &["app=2.0", "libapp=2.0"],
            &["app/backports"],
            &["app/stable"],
            &["many=2.0"],
            &["many"],
            &["epoch"],
            &["epoch=1:2.0-1", "vi", "ed"],
        ];
        for recommends in [true, false] {
            world.config.recommends = recommends;
            for case in cases {
                let ours = world.solve(&task(case)).unwrap_or_else(|e| panic!("{case:?}: {e} {:#?}", e.hints));
                let theirs = world.oracle(case, &[]).unwrap_or_else(|| panic!("apt-get refuses {case:?}"));
                assert_eq!(installs(&ours), theirs, "{case:?}, recommends {recommends}");
                assert!(!theirs.is_empty(), "{case:?} does nothing");
            }
        }
    });
}

#[test]
fn pins_and_exclusions_agree_with_apt_get() {
    isolated(|| {
        let mut world = world();
        let pins = "Package: many\nPin: release n=backports\nPin-Priority: 900\n";
        world.config.preferences = vec![write(&world.dir.path().join("pins"), pins)];
        let ours = world.solve(&task(&["many"])).unwrap();
        assert_eq!(installs(&ours), BTreeSet::from(["many=2.0 amd64".to_owned()]));
        assert_eq!(Some(installs(&ours)), world.oracle(&["many"], &[]));

        let mut excluding = task(&["eager"]);
        excluding.exclude = names(&["nice-to-have"]);
        let ours = world.solve(&excluding).unwrap();
        assert_eq!(installs(&ours), BTreeSet::from(["eager=1.0 amd64".to_owned()]));
        assert_eq!(Some(installs(&ours)), world.oracle(&["eager"], &["nice-to-have"]));

        // A hard dependency on an excluded package is an error that says so.
        let mut excluding = task(&["app"]);
        excluding.exclude = names(&["libapp"]);
        let error = world.solve_error(&excluding);
        assert_eq!(error.kind, ErrorKind::Unsatisfiable);
        let hints = error.hints.join("\n");
        assert!(hints.contains("app : Depends: libapp (>= 1) but it is not installable"), "{hints}");
        assert!(hints.contains("libapp is excluded"), "{hints}");

        let mut both = task(&["app"]);
        both.exclude = names(&["app"]);
        assert_eq!(world.solve_error(&both).kind, ErrorKind::Unsatisfiable);

        // An exclusion of a package that is there says nothing about the one that is there.
        let mut installed = task(&["app"]);
        installed.exclude = names(&["shell", "core"]);
        assert_eq!(world.solve(&installed).unwrap().install.len(), 2);
        let mut upgrade = task(&["core-dev"]);
        upgrade.exclude = names(&["core"]);
        assert_eq!(world.solve_error(&upgrade).kind, ErrorKind::Unsatisfiable);
    });
}

#[test]
fn knows_every_detail_of_a_package() {
    isolated(|| {
        let mut world = world();
        let solution = world.solve(&task(&["early", "app", "shell", "posix-shell", "core (>= 2)"])).unwrap();
        let find = |name: &str| solution.install.iter().find(|p| p.id.name == name).unwrap();
        let early = find("early");
        assert!(early.requested && !early.essential);
        assert_eq!(early.pre_depends, ["early-lib"]);
        assert_eq!(early.origin, "stable/main");
        assert_eq!(early.previous, None);
        let lib = find("early-lib");
        assert!(!lib.requested);
        assert_eq!(lib.id.arch, "all");
        assert_eq!(find("app").depends, ["libapp"]);
        let deb = &world.archive.debs("stable", "early-lib")[0];
        assert_eq!(lib.size, deb.metadata().unwrap().len());
        let sum = apt_ostree_testkit::run(std::process::Command::new("sha256sum").arg(deb)).stdout;
        assert!(String::from_utf8(sum).unwrap().starts_with(&lib.sha256));
        assert_eq!(lib.installed_size, 10 * 1024);
        // A directory needs no download.
        assert_eq!(lib.download, 0);

        let satisfied: Vec<String> = solution.satisfied.iter().map(|(r, p)| format!("{r} by {p}")).collect();
        assert_eq!(
            satisfied.iter().map(String::as_str).collect::<BTreeSet<_>>(),
            BTreeSet::from([
                "shell by shell:amd64=5.0",
                "posix-shell by shell:amd64=5.0",
                "core (>= 2) by core:amd64=2.41-1",
            ])
        );
        let ids: Vec<&str> = solution.archives.iter().map(|a| a.id.as_str()).collect();
        assert_eq!(ids, ["Testkit/backports", "Testkit/stable"]);
        assert!(solution.archives.iter().all(|a| a.component == "main" && a.date > 1_700_000_000));
    });
}

#[test]
fn base_packages_stay_unless_needed_or_asked() {
    isolated(|| {
        let mut world = world();
        let upgraded = world.solve(&task(&["core-dev"])).unwrap();
        let core = upgraded.install.iter().find(|p| p.id.name == "core").unwrap();
        assert_eq!(core.previous.as_deref(), Some("2.41-1"));
        assert!(!core.requested);

        let never = SolveTask { base_upgrades: BaseUpgrades::Never, ..task(&["core-dev"]) };
        let error = world.solve_error(&never);
        assert_eq!(error.kind, ErrorKind::Unsatisfiable);
        assert_eq!(error.hints, ["core-dev : Depends: core (= 2.41-2) but 2.41-1 is to be installed"]);

        // Conflicts with the base are no reason to remove it.
        let error = world.solve_error(&task(&["unfriendly"]));
        assert_eq!(error.kind, ErrorKind::Unsatisfiable);
        assert_eq!(error.hints, ["unfriendly : Conflicts: core-tools but 1.0 is to be installed"]);

        let error = world.solve_error(&task(&["other-shell"]));
        assert_eq!(error.hints, ["other-shell : Conflicts: posix-shell provided by shell"]);

        // Where there is another way it is taken, even if apt-get would rather remove.
        let ours = world.solve(&task(&["choosy"])).unwrap();
        assert_eq!(installs(&ours), BTreeSet::from(["choosy=1.0 amd64".into(), "vi=1.0 amd64".into()]));

        // Nor does a recommendation remove anything; it is dropped.
        let ours = world.solve(&task(&["pushy"])).unwrap();
        assert_eq!(installs(&ours), BTreeSet::from(["nice-to-have=1.0 all".into(), "pushy=1.0 amd64".into()]));
        assert!(world.oracle(&["pushy"], &[]).unwrap().contains("-core-tools"));

        // An explicit newer version of a base package is an upgrade, an older one is refused.
        let newer = world.solve(&task(&["core-tools=1.1"])).unwrap();
        assert_eq!(installs(&newer), BTreeSet::from(["core-tools=1.1 amd64".to_owned()]));
        fs::write(&world.config.status, Deb::new("many", "3.0").status_stanza()).unwrap();
        let error = world.solve_error(&task(&["many=2.0"]));
        assert_eq!(error.kind, ErrorKind::Unsatisfiable);
        assert!(error.to_string().contains("replace the newer 3.0"), "{error}");
    });
}

#[test]
fn removes_only_what_is_named() {
    isolated(|| {
        let mut world = world();
        let plain = SolveTask { remove: names(&["core-tools"]), ..SolveTask::default() };
        assert_eq!(installs(&world.solve(&plain).unwrap()), BTreeSet::from(["-core-tools".to_owned()]));

        // With the package gone, what conflicted with it can come.
        let swap = SolveTask { remove: names(&["core-tools"]), ..task(&["unfriendly"]) };
        assert_eq!(
            installs(&world.solve(&swap).unwrap()),
            BTreeSet::from(["-core-tools".into(), "unfriendly=1.0 amd64".into()])
        );

        let needed = SolveTask { remove: names(&["core"]), ..SolveTask::default() };
        let error = world.solve_error(&needed);
        assert_eq!(error.kind, ErrorKind::Unsatisfiable);
        assert_eq!(
            error.hints,
            [
                "core-tools : Depends: core but it is not going to be installed",
                "What needs it would have to go as well: core-tools",
                "To remove all of that: apt-ostree override remove core core-tools",
            ]
        );
        let essential = world.solve_error(&SolveTask { remove: names(&["shell"]), ..SolveTask::default() });
        assert!(essential.to_string().contains("shell is essential"), "{essential}");

        let both = SolveTask { remove: names(&["core", "core-tools"]), ..SolveTask::default() };
        assert_eq!(installs(&world.solve(&both).unwrap()), BTreeSet::from(["-core".into(), "-core-tools".into()]));

        let unknown = SolveTask { remove: names(&["nothing", "core-tools"]), ..SolveTask::default() };
        let error = world.solve_error(&unknown);
        assert_eq!((error.kind, error.to_string()), (ErrorKind::NotFound, "Packages not installed: nothing".into()));
    });
}

#[test]
fn replaces_what_is_named_by_any_version() {
    isolated(|| {
        let mut world = world();
        let requests = |list: &[&str]| list.iter().map(|r| PackageRequest::parse(r).unwrap()).collect::<Vec<_>>();
        // Also where nothing of the base may be made newer.
        let newer = SolveTask {
            replace: requests(&["core-tools=1.1"]),
            base_upgrades: BaseUpgrades::Never,
            ..SolveTask::default()
        };
        assert_eq!(Some(installs(&world.solve(&newer).unwrap())), world.oracle(&["core-tools=1.1"], &[]));
        let by_index = SolveTask { replace: requests(&["old-editor/stable"]), ..SolveTask::default() };
        assert_eq!(installs(&world.solve(&by_index).unwrap()), BTreeSet::from(["old-editor=4.0 all".to_owned()]));

        let older = Deb::new("core-tools", "0.9").depends("core").build(&world.dir.path().join("local"));
        let path = older.display().to_string();
        let downgrade = SolveTask { replace_local: vec![older], ..task(&["app"]) };
        let solution = world.solve(&downgrade).unwrap();
        assert_eq!(Some(installs(&solution)), world.oracle(&["--allow-downgrades", &path, "app"], &[]));
        let replaced = solution.install.iter().find(|p| p.id.name == "core-tools").unwrap();
        assert_eq!((replaced.id.version.as_str(), replaced.previous.as_deref()), ("0.9", Some("1.0")));

        // The base's own version is nothing to do; what is not installed cannot be replaced.
        let idle = SolveTask { replace: requests(&["shell/stable", "core-tools=1.1"]), ..SolveTask::default() };
        let solution = world.solve(&idle).unwrap();
        assert_eq!(solution.idle.iter().map(|(r, _)| r.to_string()).collect::<Vec<_>>(), ["shell/stable"]);
        assert_eq!(installs(&solution), BTreeSet::from(["core-tools=1.1 amd64".to_owned()]));
        let absent = world.solve_error(&SolveTask { replace: requests(&["many=1.0"]), ..SolveTask::default() });
        assert_eq!((absent.kind, absent.to_string()), (ErrorKind::NotFound, "Package \"many\" not found".into()));
        // What a replacement needs is not replaced on the way.
        let needs = Deb::new("core-tools", "0.8").depends("core (<< 2.41)").build(&world.dir.path().join("local"));
        let error = world.solve_error(&SolveTask { replace_local: vec![needs], ..SolveTask::default() });
        assert_eq!(error.kind, ErrorKind::Unsatisfiable);
        assert!(error.hints[0].contains("core-tools:amd64=0.8 Depends core (< 2.41)"), "{:?}", error.hints);
    });
}

#[test]
fn errors_say_what_and_why() {
    isolated(|| {
        let mut world = world();
        let error = world.solve_error(&task(&["ealry", "app", "nonsense-name", "wine:amd64"]));
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert_eq!(error.to_string(), "Packages not found: ealry, nonsense-name, wine:amd64");
        assert_eq!(
            error.hints[..2],
            ["Instead of ealry, did you mean early?", "wine:amd64 is not available, but wine:i386 is."]
        );
        assert!(error.hints[2].contains("apt-ostree search WORD"), "{:?}", error.hints);

        let error = world.solve_error(&task(&["app=7"]));
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert_eq!(error.to_string(), "Version '7' of app not found");
        assert_eq!(error.hints, ["Available versions of app: 2.0 (backports/main), 1.0 (stable/main)."]);
        let error = world.solve_error(&task(&["app/sid"]));
        assert_eq!((error.kind, error.to_string()), (ErrorKind::NotFound, "No app in suite 'sid'".into()));
        let error = world.solve_error(&task(&["app (>= 3)"]));
        assert_eq!((error.kind, error.to_string()), (ErrorKind::NotFound, "No version of app is >= 3".into()));

        let error = world.solve_error(&task(&["editor"]));
        assert_eq!((error.kind, error.hints), (ErrorKind::Usage, vec!["Choose one of: ed, vi.".to_owned()]));
        // Another request settles which one.
        assert_eq!(world.solve(&task(&["editor", "vi"])).unwrap().install.len(), 1);

        let error = world.solve_error(&task(&["top"]));
        assert_eq!(error.kind, ErrorKind::Unsatisfiable);
        let hints = error.hints.join("\n");
        assert!(hints.starts_with("top : Depends: middle but it is not"), "{hints}");
        assert!(hints.contains("middle : Depends: leaf (>= 2) but"), "{hints}");

        let error = world.solve_error(&task(&["app=1.0", "app=2.0"]));
        assert_eq!(error.kind, ErrorKind::Unsatisfiable);
        assert_eq!(world.solve(&task(&["app=2.0", "app", "app (>= 1.5)", "libapp=2.0"])).unwrap().install.len(), 2);
    });
}

#[test]
fn an_empty_base_gets_the_essential_set() {
    isolated(|| {
        let mut world = world();
        world.config.status = world.dir.path().join("missing");
        let compose = SolveTask { essential: true, ..task(&["app"]) };
        let solution = world.solve(&compose).unwrap();
        assert_eq!(
            installs(&solution),
            [
                "app=1.0 amd64",
                "apt=3.0 amd64",
                "core=2.41-2 amd64",
                "libapp=1.0 amd64",
                "shell=5.0 amd64",
                "tar=1.0 amd64"
            ]
            .map(str::to_owned)
            .into()
        );
        let flags: Vec<(&str, bool, bool)> =
            solution.install.iter().map(|p| (p.id.name.as_str(), p.essential, p.requested)).collect();
        assert_eq!(
            flags,
            [
                ("app", false, true),
                ("apt", false, false),
                ("core", false, false),
                ("libapp", false, false),
                ("shell", true, false),
                ("tar", true, false)
            ]
        );
    });
}

#[test]
fn local_packages_take_part() {
    isolated(|| {
        let mut world = world();
        let dir = world.dir.path().join("local");
        let own = Deb::new("own", "0.1").depends("app").build(&dir);
        let with_local = SolveTask { local: vec![own.clone()], ..SolveTask::default() };
        let mut solution = world.solve(&with_local).unwrap();
        assert_eq!(Some(installs(&solution)), world.oracle(&[&own.display().to_string()], &[]));
        let package = solution.install.iter().find(|p| p.id.name == "own").unwrap();
        assert!(package.requested);
        assert_eq!((package.origin.as_str(), package.path.as_path()), ("own_0.1_amd64.deb", own.as_path()));
        world.fetch(&mut solution).unwrap();
        assert!(solution.install.iter().all(|p| p.path.is_file()));

        // Replacing a base package by an older build needs both words.
        let older = Deb::new("core-tools", "0.9").depends("core").build(&dir);
        let plain = SolveTask { local: vec![older.clone()], ..SolveTask::default() };
        assert_eq!(world.solve_error(&plain).kind, ErrorKind::Unsatisfiable);
        let replace = SolveTask { local: vec![older], remove: names(&["core-tools"]), ..SolveTask::default() };
        let solution = world.solve(&replace).unwrap();
        assert_eq!(installs(&solution), BTreeSet::from(["core-tools=0.9 amd64".to_owned()]));
        assert_eq!(solution.install[0].previous.as_deref(), Some("1.0"));

        let broken = write(&dir.join("broken.deb"), "not a package");
        let error = world.solve_error(&SolveTask { local: vec![broken], ..SolveTask::default() });
        assert!(error.to_string().contains("broken.deb"), "{error}");
        let foreign = Deb::new("other", "1").arch("arm64").build(&dir);
        let error = world.solve_error(&SolveTask { local: vec![foreign], ..SolveTask::default() });
        assert!(error.to_string().contains("arm64"), "{error}");
    });
}

#[test]
fn a_changed_base_is_seen_although_its_file_looks_the_same() {
    isolated(|| {
        let mut world = world();
        let set = |world: &World, version: &str| {
            let text = Deb::new("leaf", version).status_stanza();
            fs::write(&world.config.status, text).unwrap();
            // As in an OSTree checkout.
            let zero = std::time::UNIX_EPOCH;
            fs::File::options().write(true).open(&world.config.status).unwrap().set_modified(zero).unwrap();
        };
        set(&world, "1.0");
        assert_eq!(world.solve(&task(&["leaf"])).unwrap().satisfied[0].1.version, "1.0");
        set(&world, "9.0");
        assert_eq!(world.solve(&task(&["leaf"])).unwrap().satisfied[0].1.version, "9.0");
    });
}

/// dpkg's status with a package on hold (`dpkg --set-selections`).
fn hold(world: &World, name: &str) {
    let status = fs::read_to_string(&world.config.status).expect("own file");
    let before = format!("Package: {name}\nStatus: install ok installed\n");
    assert!(status.contains(&before));
    fs::write(&world.config.status, status.replace(&before, &before.replace("install ok", "hold ok")))
        .expect("own file");
}

#[test]
fn held_packages_stay_unless_they_are_named() {
    isolated(|| {
        let mut world = world();
        assert!(installs(&world.solve(&task(&["needs-new-editor"])).unwrap()).contains("old-editor=4.0 all"));
        hold(&world, "old-editor");
        assert_eq!(world.oracle(&["needs-new-editor"], &[]), None, "apt-get keeps what is held");
        let error = world.solve_error(&task(&["needs-new-editor"]));
        assert_eq!(error.kind, ErrorKind::Unsatisfiable);
        assert!(error.hints.iter().any(|h| h.contains("old-editor is held")), "{:?}", error.hints);
        // Who names it means it, as with apt-get.
        for names in [&["old-editor=4.0"][..], &["old-editor=4.0", "needs-new-editor"]] {
            let solution = installs(&world.solve(&task(names)).unwrap());
            assert!(solution.contains("old-editor=4.0 all"), "{solution:?}");
        }
        // One that nothing touches is in nobody's way.
        assert_eq!(installs(&world.solve(&task(&["app"])).unwrap()), world.oracle(&["app"], &[]).unwrap());
    });
}

#[test]
fn updates_from_archives_for_security() {
    isolated(|| {
        let mut world = World::unrefreshed(&base(), |archive| {
            fill(archive);
            archive.add("fixes", &Deb::new("core", "2.41-3").multi_arch("same").field("Source", "core-src (2.41-3a)"));
            archive.release_field("fixes", "Label", "Debian-Security");
            archive.add("late", &Deb::new("app", "1.1").depends("libapp"));
            archive.codename("late", "trixie-security");
        });
        world.config.sources =
            vec![world.archive.sources("stable").replace("Suites: stable", "Suites: stable fixes late")];
        world.refresh().expect("a good archive");
        let solution = world.solve(&task(&["app", "core=2.41-3", "vi"])).expect("a solution");
        let advisories: Vec<(&str, Option<&str>)> =
            solution.install.iter().map(|p| (p.id.name.as_str(), p.advisory.as_deref())).collect();
        assert_eq!(
            advisories,
            [("app", Some("app 1.1")), ("core", Some("core-src 2.41-3a")), ("libapp", None), ("vi", None)]
        );
    });
}
