//! `compose tree TREEFILE`: from a treefile and an archive to a commit. Parsed here, done by the engine in a worker.

use std::path::PathBuf;
use std::process::ExitCode;

use apt_ostree_core::operation::Options;
use apt_ostree_core::operation::compose_tree::ComposeTree;
use apt_ostree_core::{Context, Error};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::App;
use crate::args::{Failure, not_available, usage};
use crate::worker::Job;

#[derive(Debug, Args)]
pub(crate) struct ComposeArgs {
    #[command(subcommand)]
    command: Compose,
}

#[derive(Debug, Subcommand)]
enum Compose {
    /// Process a "treefile"; install packages and commit the result to an OSTree repository
    Tree(Box<TreeArgs>),
}

/// Everything `compose tree` was told; paths are absolute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ComposeTreeOptions {
    pub(crate) treefile: PathBuf,
    pub(crate) repo: Option<PathBuf>,
    /// Where layers are imported; the repo itself when absent.
    pub(crate) layer_repo: Option<PathBuf>,
    pub(crate) cachedir: Option<PathBuf>,
    pub(crate) workdir: Option<PathBuf>,
    /// Root that apt sources and variables are read from instead of `/`.
    pub(crate) source_root: Option<PathBuf>,
    /// Commit even if the inputs are those of the previous commit.
    pub(crate) force_nocache: bool,
    /// No network.
    pub(crate) cache_only: bool,
    pub(crate) download_only: bool,
    pub(crate) proxy: Option<String>,
    /// Resolve, print the list and the download size, stop.
    pub(crate) dry_run: bool,
    /// Print the flattened treefile as JSON, stop.
    pub(crate) print_only: bool,
    pub(crate) touch_if_changed: Option<PathBuf>,
    pub(crate) previous_commit: Option<String>,
    pub(crate) previous_inputhash: Option<String>,
    pub(crate) previous_version: Option<String>,
    pub(crate) add_metadata_string: Vec<(String, String)>,
    pub(crate) add_metadata_from_json: Option<PathBuf>,
    /// Write the checksum here instead of moving the ref.
    pub(crate) write_commitid_to: Option<PathBuf>,
    pub(crate) write_composejson_to: Option<PathBuf>,
    pub(crate) no_parent: bool,
    pub(crate) parent: Option<String>,
    pub(crate) write_lockfile_to: Option<PathBuf>,
    pub(crate) lockfiles: Vec<PathBuf>,
    pub(crate) lockfile_strict: bool,
    /// Content of /var that nothing accounts for is an error.
    pub(crate) strict_var: bool,
}

impl ComposeTreeOptions {
    /// The engine's view of it.
    pub(crate) fn to_engine(&self) -> apt_ostree_core::Result<(ComposeTree, Options)> {
        let compose = ComposeTree {
            treefile: self.treefile.clone(),
            repo: self.repo.clone(),
            cachedir: self.cachedir.clone(),
            workdir: self.workdir.clone(),
            print_only: self.print_only,
            force_nocache: self.force_nocache,
            strict_var: self.strict_var,
            add_metadata_string: self.add_metadata_string.iter().map(|(k, v)| format!("{k}={v}")).collect(),
            add_metadata_from_json: self.add_metadata_from_json.clone(),
            parent: self.parent.clone(),
            no_parent: self.no_parent,
            write_commitid_to: self.write_commitid_to.clone(),
            write_composejson_to: self.write_composejson_to.clone(),
            touch_if_changed: self.touch_if_changed.clone(),
            arch: native_architecture()?,
            host_root: self.source_root.clone().unwrap_or_else(|| PathBuf::from("/")),
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
    fn options(self) -> Result<ComposeTreeOptions, Failure> {
        not_available(self.workdir_tmpfs, "--workdir-tmpfs", "give a directory on a tmpfs with --workdir")?;
        let Some(treefile) = self.treefile else {
            return usage("TREEFILE must be specified");
        };
        if self.repo.is_none() && !(self.dry_run || self.print_only || self.download_only) {
            return usage("--repo=REPO must be specified");
        }
        if self.no_parent && self.parent.is_some() {
            return usage("Cannot specify both --no-parent and --parent");
        }
        let mut metadata = Vec::new();
        for pair in self.add_metadata_string {
            match pair.split_once('=') {
                Some((key, value)) if !key.is_empty() => metadata.push((key.to_owned(), value.to_owned())),
                _ => return usage(format!("--add-metadata-string expects KEY=VALUE, not '{pair}'")),
            }
        }
        // The worker runs in the same directory, but a path in an error message should say which file is meant.
        let absolute = |path: Option<PathBuf>| path.map(std::path::absolute).transpose();
        Ok(ComposeTreeOptions {
            treefile: std::path::absolute(treefile)?,
            repo: absolute(self.repo)?,
            layer_repo: absolute(self.layer_repo)?,
            cachedir: absolute(self.cachedir)?,
            workdir: absolute(self.workdir)?,
            source_root: absolute(self.source_root)?,
            force_nocache: self.force_nocache,
            cache_only: self.cache_only,
            download_only: self.download_only,
            proxy: self.proxy,
            dry_run: self.dry_run,
            print_only: self.print_only,
            touch_if_changed: absolute(self.touch_if_changed)?,
            previous_commit: self.previous_commit,
            previous_inputhash: self.previous_inputhash,
            previous_version: self.previous_version,
            add_metadata_string: metadata,
            add_metadata_from_json: absolute(self.add_metadata_from_json)?,
            write_commitid_to: absolute(self.write_commitid_to)?,
            write_composejson_to: absolute(self.write_composejson_to)?,
            no_parent: self.no_parent,
            parent: self.parent,
            write_lockfile_to: absolute(self.write_lockfile_to)?,
            lockfiles: self.lockfile.into_iter().map(std::path::absolute).collect::<Result<_, _>>()?,
            lockfile_strict: self.lockfile_strict,
            strict_var: self.strict_var,
        })
    }
}

pub(crate) fn run(app: &App, args: ComposeArgs) -> Result<ExitCode, Failure> {
    let Compose::Tree(args) = args.command;
    let options = args.options()?;
    app.require_root()?;
    // Before a worker is started for nothing.
    std::fs::metadata(&options.treefile)
        .map_err(Error::from)
        .context(|| format!("Opening the treefile {}", options.treefile.display()))?;
    let document = options.print_only;
    let dry_run = options.dry_run;
    let report = app.work(&Job::ComposeTree(Box::new(options)), document)?;
    if document || !app.terminal.is_quiet() {
        report.lines.iter().for_each(|line| app.terminal.line(line));
    }
    if let Some(plan) = &report.plan {
        app.terminal.print(&crate::render::plan(plan));
        if dry_run {
            app.terminal.line("Exiting because of '--dry-run' option");
        }
    }
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

    fn parse(text: &str) -> Result<ComposeTreeOptions, Failure> {
        Line::try_parse_from(std::iter::once("tree").chain(text.split_whitespace())).unwrap().tree.options()
    }

    #[test]
    fn the_options_of_a_compose() {
        let options = parse(
            "--unified-core --repo /r --cachedir=/c --add-metadata-string a.b=c=d --parent x --strict-var \
             --ex-lockfile /l1 --lockfile /l2 /t.yaml",
        )
        .unwrap();
        assert_eq!(
            options,
            ComposeTreeOptions {
                treefile: "/t.yaml".into(),
                repo: Some("/r".into()),
                cachedir: Some("/c".into()),
                add_metadata_string: vec![("a.b".into(), "c=d".into())],
                parent: Some("x".into()),
                strict_var: true,
                lockfiles: vec!["/l1".into(), "/l2".into()],
                ..ComposeTreeOptions::default()
            }
        );
        for bad in ["", "/t", "--repo /r --add-metadata-string x /t", "--repo /r --no-parent --parent y /t"] {
            assert!(matches!(parse(bad), Err(Failure::Usage(_))), "{bad}");
        }
        assert!(parse("--print-only /t").unwrap().print_only);
    }
}
