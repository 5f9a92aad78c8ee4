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
