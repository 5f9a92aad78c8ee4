//! `rebase REFSPEC [REVISION]`: another branch or remote under the same requests.

use std::process::ExitCode;

use apt_ostree_core::Error;
use apt_ostree_core::model::origin::is_checksum;
use apt_ostree_core::operation::{Rebase, Verb};
use apt_ostree_core::sysroot::Sysroot;
use clap::Args;

use super::{App, FetchArgs, FinishArgs, PackageArgs, StaterootArg, Transaction, package_changes, transaction_options};
use crate::args::{Failure, usage};

#[derive(Debug, Args)]
#[command(override_usage = "apt-ostree rebase [OPTIONS] REFSPEC [REVISION]")]
pub(crate) struct RebaseArgs {
    /// REMOTE:BRANCH, BRANCH, REMOTE:, :BRANCH, a checksum, or /path/to/repo:REF
    #[arg(value_name = "REFSPEC")]
    refspec: Option<String>,
    /// A commit of the branch, as for `deploy`
    #[arg(value_name = "REVISION")]
    revision: Option<String>,
    #[command(flatten)]
    stateroot: StaterootArg,
    /// Rebase to branch BRANCH; use --remote to change remote as well
    #[arg(short, long, value_name = "BRANCH")]
    branch: Option<String>,
    /// Rebase to current branch name using REMOTE; may also be combined with --branch
    #[arg(short = 'm', long, value_name = "REMOTE")]
    remote: Option<String>,
    #[command(flatten)]
    finish: FinishArgs,
    #[command(flatten)]
    fetch: FetchArgs,
    #[command(flatten)]
    packages: PackageArgs,
    /// Keep previous refspec after rebase
    #[arg(long)]
    skip_purge: bool,
    /// Forbid deployment of chronologically older trees
    #[arg(long)]
    disallow_downgrade: bool,
    /// Human-readable description of custom origin
    #[arg(long, value_name = "STR")]
    custom_origin_description: Option<String>,
    /// Machine-readable description of custom origin
    #[arg(long, value_name = "STR")]
    custom_origin_url: Option<String>,
    /// Exit after printing the transaction
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Force a rebase even if an updates driver is registered
    #[arg(long)]
    bypass_driver: bool,
    #[arg(long, hide = true)]
    experimental: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// Prefixes of container image references (ostree-rs-ext).
const CONTAINER_PREFIXES: &[&str] = &[
    "ostree-unverified-registry:",
    "ostree-unverified-image:",
    "ostree-image-signed:",
    "ostree-remote-registry:",
    "ostree-remote-image:",
    "docker://",
];

/// What other tools call them by. A remote may have such a name as well.
const TRANSPORTS: &[&str] = &["docker", "registry", "containers-storage", "oci", "oci-archive"];

/// `remote`: whether there is one of that name.
fn is_container_image(refspec: &str, remote: impl Fn(&str) -> bool) -> bool {
    CONTAINER_PREFIXES.iter().any(|p| refspec.starts_with(p))
        || refspec.split_once(':').is_some_and(|(name, _)| TRANSPORTS.contains(&name) && !remote(name))
}

pub(crate) fn run(app: &App, args: RebaseArgs) -> Result<ExitCode, Failure> {
    let refspec = args.refspec.unwrap_or_default();
    let refspec = refspec.strip_prefix("ostree://").unwrap_or(&refspec).to_owned();
    if refspec.is_empty() && args.branch.is_none() && args.remote.is_none() {
        return usage("REFSPEC must be specified");
    }
    if !refspec.is_empty() && (args.branch.is_some() || args.remote.is_some()) {
        return usage("Cannot specify both REFSPEC and --branch/--remote");
    }
    let remote =
        |name: &str| app.sysroot().and_then(|path| Sysroot::open(&path)).is_ok_and(|s| s.repo().has_remote(name));
    if is_container_image(&refspec, remote) {
        return Err(Error::usage(format!(
            "Container images are not available in this version as an origin: {refspec}"
        ))
        .hint("Rebase to an OSTree ref, REMOTE:BRANCH.")
        .into());
    }
    if args.custom_origin_url.is_some() != args.custom_origin_description.is_some() {
        return usage("--custom-origin-url and --custom-origin-description belong together");
    }
    if args.custom_origin_url.is_some() && !is_checksum(&refspec) {
        return usage("--custom-origin-url and --custom-origin-description need a checksum as REFSPEC");
    }
    if !args.dry_run {
        app.refuse_driven(args.bypass_driver)?;
    }
    let verb = Verb::Rebase(Rebase {
        refspec,
        revision: args.revision,
        branch: args.branch,
        remote: args.remote,
        skip_purge: args.skip_purge,
        disallow_downgrade: args.disallow_downgrade,
        custom_origin_url: args.custom_origin_url,
        custom_origin_description: args.custom_origin_description,
        changes: package_changes(args.packages)?,
    });
    app.transaction(
        verb,
        Transaction {
            stateroot: args.stateroot.stateroot,
            options: transaction_options(args.dry_run, &args.fetch, &args.finish),
            json: args.json,
            ..Transaction::default()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_containers_and_remotes_of_such_names() {
        for always in ["ostree-unverified-registry:quay.example/x", "docker://quay.example/x"] {
            assert!(is_container_image(always, |_| true), "{always}");
        }
        for either in ["registry:quay.example/x", "docker:x", "oci:/x", "oci-archive:x.tar", "containers-storage:x"] {
            assert!(is_container_image(either, |_| false), "{either}");
            assert!(!is_container_image(either, |name| either.starts_with(name)), "{either}");
        }
        for never in ["debian:debian/13", "ocis:x", "registry", "/srv/oci:x"] {
            assert!(!is_container_image(never, |_| false), "{never}");
        }
    }
}
