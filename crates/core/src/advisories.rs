//! Which security updates a tree has, and by which of its packages: from the solver's answer when a tree is made, from the
//! commit (`rpmostree.advisories`) ever after.

use std::path::Path;

use crate::changelog;
use crate::model::advisory::{self, Advisory};
use crate::model::package::PackageId;
use crate::plan::Plan;
use crate::repo::metadata::CommitInfo;
use crate::source::SolvedPackage;

/// Of packages that are put into a tree. The CVEs are in its changelogs, if it has any; `None` where there is no tree yet.
pub fn of_packages(packages: &[SolvedPackage], tree: Option<&Path>) -> Vec<Advisory> {
    let named = |p: &&SolvedPackage, id: &str| p.advisory.as_deref() == Some(id);
    let mut list = advisory::group(packages.iter().filter_map(|p| Some((p.advisory.as_deref()?, &p.id))));
    let Some(tree) = tree else { return list };
    for advisory in &mut list {
        let id = advisory.id.clone();
        // Any of the packages made of a source has its changelog, or a link to it.
        let changelogs = packages.iter().filter(|p| named(p, &id)).map(|p| changelog::in_tree(tree, &p.id.name));
        for entries in changelogs.filter(|entries| !entries.is_empty()) {
            advisory.add_cves(&entries);
            if !advisory.cves.is_empty() {
                break;
            }
        }
    }
    list
}

/// Of a tree that is made, or would be, on a base: what the base has and still keeps, and what the plan brings. `packages`
/// are those of the whole tree.
pub fn of_layered(base: &CommitInfo, plan: &Plan, packages: &[PackageId], tree: Option<&Path>) -> Vec<Advisory> {
    let mut list = base.advisories();
    for advisory in &mut list {
        advisory.packages.retain(|nevra| packages.iter().any(|p| p.nevra() == *nevra));
    }
    list.retain(|a| !a.packages.is_empty());
    for new in of_packages(&plan.install, tree) {
        match list.iter_mut().find(|a| a.id == new.id) {
            Some(known) => known.packages.extend(new.packages),
            None => list.push(new),
        }
    }
    list.sort_by(|a, b| a.id.cmp(&b.id));
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, advisory: Option<&str>) -> SolvedPackage {
        SolvedPackage {
            id: PackageId::new(name, "1.1-1", "amd64"),
            previous: None,
            requested: false,
            essential: false,
            origin: String::new(),
            advisory: advisory.map(Into::into),
            sha256: String::new(),
            size: 0,
            download: 0,
            installed_size: 0,
            pre_depends: Vec::new(),
            depends: Vec::new(),
            path: Default::default(),
        }
    }

    #[test]
    fn cves_are_in_the_changelog_of_the_tree() {
        let tree = tempfile::tempdir().unwrap();
        let doc = tree.path().join("usr/share/doc");
        std::fs::create_dir_all(doc.join("liba1")).unwrap();
        let entry = "a (1.1) x; urgency=high\n\n  * CVE-2025-1111\n\n -- A <a@b>  Sat, 09 Aug 2025 09:10:53 +0000\n";
        std::fs::write(doc.join("liba1/changelog.Debian"), entry).unwrap();
        // A link that leaves the tree leads to nothing, one within it to the changelog.
        std::os::unix::fs::symlink("/usr/share/doc/liba1", doc.join("a")).unwrap();
        std::os::unix::fs::symlink("../../../../../../../etc", doc.join("b")).unwrap();
        let packages = [package("a", Some("a 1.1")), package("b", Some("b 1.1")), package("c", None)];
        let list = of_packages(&packages, Some(tree.path()));
        assert_eq!(list.iter().map(|a| a.id.as_str()).collect::<Vec<_>>(), ["a 1.1", "b 1.1"]);
        assert_eq!(list[0].cves[0].1, "CVE-2025-1111");
        assert!(list[1].cves.is_empty());
        assert!(of_packages(&packages, None)[0].cves.is_empty());
    }
}
