//! A disk image as a machine: QEMU with firmware and boot loader, one start for each boot.
//!
//! Every machine writes to an overlay of its own over an image that many share. What runs inside is a shell script on a
//! disk of its own; a unit that systemd takes from the firmware's tables (SMBIOS, systemd.system-credentials(7)) starts
//! it when the system is up, its output comes over a second serial line, and the machine is powered off. QEMU ends with
//! every reset or power-off and is started anew: emulated firmware is slow and sometimes stuck after a warm reset.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use crate::run;
use crate::sysroot::Outcome;

/// How long a machine may take: emulation on a machine that does other work at the same time.
const LIMIT: Duration = Duration::from_secs(600);

/// What starts the boot loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    Uefi,
    /// With Microsoft's keys enrolled, and enforced.
    SecureBoot,
    Bios,
}

/// One machine.
#[derive(Debug)]
pub struct Vm {
    dir: PathBuf,
    firmware: Firmware,
    boots: u32,
}

impl Vm {
    /// A machine with a disk that starts as `image` (raw). `tools` are files and directories that are there inside, read-only and
    /// first in PATH, in [`INSIDE`].
    pub fn new(image: &Path, dir: &Path, firmware: Firmware, tools: &[&Path]) -> Self {
        fs::create_dir_all(dir).expect("a writable directory");
        let vm = Self { dir: dir.to_owned(), firmware, boots: 0 };
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(image).arg(vm.disk());
        run(&mut create);
        if let Some(variables) = vm.variables() {
            fs::copy(Path::new(OVMF).join(variables), dir.join("variables")).expect("the package ovmf");
        }
        let content = dir.join("tools");
        fs::create_dir_all(&content).expect("a writable directory");
        run(Command::new("cp").arg("--archive").args(tools).arg(&content));
        let disk = fs::File::create(dir.join("tools.img")).expect("a writable directory");
        // Sparse: larger than any tool.
        disk.set_len(1 << 30).expect("a sparse file");
        let mut fill = Command::new("mkfs.ext4");
        run(fill.args(["-q", "-F", "-O", "^has_journal", "-d"]).arg(&content).arg(dir.join("tools.img")));
        fs::remove_dir_all(content).expect("a directory that was just made");
        vm
    }

    /// The disk, qcow2.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk.qcow2")
    }

    /// What the last boot wrote to the console: firmware, boot loader, kernel, systemd.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join("console")).unwrap_or_default()).into_owned()
    }

    /// Boots, runs a script once the system is up, and powers off.
    pub fn boot(&mut self, script: &str) -> Outcome {
        let mut child = self.start(script);
        let end = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = child.try_wait().expect("a child of this process") {
                break status;
            }
            if Instant::now() > end {
                child.kill().expect("a child of this process");
                break child.wait().expect("a child of this process");
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        self.outcome(status)
    }

    /// Boots and cuts the power `after` the script has printed `mark` (on a line that begins with it), or, if that does not
    /// come, when the machine ends by itself. Says what the script printed until then.
    pub fn boot_and_cut(&mut self, script: &str, mark: &str, after: Duration) -> Outcome {
        let mut child = self.start(script);
        let end = Instant::now() + LIMIT;
        let mut cut = None;
        loop {
            if let Some(status) = child.try_wait().expect("a child of this process") {
                return self.outcome(status);
            }
            if cut.is_none() && self.output().lines().any(|line| line.starts_with(mark)) {
                cut = Some(Instant::now() + after);
            }
            if Instant::now() > cut.unwrap_or(end) {
                child.kill().expect("a child of this process");
                let status = child.wait().expect("a child of this process");
                return self.outcome(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts the machine and ends it as soon as the boot loader has chosen: the title of the entry that it starts.
    pub fn choice(&mut self) -> String {
        let mut child = self.start("");
        let end = Instant::now() + LIMIT;
        loop {
            let console = self.console();
            if let Some((title, _)) = console.split_once("Booting `").and_then(|(_, rest)| rest.split_once("'\n")) {
                // Not with SIGKILL: what the boot loader wrote to the disk shall be there.
                run(Command::new("kill").arg(child.id().to_string()));
                child.wait().expect("a child of this process");
                return title.to_owned();
            }
            let gone = child.try_wait().expect("a child of this process").is_some();
            if gone || Instant::now() > end {
                let _ = child.kill();
                panic!("the boot loader has started nothing, see {}:\n{console}", self.dir.display());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the script wrote to the second line so far; lines end in CR LF there. Firmware and boot loader write to it before.
    fn output(&self) -> String {
        let text = fs::read(self.dir.join("output")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).replace('\r', "");
        text.split_once(START).map_or_else(String::new, |(_, said)| said.to_owned())
    }

    fn outcome(&self, status: ExitStatus) -> Outcome {
        let text = self.output();
        let (said, code) = match text.trim_end().rsplit_once("status ").map(|(t, n)| (t, n.parse::<i32>())) {
            Some((said, Ok(code))) => (said.to_owned(), Some(code)),
            _ => (text, None),
        };
        let mut command = Command::new("boot");
        command.arg(format!("{} of {}", self.boots, self.dir.display()));
        let mut outcome = Outcome::new(&command, &Output { status, stdout: said.into_bytes(), stderr: Vec::new() });
        outcome.code = code;
        if code != Some(0) && status.signal() != Some(9) {
            let console = self.console();
            let start = console.char_indices().rev().nth(6000).map_or(0, |(at, _)| at);
            outcome.stderr = format!("the end of the console, whole in {}:\n{}", self.dir.display(), &console[start..]);
        }
        outcome
    }

    fn variables(&self) -> Option<&'static str> {
        match self.firmware {
            Firmware::Uefi => Some("OVMF_VARS_4M.fd"),
            Firmware::SecureBoot => Some("OVMF_VARS_4M.ms.fd"),
            Firmware::Bios => None,
        }
    }

    fn start(&mut self, script: &str) -> Child {
        self.boots += 1;
        for name in ["console", "output"] {
            let _ = fs::remove_file(self.dir.join(name));
        }
        // A disk that is a shell script: blocks of 512 bytes, filled up with empty lines.
        let mut text = format!("cd /root\n{script}\n").into_bytes();
        text.resize(text.len().div_ceil(512) * 512, b'\n');
        fs::write(self.dir.join("script"), text).expect("a writable directory");

        let drive = |name: &str, options: &str| format!("if=virtio,file={},{options}", self.dir.join(name).display());
        let flash = |file: &Path, options: &str| format!("if=pflash,format=raw,file={}{options}", file.display());
        let mut command = Command::new("qemu-system-x86_64");
        match self.firmware {
            Firmware::Bios => {
                command.args(["-machine", "q35"]);
            }
            Firmware::Uefi => {
                command.args(["-machine", "q35", "-drive"]);
                command.arg(flash(&Path::new(OVMF).join("OVMF_CODE_4M.fd"), ",readonly=on"));
            }
            Firmware::SecureBoot => {
                command.args(["-machine", "q35,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on"]);
                command.args(["-global", "ICH9-LPC.disable_s3=1", "-drive"]);
                command.arg(flash(&Path::new(OVMF).join("OVMF_CODE_4M.secboot.fd"), ",readonly=on"));
            }
        }
        if self.variables().is_some() {
            command.arg("-drive").arg(flash(&self.dir.join("variables"), ""));
        }
        // Without svm: the kernel turns it on when it loads kvm_amd, and an emulated CPU then loses its timer interrupts.
        match std::env::var("ACCEL").as_deref() {
            Ok(accel) if accel != "tcg" => command.args(["-accel", accel, "-cpu", "host"]),
            _ => command.args(["-accel", "tcg,thread=multi", "-cpu", "qemu64,-svm"]),
        };
        command.args(["-smp", "2", "-m", "2048", "-no-reboot", "-display", "none", "-monitor", "none"]);
        command.args(["-nic", "user,restrict=on,model=virtio-net-pci"]);
        // Flushes are honoured: what a guest has not flushed can be lost with a cut.
        command.arg("-drive").arg(drive("disk.qcow2", "format=qcow2,cache=writeback"));
        command.arg("-drive").arg(drive("tools.img", "format=raw,readonly=on"));
        command.arg("-drive").arg(drive("script", "format=raw,readonly=on"));
        for (name, text) in CREDENTIALS {
            let text = base64(text.as_bytes());
            command.arg("-smbios").arg(format!("type=11,value=io.systemd.credential.binary:{name}={text}"));
        }
        for name in ["console", "output"] {
            command.arg("-serial").arg(format!("file:{}", self.dir.join(name).display()));
        }
        let log = fs::File::create(self.dir.join("qemu")).expect("a writable directory");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn().expect("the package qemu-system-x86")
    }
}

/// The unit below says it before it runs the script.
const START: &str = "script starts\n";

/// Where the tools are inside.
pub const INSIDE: &str = "/run/apt-ostree-test";

/// Where the package ovmf has the firmware.
const OVMF: &str = "/usr/share/OVMF";

/// The unit that runs the script, and what starts it.
const CREDENTIALS: [(&str, &str); 2] = [
    (
        "systemd.extra-unit.apt-ostree-test.service",
        "[Unit]\nDescription=Command of the test\n[Service]\n\
         Environment=PATH=/run/apt-ostree-test:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root\n\
         ExecStart=sh -c 'systemctl is-system-running --wait;mkdir -p /run/apt-ostree-test;\
         mount -r /dev/vdb /run/apt-ostree-test;{ echo script starts;sh /dev/vdc 2>&1;echo \"status $?\"; }|cat >/dev/ttyS1'\n\
         ExecStopPost=systemctl --no-block poweroff\n",
    ),
    ("systemd.unit-dropin.multi-user.target", "[Unit]\nWants=apt-ostree-test.service\n"),
];

/// RFC 4648.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0, |word, byte| (word << 8) | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for index in 0..4 {
            if index <= chunk.len() {
                text.push(char::from(ALPHABET[((word >> (18 - 6 * index)) & 63) as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_of_the_rfc() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(super::base64(plain.as_bytes()), coded);
        }
    }
}
