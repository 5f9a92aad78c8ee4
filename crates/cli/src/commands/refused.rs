//! Commands of rpm-ostree that are not here: each is known by name, and refused with the reason and what to do instead.
//!
//! A script that calls one gets exit code 1 and an error of one line, not the list of commands.

use std::process::ExitCode;

use apt_ostree_core::Error;
use clap::{Args, Subcommand};

use crate::args::Failure;

/// Whatever the command would take.
#[derive(Debug, Args)]
pub(crate) struct AnyArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    words: Vec<String>,
}

/// In the list of commands itself.
#[derive(Debug, Subcommand)]
pub(crate) enum Refused {
    /// Not here: count machines for the archives
    #[command(hide = true)]
    Countme(AnyArgs),
    /// Not here: wrap programs of the host
    #[command(hide = true)]
    Cliwrap(AnyArgs),
    /// Not here: account tools of package scripts
    #[command(hide = true)]
    ScriptletIntercept(AnyArgs),
    /// Not here: plugin of systemd's kernel-install
    #[command(hide = true)]
    KernelInstall(AnyArgs),
    /// Not here: repair of file modes
    #[command(hide = true)]
    FixShadowPerms(AnyArgs),
    /// Not here: helper of a C library
    #[command(hide = true)]
    ShlibBackend(AnyArgs),
    /// Not here: fault helpers of rpm-ostree's tests
    #[command(hide = true)]
    Testutils(AnyArgs),
    /// Not here: modules of rpm repositories
    #[command(hide = true)]
    Module(AnyArgs),
    /// Not here: commit to container image
    #[command(hide = true)]
    ContainerEncapsulate(AnyArgs),
    /// Not here: old names of compose commands
    #[command(hide = true)]
    Experimental(AnyArgs),
}

/// Below `compose`.
#[derive(Debug, Subcommand)]
pub(crate) enum RefusedCompose {
    /// Not here: a tree in a directory
    #[command(hide = true)]
    Install(AnyArgs),
    /// Not here: an OSTree layout of a directory
    #[command(hide = true)]
    Postprocess(AnyArgs),
    /// Not here: a commit of a directory
    #[command(hide = true)]
    Commit(AnyArgs),
    /// Not here: a directory of packages for a tree
    #[command(hide = true)]
    Extensions(AnyArgs),
    /// Not here: a container image of a treefile
    #[command(hide = true)]
    Image(AnyArgs),
    /// Not here: a directory of a treefile
    #[command(hide = true)]
    Rootfs(AnyArgs),
    /// Not here: a container image in chunks
    #[command(hide = true)]
    BuildChunkedOci(AnyArgs),
    /// Not here: commit to container image
    #[command(hide = true)]
    ContainerEncapsulate(AnyArgs),
}

/// Below `ex`.
#[derive(Debug, Subcommand)]
pub(crate) enum RefusedEx {
    /// Not here: deploy the container image that this runs in
    #[command(hide = true)]
    DeployFromSelf(AnyArgs),
    /// Not here: modules of rpm repositories
    #[command(hide = true)]
    Module(AnyArgs),
}

const NO_CONTAINERS: &str = "container images are neither written nor read in this version";
const CONTAINERS_INSTEAD: &str = "An OSTree repository behind any web server does it: `compose tree --repo=REPO TREEFILE`, then `rebase REMOTE:BRANCH`.";
const NO_DIRECTORY: &str = "a tree is composed and committed in one step";
const DIRECTORY_INSTEAD: &str =
    "Make the commit with `compose tree --repo=REPO TREEFILE`; `ostree checkout --repo=REPO REF DIR` gives its files.";
const NO_MODULES: &str = "apt archives have no modules";
const MODULES_INSTEAD: &str = "A version from another suite: `install NAME/SUITE`.";

impl Refused {
    pub(crate) fn refuse(&self) -> Result<ExitCode, Failure> {
        match self {
            Self::Countme(args) => refuse(
                "countme",
                args,
                "Debian's archives do not count machines by their downloads",
                "Debian's own, which asks first, is the package popularity-contest.",
            ),
            Self::Cliwrap(args) => refuse(
                "cliwrap",
                args,
                "programs of the host are not wrapped",
                "apt and apt-get already refuse on a booted system, and name the command to use; no set-up is needed.",
            ),
            Self::ScriptletIntercept(args) => refuse(
                "scriptlet-intercept",
                args,
                "accounts of packages are taken from the finished tree, whatever tool made them",
                "Nothing is to be done: their numbers are in /usr/lib/apt-ostree/ids.lock.",
            ),
            Self::KernelInstall(args) => refuse(
                "kernel-install",
                args,
                "a kernel comes with a deployment, which libostree tells the boot loader of",
                "Another kernel on one machine: `override replace NAME=VERSION` or a local .deb.",
            ),
            Self::FixShadowPerms(args) => {
                refuse("fix-shadow-perms", args, "the modes it repairs were never wrong here", "Nothing is to be done.")
            }
            Self::ShlibBackend(args) => refuse(
                "shlib-backend",
                args,
                "there is no librpmostree",
                "`db list --format=json` and `db diff --format=json` give the same as documents.",
            ),
            Self::Testutils(args) => {
                refuse("testutils", args, "it is rpm-ostree's own test suite", "Nothing else needs it.")
            }
            Self::Module(args) => refuse("module", args, NO_MODULES, MODULES_INSTEAD),
            Self::ContainerEncapsulate(args) => {
                refuse("container-encapsulate", args, NO_CONTAINERS, CONTAINERS_INSTEAD)
            }
            Self::Experimental(args) => refuse("experimental", args, NO_CONTAINERS, CONTAINERS_INSTEAD),
        }
    }
}

impl RefusedCompose {
    pub(crate) fn refuse(&self) -> Result<ExitCode, Failure> {
        match self {
            Self::Install(args) => refuse("compose install", args, NO_DIRECTORY, DIRECTORY_INSTEAD),
            Self::Postprocess(args) => refuse("compose postprocess", args, NO_DIRECTORY, DIRECTORY_INSTEAD),
            Self::Commit(args) => refuse("compose commit", args, NO_DIRECTORY, DIRECTORY_INSTEAD),
            Self::Rootfs(args) => refuse("compose rootfs", args, NO_DIRECTORY, DIRECTORY_INSTEAD),
            Self::Extensions(args) => refuse(
                "compose extensions",
                args,
                "machines layer packages from any apt archive",
                "Keep an archive with these packages, signed, and name it in the image's apt sources.",
            ),
            Self::Image(args) => refuse("compose image", args, NO_CONTAINERS, CONTAINERS_INSTEAD),
            Self::BuildChunkedOci(args) => refuse("compose build-chunked-oci", args, NO_CONTAINERS, CONTAINERS_INSTEAD),
            Self::ContainerEncapsulate(args) => {
                refuse("compose container-encapsulate", args, NO_CONTAINERS, CONTAINERS_INSTEAD)
            }
        }
    }
}

impl RefusedEx {
    pub(crate) fn refuse(&self) -> Result<ExitCode, Failure> {
        match self {
            Self::DeployFromSelf(args) => refuse("ex deploy-from-self", args, NO_CONTAINERS, CONTAINERS_INSTEAD),
            Self::Module(args) => refuse("ex module", args, NO_MODULES, MODULES_INSTEAD),
        }
    }
}

/// The arguments make no difference.
fn refuse(command: &str, _: &AnyArgs, why: &str, instead: &str) -> Result<ExitCode, Failure> {
    Err(Error::usage(format!("{command} is not available: {why}")).hint(instead).into())
}
