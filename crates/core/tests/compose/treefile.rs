//! Treefiles of these tests.

use std::collections::BTreeMap;

use apt_ostree_core::model::treefile::{CheckAccounts, Edition, OptUsrLocal, RemoveFromPackage, Treefile};

pub(crate) fn minimal() -> Treefile {
    Treefile {
        reference: Some("test".into()),
        basearch: "amd64".into(),
        releasever: Some("trixie".into()),
        edition: Edition::Edition2024,
        variables: BTreeMap::new(),
        metadata: BTreeMap::new(),
        repos: Vec::new(),
        compose_repos: Vec::new(),
        packages: Vec::new(),
        exclude_packages: Vec::new(),
        recommends: false,
        documentation: true,
        install_langs: None,
        foreign_architectures: Vec::new(),
        debconf: Vec::new(),
        locales: vec!["de_DE.UTF-8 UTF-8".into()],
        units: vec!["systemd-networkd.service".into()],
        default_target: Some("multi-user.target".into()),
        presets: Vec::new(),
        add_files: Vec::new(),
        remove_files: vec!["/usr/share/doc/bash".into()],
        remove_from_packages: vec![RemoveFromPackage {
            package: "less".into(),
            patterns: vec!["/usr/share/doc/less/(changelog|NEWS).*".into()],
        }],
        postprocess: vec![
            "if ip route | grep -q .; then echo network; else echo no network; fi > /usr/share/marker\n".into(),
        ],
        postprocess_script: None,
        machineid_compat: true,
        opt_usrlocal: OptUsrLocal::StateOverlay,
        readonly_executables: false,
        initramfs_args: Vec::new(),
        no_initramfs: false,
        preserve_passwd: true,
        check_passwd: CheckAccounts::Previous,
        check_groups: CheckAccounts::Previous,
        ignore_removed_users: Vec::new(),
        ignore_removed_groups: Vec::new(),
        version: Some("13.1".into()),
        automatic_version_prefix: None,
        automatic_version_suffix: '.',
        mutate_os_release: Some("13".into()),
        add_commit_metadata: BTreeMap::new(),
        gpg_key: None,
    }
}
