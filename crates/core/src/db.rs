//! The forms in which `db` shows package lists. The lists themselves come from [`crate::repo::Repo::packages`].

use serde_json::{Value, json};

use crate::digest;
use crate::model::package::PackageId;
use crate::model::version;

/// The package database version of `db version`: the number of packages, a colon, and the SHA256 of their NEVRAs, one
/// a line in byte order (`apt-ostree db list REV | sed -n 's/^ //p' | LC_ALL=C sort | sha256sum`).
pub fn database_version(packages: &[PackageId]) -> String {
    let mut lines: Vec<_> = packages.iter().map(|p| p.nevra() + "\n").collect();
    lines.sort();
    format!("{}:{}", lines.len(), digest::of_bytes(lines.concat().as_bytes()))
}

/// `[name, epoch, version, release, arch]` of `db list --format=json`.
pub fn package_json(id: &PackageId) -> Value {
    let (epoch, upstream, revision) = version::split(&id.version);
    json!([id.name, epoch, upstream, revision, id.arch])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_of_a_package() {
        let id = PackageId::new("a", "1:1-1", "amd64");
        assert_eq!(package_json(&id).to_string(), r#"["a","1","1","1","amd64"]"#);
    }

    #[test]
    fn database_version_is_sha256_of_lines() {
        let list = [PackageId::new("b", "1", "all"), PackageId::new("a", "2", "all")];
        // printf 'a-2.all\nb-1.all\n' | sha256sum
        assert_eq!(database_version(&list), "2:d9954341a1104cd47b9517dfb83ce67ef153b9140fa4437dfddf39e2c47b730b");
    }
}
