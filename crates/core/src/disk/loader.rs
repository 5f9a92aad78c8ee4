//! The boot loader's own files, from the packages of the tree: the EFI system partition's content and the two images of a BIOS
//! start. They only find the file system with /boot and read the menu there, so no update of the system touches them.
//!
//! With Debian's signed shim and GRUB (packages `shim-signed`, `grub-efi-amd64-signed`) copying is all that is needed, and the
//! machine starts with Secure Boot. Without them an unsigned GRUB is made by the tree's grub-mkimage (`grub-efi-amd64-bin`), in the
//! sandbox. The BIOS images are always made so (`grub-pc-bin`).

use std::path::Path;

use crate::assemble::runner::{Runner, failure};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::EventSink;
use crate::sandbox::{Bind, Sandbox};

/// What differs between architectures.
struct Arch {
    /// GRUB's name of the platform.
    efi: &'static str,
    /// UEFI's short name, in file names.
    short: &'static str,
    /// The root partition's type, by the discoverable partitions specification.
    root_type: &'static str,
    debian: &'static str,
}

const ARCHITECTURES: [Arch; 2] = [
    Arch { efi: "x86_64-efi", short: "x64", root_type: "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", debian: "amd64" },
    Arch { efi: "arm64-efi", short: "aa64", root_type: "B921B045-1DF0-41C3-AF44-4C6F280D3FAE", debian: "arm64" },
];

/// What the menu and the search for it need; Debian's signed image has these and more.
const MODULES: &str = "part_gpt ext2 normal configfile search search_fs_uuid linux echo test ls cat reboot halt sleep \
                       loadenv gzio all_video minicmd serial terminal";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Uefi {
    /// shim and GRUB as Debian signed them.
    Signed,
    Unsigned,
}

/// What was made.
#[derive(Debug)]
pub(crate) struct Loaders {
    pub(crate) uefi: Option<Uefi>,
    /// boot.img and core.img.
    pub(crate) bios: Option<(Vec<u8>, Vec<u8>)>,
    pub(crate) root_type: &'static str,
}

/// Finds the menu on the file system with /boot.
fn early_config(boot_uuid: &str) -> String {
    format!("search.fs_uuid {boot_uuid} root\nset prefix=($root)/grub\nconfigfile $prefix/grub.cfg\n")
}

/// Makes the loaders of the deployed tree; `esp` becomes the content of the EFI system partition. `Usage`, with the packages, when
/// the tree has nothing to start a machine with.
pub(crate) fn make(
    tree: &Path,
    esp: &Path,
    boot_uuid: &str,
    sandbox: &dyn Sandbox,
    events: &dyn EventSink,
) -> Result<Loaders> {
    std::fs::create_dir_all(esp)?;
    let arch = ARCHITECTURES
        .iter()
        .find(|a| signed(tree, a) || modules(tree, a.efi) || (a.debian == "amd64" && modules(tree, "i386-pc")))
        .ok_or_else(|| no_loader(tree))?;
    let scratch = esp.with_extension("grub");
    std::fs::create_dir_all(&scratch)?;
    let image = |platform: &str, prefix: &str, extra: &str| -> Result<Vec<u8>> {
        std::fs::write(scratch.join("early.cfg"), early_config(boot_uuid))?;
        let bind = Bind { source: scratch.clone(), target: INSIDE.into(), read_only: false };
        let runner = Runner { sandbox, root: tree, binds: &[], events };
        let (config, output) = (format!("{INSIDE}/early.cfg"), format!("{INSIDE}/core"));
        let mut argv = vec!["grub-mkimage", "-O", platform, "-p", prefix, "-c", &config, "-o", &output];
        argv.extend(MODULES.split_whitespace().chain(extra.split_whitespace()));
        let run = runner.run(&argv, &[bind], &mut |_| {})?;
        if run.code != 0 {
            return Err(failure(&format!("Making GRUB for {platform} (grub-mkimage)"), &run));
        }
        std::fs::read(scratch.join("core")).context(|| "Reading what grub-mkimage made")
    };
    let mkimage = tree.join("usr/bin/grub-mkimage").exists();

    let uefi = if signed(tree, arch) {
        copy_signed(tree, esp, arch, boot_uuid)?;
        Some(Uefi::Signed)
    } else if mkimage && modules(tree, arch.efi) {
        let boot = esp.join("EFI/BOOT");
        std::fs::create_dir_all(&boot)?;
        let name = format!("BOOT{}.EFI", arch.short.to_uppercase());
        std::fs::write(boot.join(name), image(arch.efi, "/EFI/BOOT", "fat")?)?;
        Some(Uefi::Unsigned)
    } else {
        None
    };
    let bios = if mkimage && arch.debian == "amd64" && modules(tree, "i386-pc") {
        let boot = std::fs::read(tree.join("usr/lib/grub/i386-pc/boot.img")).context(|| "Reading GRUB's boot.img")?;
        Some((boot, image("i386-pc", "/grub", "biosdisk")?))
    } else {
        None
    };
    if uefi.is_none() && bios.is_none() {
        return Err(no_loader(tree));
    }
    Ok(Loaders { uefi, bios, root_type: arch.root_type })
}

/// Where the scratch directory is bound in the sandbox.
const INSIDE: &str = "/run/apt-ostree-image";

fn no_loader(tree: &Path) -> Error {
    let what = if tree.join("usr/lib/grub").is_dir() { "a GRUB that is not complete" } else { "no GRUB" };
    Error::new(ErrorKind::Usage, format!("The tree has {what}: nothing would start a machine from this image"))
        .hint("Add to the treefile's packages, for UEFI: shim-signed and grub-efi-amd64-signed (grub-efi-arm64-signed)")
        .hint("For a start by BIOS: grub-pc-bin. Nothing was written.")
}

fn shim(arch: &Arch, name: &str) -> String {
    format!("usr/lib/shim/{name}{}.efi.signed", arch.short)
}

fn signed_grub(arch: &Arch) -> String {
    format!("usr/lib/grub/{}-signed/grub{}.efi.signed", arch.efi, arch.short)
}

fn signed(tree: &Path, arch: &Arch) -> bool {
    tree.join(shim(arch, "shim")).exists() && tree.join(signed_grub(arch)).exists()
}

fn modules(tree: &Path, platform: &str) -> bool {
    tree.join("usr/lib/grub").join(platform).join("moddep.lst").exists()
}

/// The names of the removable medium, which every firmware tries; GRUB's configuration lies where the distribution compiled
/// it into the signed image. `fbx64.efi` is left out: it writes boot entries into the firmware and resets the machine.
fn copy_signed(tree: &Path, esp: &Path, arch: &Arch, boot_uuid: &str) -> Result<()> {
    let boot = esp.join("EFI/BOOT");
    let vendor = esp.join("EFI").join(os_id(tree)?);
    std::fs::create_dir_all(&boot)?;
    std::fs::create_dir_all(&vendor)?;
    let copy = |from: &str, name: String| -> Result<()> {
        std::fs::copy(tree.join(from), boot.join(name)).context(|| format!("Copying /{from} of the tree"))?;
        Ok(())
    };
    copy(&shim(arch, "shim"), format!("BOOT{}.EFI", arch.short.to_uppercase()))?;
    copy(&signed_grub(arch), format!("grub{}.efi", arch.short))?;
    // For enrolling keys of one's own; a shim without it starts as well.
    if tree.join(shim(arch, "mm")).exists() {
        copy(&shim(arch, "mm"), format!("mm{}.efi", arch.short))?;
    }
    Ok(std::fs::write(vendor.join("grub.cfg"), early_config(boot_uuid))?)
}

/// `ID` of os-release.
fn os_id(tree: &Path) -> Result<String> {
    let text = std::fs::read_to_string(tree.join("usr/lib/os-release")).context(|| "Reading the tree's os-release")?;
    let id = text.lines().find_map(|l| l.strip_prefix("ID=")).map(|id| id.trim_matches('"'));
    match id {
        Some(id) if !id.is_empty() && id.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c)) => {
            Ok(id.to_owned())
        }
        _ => {
            Err(Error::usage("The tree's os-release has no ID: the directory of the boot loader has its name from it"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::NullSink;
    use crate::sandbox::bubblewrap::Bubblewrap;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn signed_loaders_are_copied_to_the_removable_names() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, esp) = (dir.path().join("tree"), dir.path().join("esp"));
        write(&tree, "usr/lib/os-release", "NAME=x\nID=debian\n");
        write(&tree, "usr/lib/shim/shimx64.efi.signed", "shim");
        write(&tree, "usr/lib/shim/mmx64.efi.signed", "mm");
        write(&tree, "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", "grub");
        let loaders = make(&tree, &esp, "b-u", &Bubblewrap, &NullSink).unwrap();
        assert!(loaders.uefi == Some(Uefi::Signed) && loaders.bios.is_none());
        let read = |path: &str| std::fs::read_to_string(esp.join(path)).unwrap();
        assert_eq!(read("EFI/BOOT/BOOTX64.EFI"), "shim");
        assert_eq!(read("EFI/BOOT/grubx64.efi") + &read("EFI/BOOT/mmx64.efi"), "grubmm");
        assert!(read("EFI/debian/grub.cfg").starts_with("search.fs_uuid b-u root\n"));
    }

    #[test]
    fn a_tree_without_grub_names_the_packages() {
        let dir = tempfile::tempdir().unwrap();
        let e = make(dir.path(), &dir.path().join("esp"), "b", &Bubblewrap, &NullSink).unwrap_err();
        assert!(e.kind == ErrorKind::Usage && e.hints[0].contains("shim-signed"), "{e:?}");
        write(dir.path(), "usr/lib/grub/i386-pc/moddep.lst", "");
        let e = make(dir.path(), &dir.path().join("esp"), "b", &Bubblewrap, &NullSink).unwrap_err();
        assert!(e.to_string().contains("not complete") && e.hints[1].contains("grub-pc-bin"), "{e:?}");
    }
}
