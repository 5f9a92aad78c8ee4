//! The verbs, one file each, and what they share: option groups and the way a transaction is run and shown.

pub(crate) mod apply_live;
pub(crate) mod cancel;
pub(crate) mod cleanup;
pub(crate) mod complete;
pub(crate) mod compose;
pub(crate) mod db;
pub(crate) mod deploy;
pub(crate) mod disk_image;
pub(crate) mod ex;
pub(crate) mod finalize_deployment;
pub(crate) mod health;
pub(crate) mod history;
pub(crate) mod info;
pub(crate) mod init_sysroot;
pub(crate) mod initramfs;
pub(crate) mod initramfs_etc;
pub(crate) mod install;
pub(crate) mod internals;
pub(crate) mod kargs;
pub(crate) mod list;
pub(crate) mod man;
pub(crate) mod overrides;
pub(crate) mod packages;
pub(crate) mod rebase;
pub(crate) mod rebuild;
pub(crate) mod refresh_md;
pub(crate) mod refused;
pub(crate) mod reload;
pub(crate) mod reset;
pub(crate) mod rollback;
pub(crate) mod search;
pub(crate) mod start_daemon;
pub(crate) mod status;
pub(crate) mod uninstall;
pub(crate) mod upgrade;
pub(crate) mod usroverlay;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use apt_ostree_core::model::origin::Origin;
use apt_ostree_core::operation::{Options, PackageChanges, Report, Request, Verb};
use apt_ostree_core::query::View;
use apt_ostree_core::sysroot::Sysroot;
use apt_ostree_core::{Context, Error, ErrorKind, Result};
use clap::{Args, Subcommand};

use crate::args::{Failure, Global, not_available};
use crate::client::{self, Asked};
use crate::container;
use crate::render;
use crate::start;
use crate::terminal::Terminal;
use crate::units;
use crate::worker;
use crate::worker_main;

/// Exit code of "nothing changed".
pub(crate) const UNCHANGED: u8 = 77;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Get the version of the booted system
    Status(status::StatusArgs),
    /// Overlay additional packages
    #[command(alias = "pkg-add")]
    Install(install::InstallArgs),
    /// Remove overlayed additional packages
    #[command(aliases = ["pkg-remove", "remove"])]
    Uninstall(uninstall::UninstallArgs),
    /// Perform a system upgrade
    #[command(alias = "update")]
    Upgrade(upgrade::UpgradeArgs),
    /// Deploy a specific commit
    Deploy(deploy::DeployArgs),
    /// Switch to a different tree
    Rebase(rebase::RebaseArgs),
    /// Revert to the previously booted tree
    Rollback(rollback::RollbackArgs),
    /// Clear cached/pending data
    Cleanup(cleanup::CleanupArgs),
    /// Cancel an active transaction
    Cancel,
    /// Reload configuration
    Reload,
    /// Query or modify kernel arguments
    Kargs(kargs::KargsArgs),
    /// Unset the finalization locking state of the staged deployment and reboot
    FinalizeDeployment(finalize_deployment::FinalizeDeploymentArgs),
    /// Enable or disable local initramfs regeneration
    Initramfs(initramfs::InitramfsArgs),
    /// Add files to the initramfs
    InitramfsEtc(initramfs_etc::InitramfsEtcArgs),
    /// Manage base package overrides
    Override(overrides::OverrideArgs),
    /// Remove all mutations
    Reset(reset::ResetArgs),
    /// Apply pending deployment changes to booted deployment
    ApplyLive(apply_live::ApplyLiveArgs),
    /// Apply a transient overlayfs to /usr
    #[command(alias = "unlock")]
    Usroverlay(usroverlay::UsroverlayArgs),
    /// Generate package repository metadata
    #[command(alias = "makecache")]
    RefreshMd(refresh_md::RefreshMdArgs),
    /// Search for packages
    Search(search::SearchArgs),
    /// Show packages in full
    Info(info::InfoArgs),
    /// List installed, upgradable or available packages
    List(list::ListArgs),
    /// Show which commands made the deployments, and when they were booted
    History(history::HistoryArgs),
    /// Apply the treefiles of origin.d to the container that is being built
    Rebuild,
    /// Names of commands in rpm-ostree
    #[command(hide = true)]
    Ex(ex::ExArgs),
    /// Commands to query the package database
    #[command(alias = "rpm")]
    Db(db::DbArgs),
    /// Commands to compose a tree
    Compose(compose::ComposeArgs),
    /// Run the health checks of the booted system
    Health(health::HealthArgs),
    /// Make a sysroot in a directory and deploy a first tree
    InitSysroot(init_sysroot::InitSysrootArgs),
    #[command(hide = true)]
    Internals(internals::InternalsArgs),
    /// The service
    #[command(hide = true)]
    StartDaemon(start_daemon::StartDaemonArgs),
    /// The other end of a transaction
    #[command(hide = true)]
    Worker,
    #[command(flatten)]
    Refused(refused::Refused),
}

impl Command {
    pub(crate) fn run(self, app: &App) -> Result<ExitCode, Failure> {
        match self {
            Self::Status(args) => status::run(app, &args),
            Self::Install(args) => install::run(app, args),
            Self::Uninstall(args) => uninstall::run(app, args),
            Self::Upgrade(args) => upgrade::run(app, args),
            Self::Deploy(args) => deploy::run(app, args),
            Self::Rebase(args) => rebase::run(app, args),
            Self::Rollback(args) => rollback::run(app, args),
            Self::Cleanup(args) => cleanup::run(app, args),
            Self::Cancel => cancel::run(app),
            Self::Reload => reload::run(app),
            Self::StartDaemon(args) => start_daemon::run(app, &args),
            Self::Kargs(args) => kargs::run(app, args),
            Self::FinalizeDeployment(args) => finalize_deployment::run(app, args),
            Self::Initramfs(args) => initramfs::run(app, args),
            Self::InitramfsEtc(args) => initramfs_etc::run(app, args),
            Self::Override(args) => overrides::run(app, args),
            Self::Reset(args) => reset::run(app, args),
            Self::ApplyLive(args) => apply_live::run(app, args),
            Self::Usroverlay(args) => usroverlay::run(app, &args),
            Self::RefreshMd(args) => refresh_md::run(app, args),
            Self::Search(args) => search::run(app, &args),
            Self::Info(args) => info::run(app, &args),
            Self::List(args) => list::run(app, &args),
            Self::History(args) => history::run(app, &args),
            Self::Rebuild => rebuild::run(app),
            Self::Ex(args) => ex::run(app, args),
            Self::Db(args) => db::run(app, &args),
            Self::Compose(args) => compose::run(app, args),
            Self::Health(args) => health::run(app, &args),
            Self::InitSysroot(args) => init_sysroot::run(app, args),
            Self::Internals(args) => internals::run(app, &args),
            Self::Worker => Ok(worker_main::main()),
            Self::Refused(command) => command.refuse(),
        }
    }
}

/// `--stateroot`, and its old name.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct StaterootArg {
    /// Operate on provided STATEROOT
    #[arg(long, alias = "os", value_name = "STATEROOT")]
    pub(crate) stateroot: Option<String>,
}

/// What happens once the new deployment is there.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct FinishArgs {
    /// Initiate a reboot after operation is complete
    #[arg(short, long)]
    pub(crate) reboot: bool,
    /// Prevent automatic deployment finalization on shutdown
    #[arg(long)]
    pub(crate) lock_finalization: bool,
}

/// Where packages and trees come from.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct FetchArgs {
    /// Do not download latest ostree and package data
    #[arg(short = 'C', long)]
    pub(crate) cache_only: bool,
    /// Just download latest ostree and package data, don't deploy
    #[arg(long)]
    pub(crate) download_only: bool,
}

/// Changes of requests in the same transaction.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct PackageArgs {
    /// Overlay additional package
    #[arg(long, value_name = "PKG")]
    pub(crate) install: Vec<String>,
    /// Remove overlayed additional package
    #[arg(long, value_name = "PKG")]
    pub(crate) uninstall: Vec<String>,
}

/// Where the packages of this transaction come from. rpm-ostree knows these in container builds, where nothing has to hold for a
/// later transaction; here every deployment is made from its requests again, so what they say has to be in the requests.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RepoArgs {
    #[arg(long, value_name = "ID", hide = true)]
    enablerepo: Vec<String>,
    #[arg(long, value_name = "ID", hide = true)]
    disablerepo: Vec<String>,
    /// Take the packages that are named without a version or suite from this suite, as NAME/SUITE does
    #[arg(long, value_name = "SUITE")]
    releasever: Option<String>,
}

impl RepoArgs {
    /// Refuses what cannot be kept, and gives the names to install their suite.
    pub(crate) fn apply(&self, packages: &mut [String]) -> Result<()> {
        let why = "sources count for every later deployment as well; write `Enabled: yes` or `no` into their file in \
                   /etc/apt/sources.list.d, or ask for NAME/SUITE";
        not_available(!self.enablerepo.is_empty(), "--enablerepo", why)?;
        not_available(!self.disablerepo.is_empty(), "--disablerepo", why)?;
        let Some(suite) = &self.releasever else { return Ok(()) };
        if suite.is_empty() || suite.contains('/') {
            return Err(Error::usage(format!("--releasever expects a suite or codename, not '{suite}'")));
        }
        for name in packages.iter_mut().filter(|name| !name.contains(['/', '=']) && !name.ends_with(".deb")) {
            *name += &format!("/{suite}");
        }
        Ok(())
    }
}

/// How a transaction is run and its outcome shown.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    pub(crate) stateroot: Option<String>,
    pub(crate) options: Options,
    /// 77 when no new deployment came out.
    pub(crate) unchanged_exit_77: bool,
    pub(crate) json: bool,
    /// `upgrade --check` and `--preview`: 77 when there is no update.
    pub(crate) check: bool,
    pub(crate) preview: bool,
    /// `deploy --preview`: the difference in the `diff` form.
    pub(crate) diff_preview: bool,
    /// Does not make a deployment: no word of a reboot.
    pub(crate) no_deployment: bool,
    /// A line between the difference and the word of a reboot.
    pub(crate) after_diff: Option<String>,
    /// Goes on with `apply-live`: no word of a reboot either.
    pub(crate) apply_live: bool,
}

/// One run of the program.
#[derive(Debug)]
pub(crate) struct App {
    global: Global,
    pub(crate) terminal: Terminal,
    command_line: String,
}

impl App {
    pub(crate) fn new(global: Global, mut terminal: Terminal, command_line: String) -> Self {
        terminal.set_quiet(global.quiet);
        Self { global, terminal, command_line }
    }

    /// `--sysroot`, absolute. Another name of the running system (`/sysroot`) is `/`: what belongs to the running system
    /// alone is looked for below that.
    pub(crate) fn given_sysroot(&self) -> Result<Option<PathBuf>> {
        let Some(path) = self.global.sysroot.as_deref().map(std::path::absolute).transpose()? else { return Ok(None) };
        let identity = |root: &Path| std::fs::metadata(root.join("ostree/repo")).ok().map(|m| (m.dev(), m.ino()));
        let running = Path::new("/run/ostree-booted").exists()
            && identity(&path).is_some_and(|repo| identity(Path::new("/")) == Some(repo));
        Ok(Some(if running { "/".into() } else { path }))
    }

    /// The system root to work on: `--sysroot`, else `/` if it was booted via ostree.
    pub(crate) fn sysroot(&self) -> Result<PathBuf> {
        if let Some(path) = self.given_sysroot()? {
            return Ok(path);
        }
        if Path::new("/run/ostree-booted").exists() {
            return Ok("/".into());
        }
        let container = std::env::var("container").ok().filter(|c| !c.is_empty());
        let container = container.map_or_else(String::new, |c| format!("; found container={c} environment variable"));
        let error = Error::failed(format!(
            "This system was not booted via libostree{container}.\n\
             Currently, most {} commands only work on ostree-based host systems.",
            start::name()
        ))
        .hint("--sysroot=DIR works on a system in a directory.");
        Err(container::hint(Path::new("/")).into_iter().fold(error, Error::hint))
    }

    /// Whether packages are changed in place: in a container made from a composed image.
    pub(crate) fn in_container(&self) -> bool {
        self.global.sysroot.is_none() && container::is_one(Path::new("/"))
    }

    /// The deployment that questions about packages are asked of.
    pub(crate) fn view(&self, stateroot: &StaterootArg) -> Result<View> {
        if self.in_container() {
            if stateroot.stateroot.is_some() {
                return Err(Error::usage("--stateroot is for deployments, and a container is none"));
            }
            return View::of_container(Path::new("/"), &std::env::temp_dir());
        }
        View::open(&Sysroot::open(&self.sysroot()?)?, stateroot.stateroot.as_deref(), &std::env::temp_dir())
    }

    /// What changes a system needs root, whatever it is about to do.
    pub(crate) fn require_root(&self) -> Result<()> {
        let set = |name: &str| std::env::var_os(name).is_some();
        if rustix::process::geteuid().is_root()
            || set("APTOSTREE_SUPPRESS_REQUIRES_ROOT_CHECK")
            || set("RPMOSTREE_SUPPRESS_REQUIRES_ROOT_CHECK")
        {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Permission, "This command requires root privileges"))
    }

    /// Runs a verb in a worker, shows what came out, and turns it into the exit code.
    pub(crate) fn transaction(&self, verb: Verb, mut how: Transaction) -> Result<ExitCode, Failure> {
        if self.in_container() {
            if let Some(code) = container::transaction(self, &verb, &how)? {
                return Ok(code);
            }
        }
        let sysroot = self.sysroot()?;
        let reboot = how.options.reboot;
        if reboot && self.global.sysroot.is_some() && sysroot != Path::new("/") {
            return Err(Failure::Usage("--reboot is for the booted system, not for one in a directory".into()));
        }
        if how.options.lock_finalization && sysroot != Path::new("/") {
            return Err(Failure::Usage(
                "--lock-finalization is for the booted system; nothing is staged in a directory".into(),
            ));
        }
        let request =
            Request { sysroot: sysroot.clone(), stateroot: how.stateroot.take(), verb, options: how.options.clone() };
        let (report, by_service) = self.work(request, how.json)?;
        self.show(&report, &how, &sysroot);
        let only_looked = how.options.dry_run || report.plan.is_some() || report.update.is_some();
        let due = (report.changed && !only_looked) || report.reboot_due;
        if reboot && due && !by_service {
            return self.reboot();
        }
        let unchanged =
            if how.check || how.preview { report.update.is_none() } else { how.unchanged_exit_77 && !report.changed };
        Ok(if unchanged { ExitCode::from(UNCHANGED) } else { ExitCode::SUCCESS })
    }

    /// Has a request carried out; with `document`, nothing but the result may go to stdout. The service does it for the running
    /// system, which is the true of the answer: then a reboot is its business, too. Otherwise a worker of this process does.
    pub(crate) fn work(&self, mut request: Request, document: bool) -> Result<(Report, bool)> {
        request.options.command_line.clone_from(&self.command_line);
        let without_progress;
        let terminal = if document {
            without_progress = self.terminal.without_progress();
            &without_progress
        } else {
            &self.terminal
        };
        let why = if !request.verb.is_for_service() {
            "it does not do this".to_owned()
        } else if request.sysroot != Path::new("/") {
            format!("the system in {} does not run", request.sysroot.display())
        } else {
            match client::run(&request, terminal)? {
                Asked::Done(report) => return Ok((*report, true)),
                Asked::NoService(why) => why,
            }
        };
        self.require_root()?;
        if self.global.verbose {
            terminal.notice(&format!("Not using the service: {why}"));
        }
        Ok((worker::run(&request, terminal)?, false))
    }

    pub(crate) fn print_json(&self, value: &impl serde::Serialize) {
        let text = serde_json::to_string_pretty(value).expect("documents have string keys only");
        self.terminal.line(&text);
    }

    /// What is not said with `--quiet`.
    pub(crate) fn say(&self, text: &str) {
        if !self.terminal.is_quiet() {
            self.terminal.print(text);
        }
    }

    /// What the engine says at the end; not with `--quiet`, unless it is what was asked for.
    pub(crate) fn say_lines(&self, report: &Report, asked_for: bool) {
        if asked_for || !self.terminal.is_quiet() {
            report.lines.iter().for_each(|line| self.terminal.line(&start::as_called(line)));
        }
    }

    fn show(&self, report: &Report, how: &Transaction, sysroot: &Path) {
        if how.json {
            return self.print_json(&render::report_json(report));
        }
        let looks = how.check || how.preview;
        self.say_lines(report, looks);
        if looks {
            return self.terminal.print(&match &report.update {
                Some(update) => render::available_update(update, how.preview, how.preview),
                None if report.lines.is_empty() => "No updates available.\n".into(),
                None => String::new(),
            });
        }
        if how.diff_preview {
            return self.terminal.print(&render::deploy_preview(report));
        }
        if let Some(plan) = &report.plan {
            self.terminal.print(&render::plan(plan));
            if how.options.dry_run {
                self.terminal.line("Exiting because of '--dry-run' option");
            }
            return;
        }
        if let Some(line) = report.kargs.as_ref().filter(|_| report.changed) {
            self.terminal.line(line);
        }
        if report.changed && !how.no_deployment {
            if how.apply_live {
                return;
            }
            self.say(&report.diff.block());
            if let Some(line) = &how.after_diff {
                self.say(&format!("{line}\n"));
            }
            self.say(&if sysroot == Path::new("/") {
                "Changes queued for next boot. Run \"systemctl reboot\" to start a reboot\n".to_owned()
            } else {
                format!("Changes queued for next boot of {}\n", sysroot.display())
            });
        }
    }

    /// An error while another program drives the updates of the running system.
    pub(crate) fn refuse_driven(&self, bypass: bool) -> Result<()> {
        let sysroot = self.sysroot()?;
        if bypass || sysroot != Path::new("/") { Ok(()) } else { units::refuse_driven(&sysroot) }
    }

    fn reboot(&self) -> Result<ExitCode, Failure> {
        let status = std::process::Command::new("systemctl").arg("reboot").status()?;
        if status.success() {
            return Ok(ExitCode::SUCCESS);
        }
        Err(Error::failed("systemctl reboot failed").hint("The new deployment is in place; reboot to start it.").into())
    }
}

/// What the deployment that boots next (of that stateroot) asks for. Needs no lock.
pub(crate) fn pending_origin(app: &App, stateroot: Option<&str>) -> Result<Origin> {
    let sysroot = Sysroot::open(&app.sysroot()?)?;
    sysroot.pending(&sysroot.stateroot(stateroot)?)?.origin()
}

/// The options that every verb with a new deployment has.
pub(crate) fn transaction_options(dry_run: bool, fetch: &FetchArgs, finish: &FinishArgs) -> Options {
    Options {
        dry_run,
        download_only: fetch.download_only,
        cache_only: fetch.cache_only,
        reboot: finish.reboot,
        lock_finalization: finish.lock_finalization,
        ..Options::default()
    }
}

/// What dnf and rpm-ostree take and apt does not: told for what it is, before names are looked for.
fn refuse_foreign(name: &str) -> Result<()> {
    let error = if name.ends_with(".rpm") {
        Error::usage(format!("'{name}' is an RPM package; this system is made of Debian packages"))
            .hint("Find Debian's package of it: apt-ostree search WORD")
            .hint("A package file is given by its path: ./NAME.deb")
    } else if RPM_ARCHES.iter().any(|arch| name.ends_with(&format!(".{arch}"))) {
        Error::usage(format!("'{name}' is not the name of a Debian package"))
            .hint("Ask for NAME, NAME:ARCH (amd64, arm64, i386) or NAME=VERSION.")
    } else if name.ends_with(".deb") {
        // A file may be called as it likes: `code[1].deb`.
        return Ok(());
    } else if name.starts_with('@') {
        Error::usage(format!("'{name}' is a group; apt archives have none"))
            .hint("Packages that bring others along take their place: apt-ostree search task-")
    } else if name.contains(['*', '?', '[']) && !name.contains(['/', '=']) {
        Error::usage(format!("'{name}' is a pattern; packages are asked for one by one"))
            .hint(format!("To see which there are: apt-ostree list --all '{name}'"))
    } else {
        return Ok(());
    };
    Err(error)
}

/// dpkg's names of them are others.
const RPM_ARCHES: &[&str] = &["x86_64", "noarch", "i686", "aarch64", "ppc64le", "s390x"];

/// Splits what a user names into requests by name and local .deb files (absolute paths).
pub(crate) fn sort_packages(changes: &mut PackageChanges, names: Vec<String>) -> Result<()> {
    sort_packages_from(Path::new(""), changes, names)
}

/// Relative paths are meant from that directory.
pub(crate) fn sort_packages_from(dir: &Path, changes: &mut PackageChanges, names: Vec<String>) -> Result<()> {
    for name in names {
        refuse_foreign(&name)?;
        if name.starts_with("http://") || name.starts_with("https://") {
            return Err(Error::usage(format!("Installing from a URL is not available in this version: {name}"))
                .hint("Download the .deb and give its path."));
        }
        let path = name.strip_prefix("file://").unwrap_or(&name);
        if path.ends_with(".dsc") {
            return Err(Error::usage(format!("'{name}' is a source package")));
        }
        if path.ends_with(".deb") {
            let path = dir.join(path);
            let path =
                std::fs::canonicalize(&path).context(|| format!("Opening the package file {}", path.display()))?;
            changes.install_local.push(path);
        } else if path.starts_with('/') || path.starts_with("./") || path.starts_with("../") {
            return Err(Error::usage(format!("'{name}' is neither the name of a package nor a .deb file")).hint(
                "Requests by the path of a file in a package are not available in this version: name the package.",
            ));
        } else {
            changes.install.push(name);
        }
    }
    Ok(())
}

/// The changes of the package-aware verbs.
pub(crate) fn package_changes(args: PackageArgs) -> Result<PackageChanges> {
    let mut changes = PackageChanges { uninstall: args.uninstall, ..PackageChanges::default() };
    sort_packages(&mut changes, args.install)?;
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releasever_becomes_part_of_the_requests() {
        let repos = RepoArgs { releasever: Some("trixie-backports".into()), ..RepoArgs::default() };
        let mut names: Vec<String> = ["vim", "git:amd64", "htop=1", "a/sid", "b.deb"].map(str::to_owned).to_vec();
        repos.apply(&mut names).unwrap();
        assert_eq!(names, ["vim/trixie-backports", "git:amd64/trixie-backports", "htop=1", "a/sid", "b.deb"]);
        let bad = RepoArgs { releasever: Some("a/b".into()), ..RepoArgs::default() };
        assert!(bad.apply(&mut names).is_err());
    }

    #[test]
    fn packages_are_sorted_into_names_and_files() {
        let dir = tempfile::tempdir().unwrap();
        let deb = dir.path().join("a_1_all.deb");
        std::fs::write(&deb, "").unwrap();
        let mut changes = PackageChanges::default();
        let names = vec!["htop".into(), "vim/trixie".into(), format!("file://{}", deb.display())];
        sort_packages(&mut changes, names).unwrap();
        assert_eq!(changes.install, ["htop", "vim/trixie"]);
        assert_eq!(changes.install_local, [deb.canonicalize().unwrap()]);
        let mut changes = PackageChanges::default();
        let odd = dir.path().canonicalize().unwrap().join("@code[1]?.deb");
        std::fs::write(&odd, "").unwrap();
        for name in [odd.display().to_string(), "@code[1]?.deb".into(), "./@code[1]?.deb".into()] {
            sort_packages_from(dir.path(), &mut changes, vec![name]).unwrap();
        }
        assert_eq!(changes.install_local, [odd.clone(), odd.clone(), odd]);
        for bad in ["/nonexistent.deb", "https://x/y.deb", "/usr/bin/foo", "a.dsc", "~nless|~nx.deb"] {
            assert!(sort_packages(&mut changes, vec![bad.into()]).is_err(), "{bad}");
        }
        for (foreign, what) in [
            ("htop.rpm", "RPM"),
            ("./htop-3.rpm", "RPM"),
            ("https://x/y.rpm", "RPM"),
            ("htop-3.4-1.fc42.x86_64", "Debian package"),
            ("@development-tools", "group"),
            ("python3-*", "pattern"),
        ] {
            let error = sort_packages(&mut changes, vec![foreign.into()]).unwrap_err();
            assert!(error.to_string().contains(what) && !error.hints.is_empty(), "{error:?}");
        }
        let names = ["libstdc++6", "s390x-tools", "g++"].map(str::to_owned).to_vec();
        sort_packages(&mut changes, names).unwrap();
    }
}
