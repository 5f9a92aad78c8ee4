//! Indexes and downloads: over HTTP from a server of the test, with every kind of damage.

#[allow(dead_code)]
mod common;

use std::fs;
use std::path::Path;

use apt_ostree_core::event::{Event, NullSink};
use apt_ostree_core::source::{PackageSource, archive_path};
use apt_ostree_core::{Error, ErrorKind};
use apt_ostree_testkit::archive::{Archive, flip_bytes};
use apt_ostree_testkit::deb::Deb;
use apt_ostree_testkit::http::HttpServer;
use common::{Recorder, World, installs, isolated, task};

fn fill(archive: &mut Archive) {
    archive.add("stable", &Deb::new("app", "1:1.0-1").depends("lib").file("/usr/share/app", 0o644, [7u8; 100_000]));
    archive.add("stable", &Deb::new("lib", "1.0").arch("all"));
}

/// The world over HTTP, not yet refreshed.
fn http_world() -> (World, HttpServer) {
    let mut world = World::unrefreshed(&[], fill);
    let server = HttpServer::start(world.archive.dir());
    world.config.sources = vec![world.archive.sources_at(&server.url(), "stable")];
    (world, server)
}

fn text(error: &Error) -> String {
    format!("{error}\n{}", error.hints.join("\n"))
}

#[test]
fn downloads_once_and_reports_progress() {
    isolated(|| {
        let (mut world, server) = http_world();
        assert!(!world.source.has_indexes(&world.config).unwrap());
        let events = Recorder::default();
        world.source.refresh(&world.config, &events).unwrap();
        assert!(world.source.has_indexes(&world.config).unwrap());
        let events = events.0.into_inner();
        assert!(matches!(events.first(), Some(Event::TaskBegin { .. })), "{events:?}");
        assert!(matches!(events.last(), Some(Event::TaskEnd { .. })), "{events:?}");

        let mut solution = world.solve(&task(&["app"])).unwrap();
        let total: u64 = solution.install.iter().map(|p| p.size).sum();
        assert_eq!(solution.install.iter().map(|p| p.download).sum::<u64>(), total);
        let events = Recorder::default();
        world.source.fetch(&world.config, &mut solution, &events).unwrap();
        let downloads: Vec<(u64, u64)> = events
            .0
            .into_inner()
            .iter()
            .filter_map(|e| if let Event::Download { done, total, .. } = e { Some((*done, *total)) } else { None })
            .collect();
        assert_eq!(downloads.last(), Some(&(total, total)), "{downloads:?}");
        for package in &solution.install {
            assert_eq!(package.path, archive_path(&world.config.state, &package.id));
            assert_eq!(package.download, 0);
            assert_eq!(package.path.metadata().unwrap().len(), package.size);
        }

        // Everything is there now: no request, and it works without a network.
        server.clear();
        world.config.offline = true;
        let mut again = world.solve(&task(&["app"])).unwrap();
        assert_eq!(again.install.iter().map(|p| p.download).sum::<u64>(), 0);
        world.fetch(&mut again).unwrap();
        assert_eq!(server.requests().len(), 0);
    });
}

/// What a power cut in the middle of a refresh leaves: files without content, and no stamp.
#[test]
fn lists_that_a_power_cut_emptied_are_fetched_again() {
    isolated(|| {
        let (mut world, _server) = http_world();
        world.refresh().unwrap();
        let lists = world.config.state.join("lists");
        let files =
            || fs::read_dir(&lists).unwrap().flatten().filter(|e| e.path().is_file() && e.file_name() != "lock");
        assert!(files().count() >= 2);
        files().for_each(|e| fs::write(e.path(), "").unwrap());
        fs::remove_file(world.config.state.join("etc/refreshed")).unwrap();
        world.refresh().unwrap();
        assert!(world.source.has_indexes(&world.config).unwrap());
        world.solve(&task(&["app"])).unwrap();
    });
}

#[test]
fn a_second_refresh_sees_new_packages() {
    isolated(|| {
        let (mut world, _server) = http_world();
        world.refresh().unwrap();
        world.archive.add("stable", &Deb::new("lib", "1.1").arch("all"));
        world.archive.publish();
        assert!(installs(&world.solve(&task(&["lib"])).unwrap()).contains("lib=1.0 all"));
        world.refresh().unwrap();
        assert!(installs(&world.solve(&task(&["lib"])).unwrap()).contains("lib=1.1 all"));
        // Other sources are other indexes.
        world.config.sources.push(world.archive.sources("stable"));
        assert!(!world.source.has_indexes(&world.config).unwrap());
    });
}

#[test]
fn a_bad_signature_is_an_error_and_the_old_indexes_stay() {
    isolated(|| {
        for over_http in [true, false] {
            let (mut world, _server) = http_world();
            if !over_http {
                world.config.sources = vec![world.archive.sources("stable")];
            }
            // Without anything to fall back to.
            world.archive.break_signature("stable");
            let error = world.refresh().unwrap_err();
            assert_eq!(error.kind, ErrorKind::Verification, "{}", text(&error));
            assert!(text(&error).contains("stable"), "{}", text(&error));
            assert_eq!(world.solve_error(&task(&["app"])).kind, ErrorKind::NotFound);

            world.archive.publish();
            world.refresh().unwrap();
            world.archive.add("stable", &Deb::new("evil", "1.0"));
            world.archive.publish();
            for step in 0..2 {
                if step == 0 {
                    world.archive.break_signature("stable")
                } else {
                    world.archive.sign_with_stranger("stable")
                }
                let error = world.refresh().unwrap_err();
                assert_eq!(error.kind, ErrorKind::Verification, "{}", text(&error));
                assert_eq!(world.solve(&task(&["app"])).unwrap().install.len(), 2);
                assert_eq!(world.solve_error(&task(&["evil"])).kind, ErrorKind::NotFound);
                world.archive.publish();
            }
        }
    });
}

#[test]
fn a_failed_refresh_of_other_sources_leaves_no_wrong_promise() {
    isolated(|| {
        let (mut world, server) = http_world();
        world.refresh().unwrap();
        let good = world.config.sources.clone();
        world.config.sources = vec![world.archive.sources_at(&server.url(), "nosuchsuite")];
        let error = world.refresh().unwrap_err();
        assert!(!text(&error).contains("stay in use"), "{}", text(&error));
        world.config.sources = good;
        assert!(!world.source.has_indexes(&world.config).unwrap());
        world.refresh().unwrap();
        assert_eq!(world.solve(&task(&["app"])).unwrap().install.len(), 2);
    });
}

#[test]
fn deleted_lists_are_no_indexes() {
    isolated(|| {
        let (mut world, _server) = http_world();
        world.refresh().unwrap();
        assert!(world.source.has_indexes(&world.config).unwrap());
        fs::remove_dir_all(world.config.state.join("lists")).unwrap();
        assert!(!world.source.has_indexes(&world.config).unwrap());
        world.refresh().unwrap();
        assert_eq!(world.solve(&task(&["app"])).unwrap().install.len(), 2);
    });
}

#[test]
fn a_tampered_index_is_an_error() {
    isolated(|| {
        let (mut world, _server) = http_world();
        let packages = world.archive.dir().join("dists/stable/main/binary-amd64/Packages");
        let changed = fs::read_to_string(&packages).unwrap().replace("Version: 1.0", "Version: 9.0");
        fs::write(&packages, changed).unwrap();
        let error = world.refresh().unwrap_err();
        assert_eq!(error.kind, ErrorKind::Verification, "{}", text(&error));
    });
}

#[test]
fn an_unreachable_source_is_named() {
    isolated(|| {
        let (mut world, server) = http_world();
        world.config.sources.push(world.archive.sources("stable"));
        let url = server.url();
        server.die();
        let error = world.refresh().unwrap_err();
        assert_eq!(error.kind, ErrorKind::Network, "{}", text(&error));
        assert!(error.to_string().contains(&url), "{}", text(&error));

        let (mut world, server) = http_world();
        world.config.sources = vec![world.archive.sources_at(&server.url(), "nosuchsuite")];
        let error = world.refresh().unwrap_err();
        assert!(text(&error).contains("nosuchsuite"), "{}", text(&error));
        assert!(matches!(error.kind, ErrorKind::Network | ErrorKind::Verification), "{}", text(&error));
    });
}

#[test]
fn a_tampered_package_never_arrives() {
    isolated(|| {
        for over_http in [true, false] {
            let (mut world, _server) = http_world();
            if !over_http {
                world.config.sources = vec![world.archive.sources("stable")];
            }
            world.refresh().unwrap();
            let mut solution = world.solve(&task(&["app"])).unwrap();
            world.archive.tamper("stable", "app");
            let error = world.fetch(&mut solution).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Verification, "{}", text(&error));
            assert!(error.to_string().contains("app:amd64=1:1.0-1"), "{}", text(&error));
            assert!(!archive_path(&world.config.state, &solution.install[0].id).exists());

            // One that went away is another matter.
            world.archive.remove("stable", "app");
            let error = world.fetch(&mut solution).unwrap_err();
            assert!(matches!(error.kind, ErrorKind::Network | ErrorKind::NotFound), "{}", text(&error));
        }
    });
}

#[test]
fn a_tampered_cache_is_downloaded_again() {
    isolated(|| {
        let (mut world, server) = http_world();
        world.refresh().unwrap();
        let mut solution = world.solve(&task(&["app"])).unwrap();
        world.fetch(&mut solution).unwrap();
        let good = fs::read(&solution.install[0].path).unwrap();
        flip_bytes(&solution.install[0].path);
        server.clear();
        let mut again = world.solve(&task(&["app"])).unwrap();
        world.fetch(&mut again).unwrap();
        assert_eq!(fs::read(&again.install[0].path).unwrap(), good);
        assert_eq!(server.count("/app_"), 1);
        assert_eq!(server.count("/lib_"), 0);
        // The same solution once more, which has paths already.
        flip_bytes(&again.install[0].path);
        world.fetch(&mut again).unwrap();
        assert_eq!(fs::read(&again.install[0].path).unwrap(), good);
    });
}

#[test]
fn offline_says_what_is_missing() {
    isolated(|| {
        let (mut world, server) = http_world();
        world.refresh().unwrap();
        let mut solution = world.solve(&task(&["app"])).unwrap();
        server.clear();
        world.config.offline = true;
        let error = world.fetch(&mut solution).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Network);
        assert_eq!(error.to_string(), "Not downloaded yet: app:amd64=1:1.0-1, lib:all=1.0");
        assert_eq!(world.refresh().unwrap_err().kind, ErrorKind::Network);
        assert_eq!(server.requests().len(), 0);

        world.config.offline = false;
        server.die();
        let error = world.fetch(&mut solution).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Network, "{}", text(&error));
        assert!(error.to_string().contains("app") || error.to_string().contains("lib"), "{}", text(&error));
    });
}

#[test]
fn several_roots_one_after_the_other() {
    isolated(|| {
        let mut one = World::new(&[Deb::new("lib", "1.0").arch("all")], fill);
        let mut two = World::new(&[], |a| {
            a.add("stable", &Deb::new("app", "5.0"));
        });
        assert!(installs(&one.solve(&task(&["app"])).unwrap()).iter().eq(["app=1:1.0-1 amd64"]));
        assert!(installs(&two.solve(&task(&["app"])).unwrap()).iter().eq(["app=5.0 amd64"]));
        assert!(installs(&one.solve(&task(&["app"])).unwrap()).iter().eq(["app=1:1.0-1 amd64"]));
        one.config.foreign_arches.clear();
        let error = one.source.solve(&one.config, &task(&["app"]), &NullSink).unwrap_err();
        assert!(error.to_string().contains("architectures"), "{error}");
    });
}

#[test]
fn leaves_the_host_alone() {
    isolated(|| {
        let stamp = |path: &str| Path::new(path).metadata().and_then(|m| m.modified()).ok();
        let watched = ["/var/lib/apt/lists", "/var/cache/apt", "/var/lib/dpkg", "/var/log/apt", "/etc/apt"];
        let before: Vec<_> = watched.iter().map(|p| stamp(p)).collect();
        let (mut world, _server) = http_world();
        world.refresh().unwrap();
        let mut solution = world.solve(&task(&["app"])).unwrap();
        world.fetch(&mut solution).unwrap();
        assert_eq!(before, watched.iter().map(|p| stamp(p)).collect::<Vec<_>>());
        // Downloads belong to root, made by _apt in a folder of its own.
        use std::os::unix::fs::MetadataExt;
        assert_eq!(solution.install[0].path.metadata().unwrap().uid(), 0);
        assert_ne!(world.config.state.join("archives/partial").metadata().unwrap().uid(), 0);
    });
}
