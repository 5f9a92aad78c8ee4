//! `internals man`: a page for every command that is for people, of the definitions of the command line and of what is here.

use std::fmt::Write as _;
use std::path::Path;

use apt_ostree_core::{Context, Result};
use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::args::Cli;
use crate::start::NAME;

/// Command, example without the program's name, what it does.
const EXAMPLES: &[(&str, &str, &str)] = &[
    ("", "status", "shows the deployments"),
    ("", "install htop", "layers a package; it is there after the next boot"),
    ("", "upgrade", "moves to the newest base and the newest layered packages"),
    ("", "rollback", "goes back to the previous deployment"),
    ("status", "status --json", "the deployments as a document"),
    ("status", "status --jsonpath '$.deployments[0].requested-packages'", "what the next boot has layered"),
    ("install", "install htop vim=2:9.1.1230-2 git/trixie-backports", "by name, by version and from a suite"),
    ("install", "install libc6:i386", "of a foreign architecture"),
    ("install", "install ./kit_1.0_amd64.deb", "a local package"),
    ("install", "install --apply-live --assumeyes htop", "on the running system as well"),
    ("install", "install --dry-run htop", "only shows what would be done"),
    ("uninstall", "uninstall htop", "drops the request"),
    ("uninstall", "uninstall --all", "drops every request"),
    ("upgrade", "upgrade --check", "whether there is an update; exit status 77 if not"),
    ("upgrade", "upgrade --preview", "what would change"),
    ("upgrade", "upgrade --reboot", "upgrades and restarts"),
    ("deploy", "deploy version=13.10", "a version of the branch, until the next upgrade"),
    ("rebase", "rebase debian:debian/14/amd64/minimal", "another branch of the remote debian"),
    ("rebase", "rebase --branch debian/14/amd64/minimal", "another branch of the same remote"),
    ("cleanup", "cleanup --pending", "drops the pending deployment"),
    ("cleanup", "cleanup --base --repomd", "drops temporary files and package lists"),
    ("kargs", "kargs", "shows the kernel arguments"),
    ("kargs", "kargs --append-if-missing=quiet --delete-if-present=debug", "changes some for the next boot"),
    ("initramfs", "initramfs --enable --arg=--add --arg=nfs", "an initramfs made here, with a module of dracut"),
    ("initramfs-etc", "initramfs-etc --track /etc/crypttab", "a file of /etc in the initramfs"),
    ("override remove", "override remove nano", "takes a package out of the base"),
    ("override replace", "override replace ./kit_1.0_amd64.deb", "by a local package"),
    ("override replace", "override replace --from suite=trixie-backports linux-image-amd64", "from another suite"),
    ("override reset", "override reset --all", "the base as it was composed"),
    ("apply-live", "apply-live", "brings added packages to the running system"),
    ("apply-live", "apply-live --reset", "undoes that"),
    ("usroverlay", "usroverlay", "a writable /usr until the next boot"),
    ("search", "search 'text editor'", "a phrase in the description"),
    ("search", "search 'lib*-dev'", "a pattern for the whole name"),
    ("list", "list --upgradable", "what the archives have newer"),
    ("history", "history --all", "every record"),
    ("db diff", "db diff", "what the next boot changes"),
    ("db diff", "db diff --changelogs --format=block", "with changelogs"),
    ("db list", "db list debian:debian/13/amd64/minimal 'linux-*'", "packages of a branch by pattern"),
    ("compose tree", "compose tree --repo=repo --cachedir=cache minimal.yaml", "composes and commits"),
    ("compose tree", "compose tree --print-only minimal.yaml", "the treefile with all that it includes"),
    (
        "compose disk-image",
        "compose disk-image --repo=repo --size=8G --user debian --ssh-key key.pub debian/13/amd64/minimal disk.img",
        "a disk with a user",
    ),
    (
        "init-sysroot",
        "--sysroot=sysroot init-sysroot --pull-local=repo debian/13/amd64/minimal",
        "a system in a directory, of a local repository",
    ),
];

/// Paths that the pages name.
const FILES: &[(&str, &str)] = &[
    ("/etc/apt-ostreed.conf", "settings of the machine"),
    ("/etc/apt/", "sources, preferences and keyrings, as for apt(8)"),
    ("/etc/apt-ostree/health.d/, /usr/lib/apt-ostree/health.d/", "health checks"),
    ("/etc/apt-ostree/quirks.d/", "rules for packages whose scripts need help"),
    ("/ostree/repo/extensions/apt-ostree/", "package lists, logs, local packages"),
    ("/var/lib/apt-ostree/", "history, reports of boots"),
    ("/usr/share/doc/apt-ostree/", "guides, and examples of treefiles"),
];

/// Writes every page into a directory.
pub(crate) fn write(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).context(|| format!("Creating {}", dir.display()))?;
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    page(&root, "", dir).context(|| format!("Writing man pages to {}", dir.display()))
}

fn page(command: &Command, path: &str, dir: &Path) -> Result<()> {
    let title = if path.is_empty() { NAME.to_owned() } else { format!("{NAME}-{}", path.replace(' ', "-")) };
    let man = Man::new(command.clone().display_name(title.clone()));
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    let subcommands: Vec<&Command> = command.get_subcommands().filter(|sub| !sub.is_hide_set()).collect();
    if !subcommands.is_empty() {
        man.render_subcommands_section(&mut text)?;
    }
    text.extend(sections(command, path).into_bytes());
    std::fs::write(dir.join(format!("{title}.1")), text)?;
    for sub in subcommands {
        let path = if path.is_empty() { sub.get_name().to_owned() } else { format!("{path} {}", sub.get_name()) };
        page(sub, &path, dir)?;
    }
    Ok(())
}

/// What the definitions do not say.
fn sections(command: &Command, path: &str) -> String {
    let mut text = String::new();
    let examples: Vec<_> = EXAMPLES.iter().filter(|(of, ..)| *of == path).collect();
    if !examples.is_empty() {
        text += ".SH EXAMPLES\n";
        for (_, line, what) in examples {
            let _ = write!(text, ".TP\n{}\n{}\n", escape(&format!("{NAME} {line}")), escape(what));
        }
    }
    text += ".SH \"EXIT STATUS\"\n.TP\n0\ndone, or nothing to do\n.TP\n1\nan error; its text is on stderr\n";
    if let Some(when) = exit_77(command) {
        let _ = write!(text, ".TP\n77\n{}\n", escape(&when));
    }
    if path.is_empty() {
        text += ".SH FILES\n";
        for (path, what) in FILES {
            let _ = write!(text, ".TP\n{}\n{}\n", escape(path), escape(what));
        }
    }
    text += ".SH \"SEE ALSO\"\n";
    text += &see_also(path)
        .iter()
        .map(|(name, section)| format!("\\fB{}\\fR({section})", escape(name)))
        .collect::<Vec<_>>()
        .join(",\n");
    text.push('\n');
    text
}

/// When the command ends with 77: by the options that it has.
fn exit_77(command: &Command) -> Option<String> {
    let has = |name: &str| command.get_arguments().any(|arg| arg.get_long() == Some(name));
    let mut cases = Vec::new();
    if has("unchanged-exit-77") {
        cases.push("nothing changed, with --unchanged-exit-77");
    }
    if has("check") {
        cases.push("there is no update, with --check or --preview");
    }
    if has("pending-exit-77") {
        cases.push("a deployment is pending, with --pending-exit-77");
    }
    (!cases.is_empty()).then(|| cases.join("; "))
}

/// The page above, those that are about the same thing, and the tools underneath.
fn see_also(path: &str) -> Vec<(String, u8)> {
    const RELATED: &[(&str, &[&str])] = &[
        ("install", &["uninstall", "search", "list", "apply-live"]),
        ("uninstall", &["install", "override-remove"]),
        ("upgrade", &["deploy", "rebase", "rollback", "health"]),
        ("deploy", &["upgrade", "rebase"]),
        ("rebase", &["upgrade", "deploy"]),
        ("rollback", &["status", "history"]),
        ("status", &["history", "db-diff"]),
        ("override", &["reset", "install"]),
        ("reset", &["override-reset", "uninstall"]),
        ("initramfs", &["initramfs-etc", "kargs"]),
        ("initramfs-etc", &["initramfs"]),
        ("search", &["info", "list", "refresh-md"]),
        ("info", &["search", "list"]),
        ("list", &["search", "info", "db-list"]),
        ("apply-live", &["usroverlay", "install"]),
        ("usroverlay", &["apply-live"]),
        ("compose tree", &["compose-disk-image", "init-sysroot"]),
        ("compose disk-image", &["compose-tree"]),
        ("init-sysroot", &["compose-tree"]),
    ];
    let mut pages: Vec<(String, u8)> = Vec::new();
    if !path.is_empty() {
        pages.push((NAME.to_owned(), 1));
    }
    if let Some((group, _)) = path.rsplit_once(' ') {
        pages.push((format!("{NAME}-{}", group.replace(' ', "-")), 1));
    }
    let related = RELATED.iter().find(|(of, _)| *of == path).map_or(&[][..], |(_, names)| names);
    pages.extend(related.iter().map(|name| (format!("{NAME}-{name}"), 1)));
    pages.push(("ostree".into(), 1));
    pages.push(("apt".into(), 8));
    pages
}

/// A line of text for roff.
fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn every_command_has_a_page_that_leads_to_others() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path()).unwrap();
        let mut names: Vec<String> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        for name in
            ["apt-ostree.1", "apt-ostree-override-remove.1", "apt-ostree-db-diff.1", "apt-ostree-compose-tree.1"]
        {
            assert!(names.contains(&name.to_owned()), "{name} in {names:?}");
        }
        assert!(
            !names.iter().any(|n| n.contains("worker") || n.contains("internals") || n.contains("countme")),
            "{names:?}"
        );
        for name in &names {
            let text = std::fs::read_to_string(dir.path().join(name)).unwrap();
            for section in [".TH", ".SH NAME", ".SH SYNOPSIS", ".SH \"EXIT STATUS\"", ".SH \"SEE ALSO\""] {
                assert!(text.contains(section), "{name} has no {section}");
            }
            let (_, also) = text.split_once(".SH \"SEE ALSO\"").unwrap();
            for page in
                also.split("\\fB").skip(1).filter_map(|p| p.split_once("\\fR(1)")).map(|(p, _)| p.replace("\\-", "-"))
            {
                assert!(page == "ostree" || names.contains(&format!("{page}.1")), "{name} leads to {page}");
            }
        }
    }

    #[test]
    fn examples_are_commands() {
        for (of, line, _) in EXAMPLES {
            let mut words: Vec<String> = vec![NAME.into()];
            let mut quoted = false;
            let mut word = String::new();
            for c in line.chars() {
                match c {
                    '\'' => quoted = !quoted,
                    ' ' if !quoted => words.push(std::mem::take(&mut word)),
                    c => word.push(c),
                }
            }
            words.push(word);
            Cli::try_parse_from(&words).unwrap_or_else(|e| panic!("{line}: {e}"));
            assert!(of.is_empty() || line.contains(of), "{line} is not about {of}");
        }
    }
}
