//! A Debian root made by the real mmdebstrap, and the .debs it was made of. Made once and kept in the cache folder of
//! `scripts/devroot`, because it takes a minute.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use apt_ostree_core::model::deb822;
use apt_ostree_core::model::package::PackageId;
use apt_ostree_core::source::SolvedPackage;

const INCLUDE: &str = "apt,bubblewrap,ca-certificates,cron,dbus,dracut,e2fsprogs,iproute2,iputils-ping,less,\
                       libpam-systemd,linux-image-cloud-amd64,locales,login,man-db,netbase,openssh-server,ostree,ostree-boot,\
                       passwd,sudo,systemd-resolved,systemd-sysv,udev,vim-tiny,zstd";

pub(crate) struct Fixture {
    pub(crate) dir: PathBuf,
}

impl Fixture {
    pub(crate) fn get() -> &'static Self {
        static ONCE: OnceLock<Fixture> = OnceLock::new();
        ONCE.get_or_init(|| {
            let cache = std::env::var_os("APT_OSTREE_CACHE")
                .expect("run the tests with scripts/devroot, which sets APT_OSTREE_CACHE");
            let dir = Path::new(&cache).join("test-compose");
            fs::create_dir_all(&dir).unwrap();
            let lock = fs::File::create(dir.join("lock")).unwrap();
            rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
            let fixture = Self { dir };
            let stamp = fixture.dir.join("stamp");
            if fs::read_to_string(&stamp).unwrap_or_default() != INCLUDE {
                fixture.make();
                fs::write(&stamp, INCLUDE).unwrap();
            }
            // The lock stays with the process: scratch directories are shared by name.
            std::mem::forget(lock);
            fixture
        })
    }

    fn make(&self) {
        let debs = self.dir.join("debs");
        let _ = fs::remove_dir_all(&debs);
        fs::create_dir_all(&debs).unwrap();
        // The archives of the system that the test runs on, each file in its own format.
        let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|e| e.path());
        let used = |path: &PathBuf| {
            let text = fs::read_to_string(path).unwrap_or_default();
            text.lines().any(|l| !l.trim().is_empty() && !l.starts_with('#'))
        };
        let sources: Vec<PathBuf> =
            std::iter::once(PathBuf::from("/etc/apt/sources.list")).chain(parts).filter(used).collect();
        run(Command::new("mmdebstrap")
            .current_dir(&self.dir)
            .env("INITRD", "No")
            .env("SOURCE_DATE_EPOCH", "0")
            .args(["--mode=root", "--variant=essential", "--format=tar"])
            .args(["--skip=essential/unlink", "--skip=download/empty", "--skip=cleanup/apt/cache"])
            .arg("--aptopt=APT::Install-Recommends \"false\"")
            .arg(format!("--include={INCLUDE}"))
            .arg("--customize-hook=sync-out /var/cache/apt/archives debs")
            .args(["trixie", "root.tar"])
            .args(&sources));
    }

    /// An empty directory, deleted by the next run.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        let dir = self.dir.join(name);
        if dir.exists() {
            // Deployments are immutable to everybody but this.
            let _ = Command::new("chattr").args(["-R", "-i"]).arg(&dir).stderr(Stdio::null()).status();
            fs::remove_dir_all(&dir).unwrap();
        }
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// What mmdebstrap made, unpacked.
    pub(crate) fn mmdebstrap_root(&self) -> PathBuf {
        let dir = self.scratch("mmdebstrap");
        run(Command::new("tar")
            .args(["--extract", "--numeric-owner", "--preserve-permissions", "--xattrs", "--xattrs-include=*"])
            .args(["--exclude=./dev/*", "--exclude=./var/cache/apt/archives/*.deb", "--file"])
            .arg(self.dir.join("root.tar"))
            .arg("--directory")
            .arg(&dir));
        dir
    }

    /// The .debs as a solver would hand them over.
    pub(crate) fn packages(&self) -> Vec<SolvedPackage> {
        let mut stanzas = Vec::new();
        for entry in fs::read_dir(self.dir.join("debs")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "deb") {
                let control = run(Command::new("dpkg-deb").arg("--field").arg(&path));
                stanzas.push((path, deb822::stanzas(&control).next().unwrap()));
            }
        }
        let mut providers: BTreeMap<String, String> = BTreeMap::new();
        for (_, stanza) in &stanzas {
            let name = stanza.get("Package").unwrap();
            for provided in stanza.get("Provides").unwrap_or_default().split(',') {
                let provided = provided.split_whitespace().next().unwrap_or_default();
                providers.entry(provided.to_owned()).or_insert_with(|| name.to_owned());
            }
        }
        for (_, stanza) in &stanzas {
            let name = stanza.get("Package").unwrap();
            providers.insert(name.to_owned(), name.to_owned());
        }
        let resolve = |field: Option<&str>| -> Vec<String> {
            let alternatives = |clause: &str| {
                clause.split('|').find_map(|a| {
                    let name = a.split_whitespace().next()?.split(':').next()?;
                    providers.get(name).cloned()
                })
            };
            field.unwrap_or_default().split(',').filter_map(alternatives).collect()
        };
        let requested: Vec<&str> = INCLUDE.split(',').map(str::trim).collect();
        let mut packages: Vec<SolvedPackage> = stanzas
            .iter()
            .map(|(path, s)| {
                let field = |name: &str| s.get(name).unwrap_or_default().to_owned();
                SolvedPackage {
                    id: PackageId::new(field("Package"), field("Version"), field("Architecture")),
                    previous: None,
                    requested: requested.contains(&field("Package").as_str()),
                    essential: s.get("Essential") == Some("yes"),
                    origin: "trixie/main".into(),
                    advisory: None,
                    sha256: String::new(),
                    size: 0,
                    download: 0,
                    installed_size: 0,
                    pre_depends: resolve(s.get("Pre-Depends")),
                    depends: resolve(s.get("Depends")),
                    path: path.clone(),
                }
            })
            .collect();
        packages.sort_by(|a, b| a.id.cmp(&b.id));
        packages
    }
}

/// Runs a command that must succeed, and gives its standard output.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}
