//! `compose`: `tree TREEFILE`, from a treefile and an archive to a commit, and `disk-image`. Parsed here, done by the engine in a worker.

use std::path::PathBuf;
use std::process::ExitCode;

use apt_ostree_core::operation::compose_tree::ComposeTree;
use apt_ostree_core::operation::{Options, Request, Verb};
use apt_ostree_core::{Context, Error};
use clap::{Args, Subcommand};

use super::App;
use super::disk_image::{self, DiskImageArgs};
use super::refused::RefusedCompose;
use crate::args::{Failure, not_available, usage};

#[derive(Debug, Args)]
pub(crate) struct ComposeArgs {
    #[command(subcommand)]
    command: Compose,
}

#[derive(Debug, Subcommand)]
enum Compose {
    /// Process a "treefile"; install packages and commit the result to an OSTree repository
    Tree(Box<TreeArgs>),
    /// Make a disk image of a commit that a machine starts from
    DiskImage(Box<DiskImageArgs>),
    #[command(flatten)]
    Refused(RefusedCompose),
}

/// dpkg(1) of this machine knows what it is.
fn native_architecture() -> apt_ostree_core::Result<String> {
    let output = std::process::Command::new("dpkg").arg("--print-architecture").output().context(|| "Running dpkg")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// `SOURCE_DATE_EPOCH`, else now. Seconds since the epoch.
fn timestamp() -> apt_ostree_core::Result<u64> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => {
            text.parse().map_err(|_| Error::usage(format!("SOURCE_DATE_EPOCH is not a number of seconds: '{text}'")))
        }
        Err(_) => Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())),
    }
}

#[derive(Debug, Args)]
#[command(override_usage = "apt-ostree compose tree [OPTIONS] --repo=REPO TREEFILE")]
struct TreeArgs {
    /// Treefile, YAML or JSON
    #[arg(value_name = "TREEFILE")]
    treefile: Option<PathBuf>,
    /// Accepted: trees are always composed this way
    #[arg(long, alias = "ex-unified-core")]
    unified_core: bool,
    /// Path to OSTree repository
    #[arg(short, long, value_name = "REPO")]
    repo: Option<PathBuf>,
    /// Path to OSTree repository for ostree-layers
    #[arg(long, value_name = "REPO")]
    layer_repo: Option<PathBuf>,
    /// Always create a new OSTree commit, even if nothing appears to have changed
    #[arg(long)]
    force_nocache: bool,
    /// Assume cache is present, do not attempt to update it
    #[arg(long)]
    cache_only: bool,
    /// Cached state
    #[arg(long, value_name = "CACHEDIR")]
    cachedir: Option<PathBuf>,
    /// Rootfs to use for apt sources and variables
    #[arg(long, value_name = "PATH")]
    source_root: Option<PathBuf>,
    /// Download packages, then exit
    #[arg(long, alias = "download-only-rpms")]
    download_only: bool,
    /// HTTP proxy
    #[arg(long, value_name = "PROXY")]
    proxy: Option<String>,
    /// Just print the transaction and exit
    #[arg(long)]
    dry_run: bool,
    /// Just expand any includes and print treefile
    #[arg(long)]
    print_only: bool,
    /// Accepted: trees are not labelled
    #[arg(long)]
    disable_selinux: bool,
    /// Update the modification time on FILE if a new commit was created
    #[arg(long, value_name = "FILE")]
    touch_if_changed: Option<PathBuf>,
    /// Use this commit for change detection
    #[arg(long, value_name = "COMMIT")]
    previous_commit: Option<String>,
    /// Use this input hash for change detection
    #[arg(long, value_name = "DIGEST")]
    previous_inputhash: Option<String>,
    /// Use this version number for automatic version numbering
    #[arg(long, value_name = "VERSION")]
    previous_version: Option<String>,
    /// Working directory
    #[arg(long, value_name = "WORKDIR")]
    workdir: Option<PathBuf>,
    #[arg(long, hide = true)]
    workdir_tmpfs: bool,
    /// Also run default postprocessing
    #[arg(long, hide = true)]
    postprocess: bool,
    /// Write lockfile to FILE
    #[arg(long, alias = "ex-write-lockfile-to", value_name = "FILE")]
    write_lockfile_to: Option<PathBuf>,
    /// Read lockfile from FILE
    #[arg(long, alias = "ex-lockfile", value_name = "FILE")]
    lockfile: Vec<PathBuf>,
    /// With --lockfile, only allow installing locked packages
    #[arg(long, alias = "ex-lockfile-strict")]
    lockfile_strict: bool,
    /// Append given key and value (in string format) to metadata
    #[arg(long, value_name = "KEY=VALUE")]
    add_metadata_string: Vec<String>,
    /// Parse the given JSON file as object, convert to GVariant, append to OSTree commit
    #[arg(long, value_name = "FILE")]
    add_metadata_from_json: Option<PathBuf>,
    /// File to write the composed commitid to instead of updating the ref
    #[arg(long, value_name = "FILE")]
    write_commitid_to: Option<PathBuf>,
    /// Write JSON to FILE containing information about the compose run
    #[arg(long, value_name = "FILE")]
    write_composejson_to: Option<PathBuf>,
    /// Always commit without a parent
    #[arg(long)]
    no_parent: bool,
    /// Commit with specific parent
    #[arg(long, value_name = "REV")]
    parent: Option<String>,
    /// Fail if something in /var is neither kept nor known to be dropped
    #[arg(long)]
    strict_var: bool,
}

impl TreeArgs {
    /// What the engine is asked. Relative paths become absolute: a path in an error message should say which file is meant.
    fn options(self) -> Result<(ComposeTree, Options), Failure> {
        self.check()?;
        let Some(treefile) = self.treefile else {
            return usage("TREEFILE must be specified");
        };
        let mut add_metadata_string = Vec::new();
        for pair in self.add_metadata_string {
            match pair.split_once('=') {
                Some((key, value)) if !key.is_empty() => add_metadata_string.push((key.to_owned(), value.to_owned())),
                _ => return usage(format!("--add-metadata-string expects KEY=VALUE, not '{pair}'")),
            }
        }
        let absolute = |path: Option<PathBuf>| path.map(std::path::absolute).transpose();
        let compose = ComposeTree {
            treefile: std::path::absolute(treefile)?,
            repo: absolute(self.repo)?,
            cachedir: absolute(self.cachedir)?,
            workdir: absolute(self.workdir)?,
            print_only: self.print_only,
            force_nocache: self.force_nocache,
            strict_var: self.strict_var,
            previous_commit: self.previous_commit,
            previous_inputhash: self.previous_inputhash,
            previous_version: self.previous_version,
            add_metadata_string,
            add_metadata_from_json: absolute(self.add_metadata_from_json)?,
            parent: self.parent,
            no_parent: self.no_parent,
            write_commitid_to: absolute(self.write_commitid_to)?,
            write_composejson_to: absolute(self.write_composejson_to)?,
            touch_if_changed: absolute(self.touch_if_changed)?,
            arch: native_architecture()?,
            host_root: absolute(self.source_root)?.unwrap_or_else(|| PathBuf::from("/")),
            timestamp: timestamp()?,
        };
        let options = Options {
            dry_run: self.dry_run,
            download_only: self.download_only,
            cache_only: self.cache_only,
            ..Options::default()
        };
        Ok((compose, options))
    }

    /// What cannot be asked, or not together.
    fn check(&self) -> Result<(), Failure> {
        not_available(self.workdir_tmpfs, "--workdir-tmpfs", "give a directory on a tmpfs with --workdir")?;
        not_available(self.layer_repo.is_some(), "--layer-repo", "treefiles have no ostree-layers")?;
        let apt = "set Acquire::http::Proxy in /etc/apt/apt.conf.d";
        not_available(self.proxy.is_some(), "--proxy", apt)?;
        let none = "there are no lock files yet; write NAME=VERSION in the treefile's packages";
        not_available(self.write_lockfile_to.is_some(), "--write-lockfile-to", none)?;
        not_available(!self.lockfile.is_empty(), "--lockfile", none)?;
        not_available(self.lockfile_strict, "--lockfile-strict", none)?;
        if self.treefile.is_none() {
            return usage("TREEFILE must be specified");
        }
        if self.repo.is_none() && !(self.dry_run || self.print_only || self.download_only) {
            return usage("--repo=REPO must be specified");
        }
        if self.repo.is_none() && self.previous_commit.is_some() {
            return usage("--previous-commit needs --repo");
        }
        if self.download_only && self.cachedir.is_none() && self.workdir.is_none() {
            return usage("--download-only needs --cachedir, to keep the packages in");
        }
        if self.no_parent && self.parent.is_some() {
            return usage("Cannot specify both --no-parent and --parent");
        }
        Ok(())
    }
}

pub(crate) fn run(app: &App, args: ComposeArgs) -> Result<ExitCode, Failure> {
    let args = match args.command {
        Compose::Tree(args) => args,
        Compose::DiskImage(args) => return disk_image::run(app, *args),
        Compose::Refused(command) => return command.refuse(),
    };
    let (mut compose, options) = args.options()?;
    app.require_root()?;
    // Before a worker is started for nothing.
    std::fs::metadata(&compose.treefile)
        .map_err(Error::from)
        .context(|| format!("Opening the treefile {}", compose.treefile.display()))?;
    let document = compose.print_only;
    // Otherwise the engine works beside the repository, which a dry run does not touch. Kept until the worker is done.
    let mut scratch = None;
    if compose.workdir.is_none() && !document && (options.dry_run || compose.repo.is_none()) {
        let directory = tempfile::Builder::new().prefix("apt-ostree-").tempdir_in("/var/tmp")?;
        compose.workdir = Some(directory.path().to_owned());
        scratch = Some(directory);
    }
    let request = Request { sysroot: PathBuf::new(), stateroot: None, verb: Verb::ComposeTree(compose), options };
    let (report, _) = app.work(request, document)?;
    drop(scratch);
    app.say_lines(&report, document);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        tree: TreeArgs,
    }

    fn parse(text: &str) -> Result<(ComposeTree, Options), Failure> {
        Line::try_parse_from(std::iter::once("tree").chain(text.split_whitespace())).unwrap().tree.options()
    }

    #[test]
    fn the_options_of_a_compose() {
        let (compose, options) = parse(
            "--unified-core --repo /r --cachedir=/c --add-metadata-string a.b=c=d --parent x --strict-var --cache-only \
             --previous-version 13.2 --source-root /s /t.yaml",
        )
        .unwrap();
        let expected = ComposeTree {
            treefile: "/t.yaml".into(),
            repo: Some("/r".into()),
            cachedir: Some("/c".into()),
            add_metadata_string: vec![("a.b".into(), "c=d".into())],
            parent: Some("x".into()),
            previous_version: Some("13.2".into()),
            strict_var: true,
            host_root: "/s".into(),
            ..ComposeTree { arch: compose.arch.clone(), timestamp: compose.timestamp, ..ComposeTree::default() }
        };
        assert_eq!(compose, expected);
        assert!(options.cache_only && !options.dry_run && !options.download_only);
        for bad in [
            "",
            "/t",
            "--repo /r --add-metadata-string x /t",
            "--repo /r --no-parent --parent y /t",
            "--download-only /t",
            "--dry-run --previous-commit x /t",
        ] {
            assert!(matches!(parse(bad), Err(Failure::Usage(_))), "{bad}");
        }
        for missing in ["--layer-repo /l", "--proxy p", "--lockfile l", "--ex-write-lockfile-to l", "--lockfile-strict"]
        {
            assert!(matches!(parse(&format!("--repo /r {missing} /t")), Err(Failure::Error(_))), "{missing}");
        }
        assert!(parse("--print-only /t").unwrap().0.print_only);
    }
}
