//! docs/commands.md says of every command and option of rpm-ostree what became of it; here it is compared with the parser.

use std::collections::{BTreeMap, BTreeSet};

use clap::{ArgAction, Command, CommandFactory};

use crate::args::Cli;
use crate::start::NAME;

const PAGE: &str = include_str!("../../../docs/commands.md");

/// What a row can say. A command that is `not yet` may come from one day to the next: the row is then to be written.
const STATUS: &[&str] = &["same", "differs", "added", "ignored", "refused", "not yet"];

/// Names of a command with their options: aliases of commands, and options as `--long` and `-s`.
type Contract = BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)>;

/// Everything that the parser knows, hidden or not.
fn parser() -> Contract {
    fn add(command: &Command, path: &str, inherited: &BTreeSet<String>, contract: &mut Contract) {
        let mut options = BTreeSet::new();
        let mut global = inherited.clone();
        for arg in command.get_arguments().filter(|a| !a.is_positional()) {
            // Every command has it.
            if matches!(arg.get_action(), ArgAction::Help) {
                continue;
            }
            let long = arg.get_long_and_visible_aliases().unwrap_or_default();
            let hidden = arg.get_all_aliases().unwrap_or_default();
            let names = long.iter().chain(&hidden).map(|name| format!("--{name}"));
            let names: BTreeSet<String> = names.chain(arg.get_short().map(|c| format!("-{c}"))).collect();
            // One of the command's own may have the name of one that every command takes.
            if arg.is_global_set() && names.iter().all(|name| inherited.contains(name)) {
                continue;
            }
            if arg.is_global_set() {
                global.extend(names.iter().cloned());
            }
            options.extend(names);
        }
        let aliases = command.get_all_aliases().map(str::to_owned).collect();
        contract.insert(path.to_owned(), (aliases, options));
        for sub in command.get_subcommands() {
            let path = if path == NAME { sub.get_name().to_owned() } else { format!("{path} {}", sub.get_name()) };
            add(sub, &path, &global, contract);
        }
    }
    let mut command = Cli::command();
    command.build();
    let mut contract = Contract::new();
    add(&command, NAME, &BTreeSet::new(), &mut contract);
    contract
}

/// The words in backquotes.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// What the page says, and the commands in it that are not yet there.
fn page() -> (Contract, BTreeSet<String>) {
    let (mut contract, mut coming) = (Contract::new(), BTreeSet::new());
    for line in PAGE.lines().filter(|l| l.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [names, options, status, difference] = cells[..] else { panic!("four cells are wanted: {line}") };
        assert!(STATUS.contains(&status), "status '{status}' in {line}");
        assert!(status == "same" || !difference.is_empty(), "what is the difference? {line}");
        let names = quoted(names);
        let known = contract.entry(names[0].to_owned()).or_default();
        known.0.extend(names[1..].iter().map(ToString::to_string));
        for word in quoted(options).iter().flat_map(|o| o.split_whitespace()) {
            let word = word.split('=').next().unwrap_or_default().to_owned();
            assert!(word.starts_with('-') && known.1.insert(word.clone()), "{word} in {line}");
        }
        if status == "not yet" && options.is_empty() {
            coming.insert(names[0].to_owned());
        }
    }
    (contract, coming)
}

#[test]
fn the_page_and_the_parser_know_the_same() {
    let (parser, (page, coming)) = (parser(), page());
    let mut wrong = Vec::new();
    for name in parser.keys().chain(page.keys()).collect::<BTreeSet<_>>() {
        if coming.contains(name) {
            continue;
        }
        match (parser.get(name), page.get(name)) {
            (Some(_), None) => wrong.push(format!("docs/commands.md has no `{name}`")),
            (None, Some(_)) => wrong.push(format!("docs/commands.md has `{name}`, the parser has not")),
            (Some(real), Some(said)) => {
                for (kind, real, said) in [("alias", &real.0, &said.0), ("option", &real.1, &said.1)] {
                    let missing =
                        real.difference(said).map(|x| format!("`{name}`: {kind} {x} is not in docs/commands.md"));
                    wrong.extend(missing);
                    wrong.extend(said.difference(real).map(|x| format!("`{name}`: no such {kind} {x}")));
                }
            }
            (None, None) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Lines of the documentation that begin with the program, as a shell would split them.
fn command_lines(page: &str) -> Vec<Vec<String>> {
    let mut lines: Vec<String> = Vec::new();
    let mut continued = false;
    for line in page.lines() {
        let text = line.trim();
        if continued {
            let last = lines.last_mut().expect("a line that goes on");
            *last = format!("{} {}", last.trim_end_matches('\\').trim_end(), text);
        } else {
            // Code is indented; `#` and `$` are prompts.
            let Some(code) = line.strip_prefix("    ") else { continue };
            let code = code.trim_start_matches(['#', '$', ' ']);
            let code =
                code.rsplit_once("$ ").filter(|(prompt, _)| prompt.ends_with(":~")).map_or(code, |(_, code)| code);
            let code = code.strip_prefix("sudo ").unwrap_or(code);
            if !code.starts_with("apt-ostree ") {
                continue;
            }
            lines.push(code.to_owned());
        }
        continued = text.ends_with('\\');
    }
    lines.iter().map(|line| split(line)).collect()
}

fn split(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in line.chars().chain([' ']) {
        match (c, quote) {
            (c, Some(q)) if c == q => quote = None,
            ('\'' | '"', None) => quote = Some(c),
            (' ', None) => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            // What a shell does with the output, or says of it.
            ('|' | '>' | ';' | '&', None) if word.is_empty() => break,
            (c, _) => word.push(c),
        }
    }
    words
}

#[test]
fn commands_in_the_documentation_are_commands() {
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let pages = std::fs::read_dir(docs).unwrap().map(|entry| entry.unwrap().path());
    let mut count = 0;
    for page in pages.filter(|p| p.extension().is_some_and(|e| e == "md")) {
        for line in command_lines(&std::fs::read_to_string(&page).unwrap()) {
            // `…` stands for anything.
            if line.iter().any(|word| word.contains('…')) {
                continue;
            }
            count += 1;
            if let Err(e) = <Cli as clap::Parser>::try_parse_from(&line) {
                assert_eq!(
                    e.kind(),
                    clap::error::ErrorKind::DisplayHelp,
                    "{}: {}: {e}",
                    page.display(),
                    line.join(" ")
                );
            }
        }
    }
    assert!(count > 60, "only {count} lines were found");
}

/// What programs written for rpm-ostree pass, each with its options in the order of its source: MCO and rpmostree-client-go, Zincati,
/// Ansible, GNOME Software, Discover, TuneD, kdumpctl, greenboot, uupd, osbuild, coreos-assembler, and scripts.
const CLIENT_LINES: &str = "
    status
    status --json
    status --json --booted
    status --booted --json
    status -b -v
    status -J $.deployments[0].staged
    status -b -J $.deployments[0].staged
    status --jsonpath=$.deployments[0].staged
    status --pending-exit-77
    upgrade
    upgrade --os debian --cache-only --allow-downgrade --peer
    upgrade --check
    upgrade --preview
    update --check
    update --preview
    update --install p --install q --uninstall r --uninstall s
    deploy \"\" --register-driver=Zincati
    deploy --lock-finalization --skip-branch-check --disallow-downgrade revision=abc
    deploy --lock-finalization --disallow-downgrade revision=sha256:abc
    rebase fedora:fedora/43/x86_64/silverblue
    rebase fedora/43/x86_64/silverblue
    rebase :local-branch
    rebase --experimental ostree-unverified-registry:quay.io/x/y:z
    rebase --experimental ostree-unverified-image:oci:/path:tag
    rebase --experimental ostree-unverified-image:containers-storage:sha256:abc
    rebase --reboot ostree-image-signed:docker://ghcr.io/x/y:z
    rebase --lock-finalization --disallow-downgrade remote:branch 0123
    rollback
    finalize-deployment 0123
    finalize-deployment sha256:0123
    cleanup -p
    cleanup -r
    cleanup -m
    cleanup -rpmb
    install --allow-inactive --idempotent --unchanged-exit-77 p q
    install --apply-live --assumeyes --allow-inactive --idempotent --unchanged-exit-77 p
    install -y -C p
    install --cache-only --reboot ./p.deb
    install https://example.org/p.deb
    install p --uninstall q
    uninstall --allow-inactive --idempotent --unchanged-exit-77 p
    uninstall -y p --install q
    override remove p q --install r
    override remove p --install r --install s
    override reset p --uninstall q
    override reset p q --uninstall r
    override replace --experimental --from repo=copr:x p q
    override replace ./p.deb ./q.deb
    reset
    apply-live --allow-replacement
    kargs
    kargs --append=a=b --append c=d --append-if-missing=e --delete=f --delete-if-present=g=h --replace=i=j
    kargs --delete-if-present=a --delete-if-present=b --append=a --append=c
    kargs --delete=crashkernel=128M
    kargs --replace=crashkernel=256M
    initramfs --enable
    reload
    cancel
    db list 0123
    db list --repo /srv/repo 0123
    db diff
    db diff --changelogs --format=block 0123 4567
    db diff -c 0123 4567
    db diff --format=json --repo /srv/repo 0123 4567
    compose commit --repo=r --parent=p --add-metadata-string=version=1 --write-composejson-to=f t root
    compose postprocess tree t
    compose container-encapsulate 0123 oci-archive:x --format-version 1 --repo r --cmd c --copymeta n --label l --max-layers 9
    compose extensions t e
    cliwrap install-to-root /
";

#[test]
fn command_lines_of_clients_are_understood() {
    for line in CLIENT_LINES.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let words =
            std::iter::once("rpm-ostree".to_owned()).chain(split(line).into_iter().map(|word| match word.as_str() {
                "\"\"" => String::new(),
                _ => word,
            }));
        if let Err(e) = <Cli as clap::Parser>::try_parse_from(words) {
            panic!("{line}: {e}");
        }
    }
}
