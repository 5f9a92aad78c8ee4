//! Power cuts: the machine is killed at seeded moments of a change, of the shutdown that finalizes it, and of a clean-up. After
//! each it starts the old deployment or the new one, nothing is damaged, and the next change works.
//!
//! `APT_OSTREE_CUTS` says how many (30), `APT_OSTREE_SEED` which ones (1), `APT_OSTREE_FIRST_CUT` from which on (0): to try one again.

use std::time::Duration;

use apt_ostree_testkit::sysroot::wipe;
use apt_ostree_testkit::vm::Firmware;

use crate::image::{helpers, inside, machine};
use crate::world::{World, small};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

/// Marsaglia's xorshift64: the same moments for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[test]
fn no_power_cut_leaves_a_machine_that_does_not_start() {
    let world = World::empty();
    let deb = world.local(&small("kit-inside", "1.0"));
    let inside = inside(&deb);
    let mut vm = machine(&world, Firmware::Uefi, &[&deb]);
    let helpers = helpers(&world);
    vm.boot(&format!("{helpers}\noffline")).exits(0);
    let mut random = Random(setting("APT_OSTREE_SEED", 1).max(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    // Each boot looks at what the last cut left, and ends in the next one. The seconds are those of an emulated machine: what takes
    // them all is cut at its end at the latest.
    let change =
        format!("if command -v kit-inside; then apt-ostree uninstall kit-inside; else apt-ostree install {inside}; fi");
    let phases: [(&str, String, u64); 3] = [
        ("change", format!("echo NOW; {change} || fail change; echo DONE; sleep 5; exit 0"), 25_000),
        ("shutdown", format!("{change} || fail change; echo NOW; systemctl reboot; sleep 100"), 25_000),
        (
            "cleanup",
            "echo NOW; apt-ostree cleanup -p -r -b -m || fail cleanup; echo DONE; sleep 5; exit 0".into(),
            12_000,
        ),
    ];
    let (first, cuts) = (setting("APT_OSTREE_FIRST_CUT", 0), setting("APT_OSTREE_CUTS", 30));
    for number in 0..cuts {
        let (phase, work, most) = &phases[usize::try_from(number % 3).expect("a small number")];
        let after = Duration::from_millis(random.below(*most));
        if number < first {
            continue;
        }
        // Between libostree's switch of its links and the new menu the names in it may be old: refresh, then compare.
        let script = format!(
            "{helpers}
            ostree fsck --quiet --repo=/ostree/repo || fail fsck
            apt-ostree status || fail status
            grub-script-check /boot/grub/grub.cfg || fail syntax
            /usr/libexec/apt-ostree/grub-config --refresh || fail refresh
            [ \"$(menu)\" = \"$(ids)\" ] || fail \"menu $(menu) ids $(ids)\"
            systemctl is-system-running || fail state
            echo HELD
            {work}"
        );
        let outcome = vm.boot_and_cut(&script, "NOW", after);
        assert!(
            outcome.stdout.contains("HELD\n") && !outcome.stdout.contains("FAIL"),
            "before cut {number} ({phase}, {after:?}): {}\n{}",
            outcome.text(),
            vm.console()
        );
        println!("cut {number} ({phase}, {after:?}): what was before it held");
    }
    vm.boot(&format!("{helpers}\nostree fsck --repo=/ostree/repo || fail fsck\n{change} || fail change")).exits(0);
    wipe(&world.dir);
}
