//! The command line of a worker process, for the service and for a program that works without it.
//!
//! Under systemd the service starts each worker as a unit of its own, so that the worker has none of the service's
//! restrictions, its memory is limited, stopping the unit ends everything that was started in it, and it goes down with the
//! service (`BindsTo=`). Elsewhere the worker is a child that leads a process group.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use apt_ostree_core::sysroot::bootloader;
use apt_ostree_core::{Context, Result};
use tempfile::TempPath;

/// Read by libostree: the program that writes GRUB's menu.
const MENU_GENERATOR: &str = "OSTREE_GRUB2_EXEC";

/// Before the last line of a unit: how systemd says that it ended (systemd.exec(5), `$SERVICE_RESULT`).
pub(crate) const RESULT: &str = "apt-ostree-unit-result=";

/// A worker's command, and what must live as long as the worker.
#[derive(Debug)]
pub struct Launch {
    pub command: Command,
    /// A copy of the menu generator, deleted with this value.
    pub generator: Option<TempPath>,
}

/// The program as a worker.
pub fn worker(program: &Path) -> Result<Launch> {
    // unshare(1) becomes the worker by exec, so the process started here is the worker.
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.arg("worker");
    let generator = name_menu_generator(&mut command)?;
    Ok(Launch { command, generator })
}

/// The same in a unit that ends with `service`.
pub(crate) fn worker_unit(program: &Path, unit: &str, service: &str, title: &str) -> Result<Launch> {
    let inner = worker(program)?;
    let mut command = Command::new("systemd-run");
    command.args(["--pipe", "--wait", "--collect", "--quiet", "--service-type=exec", "--expand-environment=no"]);
    command.arg(format!("--unit={unit}")).arg(format!("--description=apt-ostree transaction: {title}"));
    // Not more than the machine can spare, and a stop that a hanging script cannot hold up.
    command.args(["--property=MemoryMax=80%", "--property=TimeoutStopSec=10"]);
    // systemd alone knows that memory ran out, and forgets the unit at once; this goes where the worker's lines go.
    command.arg(format!("--property=ExecStopPost=/usr/bin/echo {RESULT}${{SERVICE_RESULT}}"));
    command.arg(format!("--property=BindsTo={service}")).arg(format!("--property=After={service}"));
    for (key, value) in inner.command.get_envs() {
        if let Some(value) = value {
            command.arg(format!("--setenv={}={}", key.to_string_lossy(), value.to_string_lossy()));
        }
    }
    // A drop-in of the service says by which way the network is reached, and it is the worker that downloads.
    for (name, value) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.to_ascii_lowercase().ends_with("_proxy") {
            command.arg(format!("--setenv={name}={}", value.to_string_lossy()));
        }
    }
    command.arg("--").arg(inner.command.get_program()).args(inner.command.get_args());
    Ok(Launch { command, generator: inner.generator })
}

/// Whether systemd manages this machine.
pub(crate) fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Tells libostree in the worker what writes GRUB's menu, by the environment, which is all it listens to. One that is
/// named already stays; else the installed one, else a copy of the one in this program: a sysroot in a directory gets
/// its menu on machines that have no GRUB.
fn name_menu_generator(command: &mut Command) -> Result<Option<TempPath>> {
    if std::env::var_os(MENU_GENERATOR).is_some() {
        return Ok(None);
    }
    // Otherwise libostree sends what the generator says to nowhere.
    command.env("OSTREE_DEBUG_GRUB2", "1");
    if Path::new(bootloader::GENERATOR_PATH).exists() {
        command.env(MENU_GENERATOR, bootloader::GENERATOR_PATH);
        return Ok(None);
    }
    let mut file = tempfile::Builder::new()
        .prefix("apt-ostree-grub-config-")
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempfile()
        .context(|| "Making a temporary file")?;
    file.write_all(bootloader::GENERATOR.as_bytes()).context(|| "Writing a temporary file")?;
    // A program that is open for writing cannot be started.
    let path = file.into_temp_path();
    command.env(MENU_GENERATOR, &path);
    Ok(Some(path))
}
