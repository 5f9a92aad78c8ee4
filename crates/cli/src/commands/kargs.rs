//! `kargs`: shows or changes the kernel arguments of the next deployment.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use apt_ostree_core::model::image_kargs::ImageKarg;
use apt_ostree_core::operation::{KargsChange, Options, Verb};
use apt_ostree_core::sysroot::{Sysroot, without_ostree_karg};
use apt_ostree_core::{Context, Error, Result};
use clap::Args;
use serde_json::json;

use super::{App, StaterootArg, Transaction, UNCHANGED};
use crate::args::{Failure, usage};

#[derive(Debug, Args)]
pub(crate) struct KargsArgs {
    #[command(flatten)]
    stateroot: StaterootArg,
    /// Modify the kernel args from a specific deployment based on index
    #[arg(long, value_name = "INDEX")]
    deploy_index: Option<usize>,
    /// Instead of modifying old kernel arguments, start from /proc/cmdline
    #[arg(long)]
    import_proc_cmdline: bool,
    /// Append kernel argument; useful with e.g. console= that can be used multiple times
    #[arg(long, value_name = "KEY=VALUE")]
    append: Vec<String>,
    /// Replace existing kernel argument; KEY=VALUE=NEWVALUE if it has several values
    #[arg(long, value_name = "KEY=VALUE[=NEWVALUE]")]
    replace: Vec<String>,
    /// Delete a specific kernel argument key/val pair or an entire argument with a single value
    #[arg(long, value_name = "KEY=VALUE")]
    delete: Vec<String>,
    /// Like --append, but does nothing if the key is already present
    #[arg(long, value_name = "KEY=VALUE")]
    append_if_missing: Vec<String>,
    /// Like --delete, but does nothing if the key is already missing
    #[arg(long, value_name = "KEY=VALUE")]
    delete_if_present: Vec<String>,
    /// Use an editor to modify the kernel arguments
    #[arg(long)]
    editor: bool,
    /// If no kernel args changed, exit 77
    #[arg(long)]
    unchanged_exit_77: bool,
    /// Initiate a reboot after operation is complete
    #[arg(long)]
    reboot: bool,
    /// Prevent automatic deployment finalization on shutdown
    #[arg(long)]
    lock_finalization: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
    /// Print one argument a line, and whether the image or the machine brings it
    #[arg(short, long)]
    verbose: bool,
}

impl KargsArgs {
    fn words(&self) -> impl Iterator<Item = &String> {
        [&self.append, &self.replace, &self.delete, &self.append_if_missing, &self.delete_if_present]
            .into_iter()
            .flatten()
    }

    fn check(&self) -> Result<(), Failure> {
        let changes = self.words().next().is_some();
        if self.editor && changes {
            return usage("Cannot specify --editor with --replace, --append, or --delete");
        }
        if !self.delete.is_empty() && !self.replace.is_empty() {
            return usage("Cannot specify both --delete and --replace");
        }
        if self.import_proc_cmdline && self.deploy_index.is_some() {
            return usage("Cannot specify both --import-from-proc-cmdline and --deploy-index");
        }
        if self.import_proc_cmdline && self.stateroot.stateroot.is_some() {
            return usage("Cannot specify both --stateroot and --import-from-proc-cmdline");
        }
        if self.reboot && !changes && !self.editor {
            return usage("Cannot use --reboot without any change of kernel arguments");
        }
        match self.words().find(|w| w.split('=').next() == Some("ostree")) {
            Some(word) => refuse_ostree(word),
            None => Ok(()),
        }
    }
}

/// libostree writes this argument itself, one per deployment.
fn refuse_ostree(word: &str) -> Result<(), Failure> {
    Err(Error::usage(format!("The argument '{word}' is managed by OSTree and cannot be changed")).into())
}

/// The kernel arguments of a deployment, and those of them that its image brings; without an index, of the one that boots
/// next (of that stateroot).
fn command_line(sysroot: &Path, args: &KargsArgs) -> Result<(String, Vec<ImageKarg>)> {
    let sysroot = Sysroot::open(sysroot)?;
    let deployment = match (args.deploy_index, &args.stateroot.stateroot) {
        (Some(index), _) => sysroot.deployment_at(index)?,
        (None, Some(stateroot)) => sysroot.pending(stateroot)?,
        (None, None) => sysroot.deployment_at(0)?,
    };
    let line = deployment.kernel_command_line();
    let mut image = sysroot.repo().image_kargs(&deployment.checksum())?;
    image.retain(|i| line.split_ascii_whitespace().any(|word| word == i.karg));
    Ok((line, image))
}

fn show(app: &App, args: &KargsArgs, line: &str, image: &[ImageKarg]) {
    if args.json {
        let image: Vec<_> = image.iter().map(|i| (&i.karg, &i.file)).collect();
        app.print_json(&json!({ "kargs": line, "image-kargs": image }));
    } else if args.verbose {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let width = words.iter().map(|w| w.len()).max().unwrap_or(0);
        for word in words {
            let file = image.iter().find(|i| i.karg == word);
            let source = file.map_or_else(|| "machine".to_owned(), |i| format!("image ({})", i.file));
            app.terminal.line(&format!("{word:<width$}  {source}"));
        }
    } else {
        app.terminal.line(line);
    }
}

pub(crate) fn run(app: &App, args: KargsArgs) -> Result<ExitCode, Failure> {
    args.check()?;
    let sysroot = app.sysroot()?;
    let changes = args.words().next().is_some();
    let mut change = KargsChange {
        deploy_index: args.deploy_index,
        import_proc_cmdline: args.import_proc_cmdline,
        ..KargsChange::default()
    };
    if !changes {
        let (line, image) = if args.import_proc_cmdline {
            let line = std::fs::read_to_string("/proc/cmdline").context(|| "Reading /proc/cmdline")?;
            (without_ostree_karg(&line), Vec::new())
        } else {
            command_line(&sysroot, &args)?
        };
        if !args.editor {
            show(app, &args, &line, &image);
            return Ok(ExitCode::SUCCESS);
        }
        let edited = edit(&line)?;
        if edited == line {
            if args.unchanged_exit_77 {
                app.terminal.line("No changes.");
                return Ok(ExitCode::from(UNCHANGED));
            }
            return Err(Error::usage("The kernel arguments remained the same").into());
        }
        if let Some(word) = edited.split(' ').find(|w| w.split('=').next() == Some("ostree")) {
            refuse_ostree(word)?;
        }
        change.set = Some(edited);
        change.expected = Some(line);
    }
    let KargsArgs { append, replace, delete, append_if_missing, delete_if_present, .. } = args;
    let change = KargsChange { append, replace, delete, append_if_missing, delete_if_present, ..change };
    app.transaction(
        Verb::Kargs(change),
        Transaction {
            stateroot: args.stateroot.stateroot,
            options: Options { reboot: args.reboot, lock_finalization: args.lock_finalization, ..Options::default() },
            unchanged_exit_77: args.unchanged_exit_77,
            json: args.json,
            ..Transaction::default()
        },
    )
}

/// Lets the user edit the line, one argument a line, and joins what comes back.
fn edit(line: &str) -> Result<String> {
    let mut text = String::from(
        "# The kernel arguments of the next deployment, as many on a line as you like.\n\
         # Lines that start with '#' are left out. Saving without a change cancels.\n\n",
    );
    for word in line.split_ascii_whitespace() {
        let _ = writeln!(text, "{word}");
    }
    let mut file =
        tempfile::Builder::new().prefix("kargs-").suffix(".txt").tempfile().context(|| "Making a file to edit")?;
    file.write_all(text.as_bytes()).context(|| "Writing the file to edit")?;
    let editor = ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    let editor = editor.unwrap_or_else(|| "editor".into());
    // The variable may hold options: it is a piece of shell, as for every program that starts an editor.
    let status = std::process::Command::new("sh")
        .args(["-c", &format!("{editor} \"$1\""), "sh"])
        .arg(file.path())
        .status()
        .context(|| format!("Starting the editor '{editor}'"))?;
    if !status.success() {
        return Err(Error::failed(format!("The editor '{editor}' failed")).hint("Nothing was changed."));
    }
    // By its path: editors replace the file.
    let edited = std::fs::read_to_string(file.path()).context(|| "Reading the edited file")?;
    let words = edited.lines().filter(|l| !l.trim_start().starts_with('#')).flat_map(str::split_ascii_whitespace);
    Ok(words.collect::<Vec<_>>().join(" "))
}
