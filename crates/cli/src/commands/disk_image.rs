//! `compose disk-image REF OUT`: a commit as a disk that a machine starts from.

use std::path::PathBuf;
use std::process::ExitCode;

use apt_ostree_core::disk::filesystem::Filesystem;
use apt_ostree_core::disk::settings::User;
use apt_ostree_core::operation::disk_image::{DiskImage, Format};
use apt_ostree_core::operation::{Options, Request, Verb};
use apt_ostree_core::{Context, Error};
use clap::{Args, ValueEnum};

use super::App;
use super::init_sysroot::RemoteArgs;
use crate::args::{Failure, usage};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatArg {
    Raw,
    Qcow2,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FilesystemArg {
    Ext4,
    Btrfs,
    Xfs,
}

#[derive(Debug, Args)]
#[command(override_usage = "apt-ostree compose disk-image [OPTIONS] --repo=REPO REF OUT")]
pub(crate) struct DiskImageArgs {
    /// Branch of the repository
    #[arg(value_name = "REF")]
    reference: Option<String>,
    /// File to write
    #[arg(value_name = "OUT")]
    output: Option<PathBuf>,
    /// Path to OSTree repository
    #[arg(short, long, value_name = "REPO")]
    repo: Option<PathBuf>,
    /// Format of the disk
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "raw")]
    format: FormatArg,
    /// Size of the disk, with K, M, G or T [default: 8G, or twice what the tree needs]
    #[arg(long, value_name = "SIZE")]
    size: Option<String>,
    /// File system of the root
    #[arg(long, value_enum, value_name = "TYPE", default_value = "ext4")]
    filesystem: FilesystemArg,
    /// Kernel argument, besides root=
    #[arg(long, value_name = "KEY=VALUE")]
    karg: Vec<String>,
    /// Name of the machine
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Make an account that may become root with sudo
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Let the owner of this public key log in as the user
    #[arg(long, value_name = "FILE")]
    ssh_key: Vec<PathBuf>,
    /// Password of the user, as crypt(5) has it
    #[arg(long, value_name = "HASH")]
    password_hash: Option<String>,
    #[command(flatten)]
    remote: RemoteArgs,
    /// Stateroot of the machine
    #[arg(long, value_name = "STATEROOT", default_value = "debian")]
    stateroot: String,
    /// Replace OUT
    #[arg(long)]
    force: bool,
}

/// Bytes of `8G`, `512M`, `1048576`.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor: u64 = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KIB" => 1 << 10,
        "M" | "MIB" => 1 << 20,
        "G" | "GIB" => 1 << 30,
        "T" | "TIB" => 1 << 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

impl DiskImageArgs {
    fn image(self) -> Result<DiskImage, Failure> {
        let (Some(reference), Some(output)) = (self.reference.filter(|r| !r.is_empty()), self.output) else {
            return usage("REF and OUT must be specified");
        };
        let Some(repo) = self.repo else {
            return usage("--repo=REPO must be specified");
        };
        let size = match self.size.as_deref().map(|text| (text, bytes(text))) {
            None => None,
            Some((_, Some(size))) => Some(size),
            Some((text, None)) => return usage(format!("--size expects a number with K, M, G or T, not '{text}'")),
        };
        let remote = self.remote.name_and_url()?;
        if remote.is_none() && self.remote.says_whom_to_trust() {
            return usage("--gpg-import and --no-gpg-verify need --remote");
        }
        if self.user.is_none() && (!self.ssh_key.is_empty() || self.password_hash.is_some()) {
            return usage("--ssh-key and --password-hash need --user");
        }
        if self.user.is_some() && self.ssh_key.is_empty() && self.password_hash.is_none() {
            return usage("--user needs --ssh-key or --password-hash: nobody could log in otherwise");
        }
        let read = |path: &PathBuf| -> apt_ostree_core::Result<String> {
            let text = std::fs::read_to_string(path).context(|| format!("Reading the key {}", path.display()))?;
            if text.contains("PRIVATE KEY") {
                return Err(Error::usage(format!("{} is a private key", path.display()))
                    .hint("Give the public one, FILE.pub; the private one stays with its owner."));
            }
            Ok(text)
        };
        let keys = self.ssh_key.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(DiskImage {
            repo: std::path::absolute(repo)?,
            reference,
            output: std::path::absolute(output)?,
            format: match self.format {
                FormatArg::Raw => Format::Raw,
                FormatArg::Qcow2 => Format::Qcow2,
            },
            filesystem: match self.filesystem {
                FilesystemArg::Ext4 => Filesystem::Ext4,
                FilesystemArg::Btrfs => Filesystem::Btrfs,
                FilesystemArg::Xfs => Filesystem::Xfs,
            },
            size,
            kargs: self.karg,
            hostname: self.hostname,
            user: self.user.map(|name| User { name, keys, password_hash: self.password_hash }),
            remote,
            gpg_keys: self.remote.keys()?,
            no_gpg_verify: self.remote.no_gpg_verify,
            force: self.force,
        })
    }
}

pub(crate) fn run(app: &App, args: DiskImageArgs) -> Result<ExitCode, Failure> {
    let stateroot = Some(args.stateroot.clone());
    let image = args.image()?;
    app.require_root()?;
    let follows = image.remote.is_some();
    let request =
        Request { sysroot: PathBuf::new(), stateroot, verb: Verb::DiskImage(image), options: Options::default() };
    let (report, _) = app.work(request, false)?;
    app.say_lines(&report, false);
    if !follows && !app.terminal.is_quiet() {
        app.terminal.line("The machine follows no remote; give it one with --remote, or later with rebase.");
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
        image: DiskImageArgs,
    }

    fn parse(text: &str) -> Result<DiskImage, Failure> {
        Line::try_parse_from(std::iter::once("disk-image").chain(text.split_whitespace())).unwrap().image.image()
    }

    #[test]
    fn the_options_of_an_image() {
        let image = parse(
            "--repo /r --format qcow2 --filesystem xfs --size 10G --karg a --karg b=c --hostname h --user me \
             --password-hash x --remote o=http://u --no-gpg-verify --force debian/13 /out",
        )
        .unwrap();
        let expected = DiskImage {
            repo: "/r".into(),
            reference: "debian/13".into(),
            output: "/out".into(),
            format: Format::Qcow2,
            filesystem: Filesystem::Xfs,
            size: Some(10 << 30),
            kargs: vec!["a".into(), "b=c".into()],
            hostname: Some("h".into()),
            user: Some(User { name: "me".into(), keys: Vec::new(), password_hash: Some("x".into()) }),
            remote: Some(("o".into(), "http://u".into())),
            gpg_keys: Vec::new(),
            no_gpg_verify: true,
            force: true,
        };
        assert_eq!(image, expected);
        for bad in [
            "--repo /r",
            "--repo /r ref",
            "ref /out",
            "--repo /r --size x ref /out",
            "--repo /r --size 99999999999T ref /out",
            "--repo /r --remote x ref /out",
            "--repo /r --no-gpg-verify ref /out",
            "--repo /r --user me ref /out",
            "--repo /r --password-hash x ref /out",
        ] {
            assert!(matches!(parse(bad), Err(Failure::Usage(_))), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes("8G"), Some(8 << 30));
        assert_eq!(bytes("512MiB"), Some(512 << 20));
        assert_eq!(bytes("4096"), Some(4096));
        for bad in ["", "G", "1X", "1.5G", "-1"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_private_key_is_not_for_an_image() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("id");
        std::fs::write(&key, "-----BEGIN OPENSSH PRIVATE KEY-----\n").unwrap();
        let line = format!("--repo /r --user me --ssh-key {} ref /out", key.display());
        assert!(matches!(parse(&line), Err(Failure::Error(e)) if e.to_string().contains("private key")));
    }
}
