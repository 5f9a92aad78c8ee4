//! The interfaces `org.projectatomic.rpmostree1.OS` and `.OSExperimental`, one object a stateroot.
//!
//! Every method here makes a [`Job`] of its arguments or reads; what it may do is decided in `state::Daemon::begin`.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use apt_ostree_bus::{Action, Dict, DiffEntry};
use apt_ostree_core::model::settings::UpdatePolicy;
use apt_ostree_core::operation::{ApplyLive, InitramfsChange, InitramfsEtcChange, PackageChanges, Verb};
use zbus::message::Header;
use zbus::zvariant::{OwnedFd, OwnedValue, Value};
use zbus::{Connection, interface};

use crate::job::{Given, Job, Target, checked, checked_all, upgrade};
use crate::packages;
use crate::question;
use crate::refusal::Refusal;
use crate::state::{Call, Daemon};
use crate::wire;

pub(crate) struct Os {
    pub(crate) daemon: Arc<Daemon>,
    pub(crate) name: String,
}

impl Os {
    fn target(&self) -> Target<'_> {
        Target { sysroot: &self.daemon.sysroot, stateroot: &self.name }
    }

    async fn begin(&self, connection: &Connection, header: &Header<'_>, job: Job) -> Result<String, Refusal> {
        let entered = self.daemon.enter(connection, header).await?;
        let path = header.path().map(ToString::to_string).unwrap_or_default();
        self.daemon.begin(job, entered, path).await
    }

    /// For reading methods that the contract asks an action for. The call is one of its caller's until the value is dropped.
    async fn may(
        &self,
        connection: &Connection,
        header: &Header<'_>,
        method: &str,
        action: Action,
    ) -> Result<Call, Refusal> {
        let (caller, mut call) = self.daemon.enter(connection, header).await?;
        caller.authorize(connection, method, &BTreeSet::from([action]), call.gone(&caller.name)).await?;
        Ok(call)
    }
}

#[interface(name = "org.projectatomic.rpmostree1.OS")]
impl Os {
    /// What the timer of automatic updates calls: follows the policy, or the mode that is asked for.
    #[zbus(out_args("enabled", "transaction_address"))]
    async fn automatic_update_trigger(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        options: Dict,
    ) -> Result<(bool, String), Refusal> {
        let given = Given(options);
        let mode = given.text("mode")?.unwrap_or_else(|| "auto".into());
        let policy = match mode.as_str() {
            "auto" => self.daemon.settings().update_policy,
            other => UpdatePolicy::parse(other)
                .ok_or_else(|| Refusal::invalid(format!("Invalid automatic update mode '{other}'")))?,
        };
        if self.daemon.snapshot().booted.as_deref() != Some(self.name.as_str()) {
            return Err(Refusal::failed("Cannot trigger an automatic update of a stateroot that is not booted"));
        }
        if policy == UpdatePolicy::None {
            return Ok((false, String::new()));
        }
        let check = policy == UpdatePolicy::Check;
        let verb = upgrade(PackageChanges::default(), false, check);
        let mut job = self.target().job("AutomaticUpdateTrigger", verb, &given)?;
        job.quiet = given.maybe("output-to-self")?.unwrap_or(true);
        job.automatic = true;
        let automatic = !given.0.contains_key("initiating-command-line");
        drop(given);
        for request in &mut job.requests {
            request.options.reboot |= policy == UpdatePolicy::Apply;
        }
        if automatic {
            job.title = format!("automatic ({})", if check { "check" } else { "stage" });
        }
        Ok((true, self.begin(connection, &header, job).await?))
    }

    #[zbus(out_args("transaction_address"))]
    async fn deploy(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        revision: String,
        options: Dict,
    ) -> Result<String, Refusal> {
        let modifiers = wire::plain([("set-revision", Value::from(checked(&revision)?))]);
        let job = self.target().update("Deploy", &Given(modifiers), &Given(options))?;
        self.begin(connection, &header, job).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn upgrade(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        options: Dict,
    ) -> Result<String, Refusal> {
        let job = self.target().update("Upgrade", &Given(Dict::new()), &Given(options))?;
        self.begin(connection, &header, job).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn rebase(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        options: Dict,
        refspec: String,
        packages: Vec<String>,
    ) -> Result<String, Refusal> {
        // rpm-ostree ignores them as well.
        drop(packages);
        let mut modifiers = wire::plain([("set-refspec", Value::from(checked(&refspec)?))]);
        let given = Given(options);
        if let Some(revision) = given.text("revision")? {
            modifiers.extend(wire::plain([("set-revision", Value::from(revision))]));
        }
        let job = self.target().update("Rebase", &Given(modifiers), &given)?;
        drop(given);
        self.begin(connection, &header, job).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn rollback(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        options: Dict,
    ) -> Result<String, Refusal> {
        let job = self.target().job("Rollback", Verb::Rollback, &Given(options))?;
        self.begin(connection, &header, job).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn clear_rollback_target(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        options: Dict,
    ) -> Result<String, Refusal> {
        let verb = Verb::Cleanup { base: false, pending: false, rollback: true, repomd: false };
        let mut job = self.target().job("ClearRollbackTarget", verb, &Given(options))?;
        job.actions = BTreeSet::from([Action::Rollback]);
        job.title = "clear-rollback".into();
        self.begin(connection, &header, job).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn pkg_change(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        options: Dict,
        packages_added: Vec<String>,
        packages_removed: Vec<String>,
    ) -> Result<String, Refusal> {
        let modifiers = wire::plain([
            ("install-packages", Value::from(checked_all(&packages_added)?)),
            ("uninstall-packages", Value::from(checked_all(&packages_removed)?)),
        ]);
        let mut options = options;
        options.entry("no-pull-base".into()).or_insert_with(|| OwnedValue::from(true));
        let job = self.target().update("PkgChange", &Given(modifiers), &Given(options))?;
        self.begin(connection, &header, job).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn update_deployment(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        modifiers: Dict,
        options: Dict,
    ) -> Result<String, Refusal> {
        let job = self.target().update("UpdateDeployment", &Given(modifiers), &Given(options))?;
        self.begin(connection, &header, job).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn finalize_deployment(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        options: Dict,
    ) -> Result<String, Refusal> {
        let given = Given(options);
        let verb = Verb::FinalizeDeployment {
            checksum: given.text("checksum")?,
            allow_missing_checksum: given.truth("allow-missing-checksum")?,
            allow_unlocked: given.truth("allow-unlocked")?,
        };
        let mut job = self.target().job("FinalizeDeployment", verb, &given)?;
        drop(given);
        // What the method is for: it reboots into the deployment.
        job.requests.iter_mut().for_each(|r| r.options.reboot = true);
        self.begin(connection, &header, job).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn set_initramfs_state(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        regenerate: bool,
        args: Vec<String>,
        options: Dict,
    ) -> Result<String, Refusal> {
        let verb = Verb::Initramfs(InitramfsChange { enable: regenerate, args: checked_all(&args)? });
        let job = self.target().job("SetInitramfsState", verb, &Given(options))?;
        self.begin(connection, &header, job).await
    }

    #[allow(clippy::too_many_arguments)] // the contract's
    #[zbus(out_args("transaction_address"))]
    async fn initramfs_etc(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        track: Vec<String>,
        untrack: Vec<String>,
        untrack_all: bool,
        force_sync: bool,
        options: Dict,
    ) -> Result<String, Refusal> {
        let (track, untrack) = (checked_all(&track)?, checked_all(&untrack)?);
        let verb = Verb::InitramfsEtc(InitramfsEtcChange { track, untrack, untrack_all, force_sync });
        let job = self.target().job("InitramfsEtc", verb, &Given(options))?;
        self.begin(connection, &header, job).await
    }

    #[allow(clippy::too_many_arguments)] // the contract's
    #[zbus(out_args("transaction_address"))]
    async fn kernel_args(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        existing_kernel_arg_string: String,
        kernel_args_added: Vec<String>,
        kernel_args_replaced: Vec<String>,
        kernel_args_removed: Vec<String>,
        options: Dict,
    ) -> Result<String, Refusal> {
        let lists = [&kernel_args_added[..], &kernel_args_replaced[..], &kernel_args_removed[..]];
        let job = self.target().kernel_arguments(&existing_kernel_arg_string, lists, &Given(options))?;
        self.begin(connection, &header, job).await
    }

    #[zbus(out_args("bootconfig"))]
    async fn get_deployment_boot_config(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        deployid: String,
        is_pending: bool,
    ) -> Result<Dict, Refusal> {
        let deployid = checked(&deployid)?;
        let _entered = self.daemon.enter(connection, &header).await?;
        question::boot_config(&self.daemon, &self.name, &deployid, is_pending).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn cleanup(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        elements: Vec<String>,
    ) -> Result<String, Refusal> {
        let (mut base, mut pending, mut rollback, mut repomd) = (false, false, false, false);
        for element in &elements {
            match element.as_str() {
                "base" => base = true,
                "pending-deploy" => pending = true,
                "rollback-deploy" => rollback = true,
                "repomd" => repomd = true,
                other => return Err(Refusal::invalid(format!("Invalid cleanup type: {}", other.escape_debug()))),
            }
        }
        let verb = Verb::Cleanup { base, pending, rollback, repomd };
        let job = self.target().job("Cleanup", verb, &Given(Dict::new()))?;
        self.begin(connection, &header, job).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn refresh_md(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        options: Dict,
    ) -> Result<String, Refusal> {
        let given = Given(options);
        let job = self.target().job("RefreshMd", Verb::RefreshMd { force: given.truth("force")? }, &given)?;
        drop(given);
        self.begin(connection, &header, job).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn modify_yum_repo(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        repo_id: String,
        settings: HashMap<String, String>,
    ) -> Result<String, Refusal> {
        let job = self.target().modify_source(&repo_id, &settings)?;
        self.begin(connection, &header, job).await
    }

    async fn list_repos(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<Dict>, Refusal> {
        let _entered = self.daemon.enter(connection, &header).await?;
        question::sources(&self.daemon, &self.name).await
    }

    #[zbus(name = "GetDeploymentsRpmDiff")]
    async fn get_deployments_rpm_diff(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        deployid0: String,
        deployid1: String,
    ) -> Result<Vec<DiffEntry>, Refusal> {
        let (deployid0, deployid1) = (checked(&deployid0)?, checked(&deployid1)?);
        let _call = self.may(connection, &header, "GetDeploymentsRpmDiff", Action::RepoRefresh).await?;
        question::deployments_diff(&self.daemon, &self.name, &deployid0, &deployid1).await
    }

    #[zbus(name = "GetCachedUpdateRpmDiff", out_args("diff", "details"))]
    async fn get_cached_update_rpm_diff(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        deployid: String,
    ) -> Result<(Vec<DiffEntry>, Dict), Refusal> {
        let _call = self.may(connection, &header, "GetCachedUpdateRpmDiff", Action::RepoRefresh).await?;
        // It is told against the running system, whichever deployment is named.
        checked(&deployid)?;
        let snapshot = self.daemon.snapshot();
        let update = snapshot.cached_update.as_ref().filter(|update| update["osname"] == *self.name);
        let update = update.ok_or_else(|| {
            Refusal::failed(
                "No update is known\nDownloadUpdateRpmDiff, or `apt-ostree upgrade --check`, looks for one.",
            )
        })?;
        Ok((wire::update_diff(update), wire::update_details(update)))
    }

    #[zbus(name = "DownloadUpdateRpmDiff", out_args("transaction_address"))]
    async fn download_update_rpm_diff(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, Refusal> {
        let verb = upgrade(PackageChanges::default(), false, true);
        let job = self.target().job("DownloadUpdateRpmDiff", verb, &Given(Dict::new()))?;
        self.package_diff(connection, &header, job).await
    }

    #[zbus(name = "GetCachedDeployRpmDiff", out_args("diff", "details"))]
    async fn get_cached_deploy_rpm_diff(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        revision: String,
        packages: Vec<String>,
    ) -> Result<(Vec<DiffEntry>, Dict), Refusal> {
        drop(packages);
        self.cached_diff(connection, &header, "GetCachedDeployRpmDiff", &revision).await
    }

    #[zbus(name = "DownloadDeployRpmDiff", out_args("transaction_address"))]
    async fn download_deploy_rpm_diff(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        revision: String,
        packages: Vec<String>,
    ) -> Result<String, Refusal> {
        drop(packages);
        let verb = Verb::Deploy {
            revision: checked(&revision)?,
            changes: PackageChanges::default(),
            preview: true,
            skip_branch_check: false,
            disallow_downgrade: false,
            driver: None,
        };
        let job = self.target().job("DownloadDeployRpmDiff", verb, &Given(Dict::new()))?;
        self.package_diff(connection, &header, job).await
    }

    #[zbus(name = "GetCachedRebaseRpmDiff", out_args("diff", "details"))]
    async fn get_cached_rebase_rpm_diff(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        refspec: String,
        packages: Vec<String>,
    ) -> Result<(Vec<DiffEntry>, Dict), Refusal> {
        drop(packages);
        self.cached_diff(connection, &header, "GetCachedRebaseRpmDiff", &refspec).await
    }

    #[zbus(name = "DownloadRebaseRpmDiff", out_args("transaction_address"))]
    async fn download_rebase_rpm_diff(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        refspec: String,
        packages: Vec<String>,
    ) -> Result<String, Refusal> {
        drop(packages);
        let modifiers = wire::plain([("set-refspec", Value::from(checked(&refspec)?))]);
        let options = wire::plain([("download-only", Value::from(true))]);
        let job = self.target().update("DownloadRebaseRpmDiff", &Given(modifiers), &Given(options))?;
        self.package_diff(connection, &header, job).await
    }

    async fn what_provides(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        provides: Vec<String>,
    ) -> Result<Vec<Dict>, Refusal> {
        self.packages(connection, &header, packages::Kind::Provides, &provides).await
    }

    async fn get_packages(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        names: Vec<String>,
    ) -> Result<Vec<Dict>, Refusal> {
        self.packages(connection, &header, packages::Kind::Names, &names).await
    }

    async fn search(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        names: Vec<String>,
    ) -> Result<Vec<Dict>, Refusal> {
        self.packages(connection, &header, packages::Kind::Search, &names).await
    }

    #[zbus(property)]
    fn booted_deployment(&self) -> Dict {
        self.daemon.snapshot().booted_deployment(&self.name)
    }

    #[zbus(property)]
    fn default_deployment(&self) -> Dict {
        self.daemon.snapshot().default_deployment(&self.name)
    }

    #[zbus(property)]
    fn rollback_deployment(&self) -> Dict {
        self.daemon.snapshot().rollback_deployment(&self.name)
    }

    #[zbus(property)]
    fn cached_update(&self) -> Dict {
        let snapshot = self.daemon.snapshot();
        let own = snapshot.cached_update.as_ref().filter(|update| update["osname"] == *self.name);
        own.map(wire::update).unwrap_or_default()
    }

    #[zbus(property, name = "HasCachedUpdateRpmDiff")]
    fn has_cached_update_rpm_diff(&self) -> bool {
        !self.cached_update().is_empty()
    }

    #[zbus(property)]
    fn name(&self) -> String {
        self.name.clone()
    }
}

impl Os {
    /// What a `Download…RpmDiff` begins: it changes no deployment, whatever its verb could.
    async fn package_diff(
        &self,
        connection: &Connection,
        header: &Header<'_>,
        mut job: Job,
    ) -> Result<String, Refusal> {
        job.actions = BTreeSet::from([Action::RepoRefresh]);
        job.title = "package-diff".into();
        self.begin(connection, header, job).await
    }

    async fn packages(
        &self,
        connection: &Connection,
        header: &Header<'_>,
        kind: packages::Kind,
        names: &[String],
    ) -> Result<Vec<Dict>, Refusal> {
        let names = checked_all(names)?;
        let _entered = self.daemon.enter(connection, header).await?;
        packages::ask(&self.daemon, &self.name, kind, &names).await
    }

    /// What the `GetCached…RpmDiff` of the same name answers.
    async fn cached_diff(
        &self,
        connection: &Connection,
        header: &Header<'_>,
        method: &str,
        revision: &str,
    ) -> Result<(Vec<DiffEntry>, Dict), Refusal> {
        let _call = self.may(connection, header, method, Action::RepoRefresh).await?;
        question::revision_diff(&self.daemon, &self.name, &checked(revision)?).await
    }
}

/// No promise of stability, in rpm-ostree as here.
pub(crate) struct OsExperimental {
    pub(crate) daemon: Arc<Daemon>,
    pub(crate) name: String,
}

#[interface(name = "org.projectatomic.rpmostree1.OSExperimental")]
impl OsExperimental {
    async fn moo(&self, utf8: bool) -> String {
        if utf8 { "🐄".into() } else { "moo".into() }
    }

    /// Checked like every other change, which rpm-ostree does not do.
    #[zbus(out_args("transaction_address"))]
    async fn live_fs(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        options: Dict,
    ) -> Result<String, Refusal> {
        let given = Given(options);
        let verb = Verb::ApplyLive(ApplyLive {
            target: given.text("target")?,
            allow_replacement: given.truth("replace")?,
            ..ApplyLive::default()
        });
        let target = Target { sysroot: &self.daemon.sysroot, stateroot: &self.name };
        let job = target.job("LiveFs", verb, &given)?;
        drop(given);
        let entered = self.daemon.enter(connection, &header).await?;
        let path = header.path().map(ToString::to_string).unwrap_or_default();
        self.daemon.begin(job, entered, path).await
    }

    async fn download_packages(&self, queries: Vec<String>, source: String) -> Result<Vec<OwnedFd>, Refusal> {
        drop((queries, source));
        Err(Refusal::not_supported("Packages are not handed out: use `apt-get download`"))
    }
}
