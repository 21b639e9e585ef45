//! Directories become releases as they are, and hostile ones do not.

use rollback::model::host::Configuration;

use super::*;

#[test]
fn backups_of_the_field_are_adopted_with_what_they_tell() {
    let host = Host::new();
    host.lay_down("backup_20241112_153045");
    std::fs::write(host.release("backup_20241112_153045").join("REVISION"), "0123abcd\n").unwrap();
    std::fs::create_dir(host.release("other")).unwrap();
    let before = std::fs::metadata(host.release("backup_1")).unwrap().modified().unwrap();
    let adopted = host.adopt();
    assert_eq!(adopted.skipped, []);
    assert_eq!(adopted.manifests.len(), 3);
    let manifest = adopted.manifests.iter().find(|one| one.id == id("backup_20241112_153045")).unwrap();
    assert_eq!(manifest.created_at, "2024-11-12T15:30:45Z".parse().unwrap());
    assert_eq!(manifest.version, Some("2.4.1".parse().unwrap()));
    assert_eq!(manifest.git_sha.as_deref(), Some("0123abcd"));
    assert_eq!((manifest.entries, manifest.bytes), (8, 29 + 4 + 6 + 9));
    assert_eq!(std::fs::metadata(host.release("backup_1")).unwrap().modified().unwrap(), before);
    let mut listed = host.store.manifests(&host.component).unwrap();
    listed.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(listed, adopted.manifests);
    assert!(host.adopt().manifests.is_empty());
}

#[test]
fn manifests_and_their_directories_are_for_the_agent_alone() {
    let host = Host::new();
    host.adopt();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let manifests = host.component.state.join("manifests");
    assert_eq!((mode(&host.component.state), mode(&manifests)), (0o700, 0o700));
    for entry in std::fs::read_dir(&manifests).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
}

#[test]
fn hostile_directories_are_reported_and_not_adopted() {
    let host = Host::new();
    std::fs::create_dir(host.release("backup_a b\n")).unwrap();
    symlink("/etc", host.release("backup_etc")).unwrap();
    std::fs::write(host.release("backup_file"), "").unwrap();
    let adopted = host.adopt();
    assert_eq!(adopted.manifests.len(), 2);
    assert_eq!(adopted.skipped.len(), 2, "{:?}", adopted.skipped);
}

#[test]
fn hostile_links_in_a_release_are_recorded_but_not_followed() {
    let host = Host::new();
    let release = host.release("backup_1");
    let secret = host.home.path().join("secret");
    std::fs::write(&secret, "0123456789abcdef").unwrap();
    symlink("/", release.join("everything")).unwrap();
    symlink(".", release.join("loop")).unwrap();
    symlink(&secret, release.join("REVISION")).unwrap();
    let manifest = host.adopt().manifests.remove(0);
    assert_eq!(manifest.git_sha, None);
    assert_eq!(manifest.entries, 10);
    std::fs::write(&secret, "other").unwrap();
    assert!(is_intact(&host.verify("backup_1")));
}

#[test]
fn release_with_a_torn_manifest_is_no_target_until_it_is_adopted_again() {
    let host = Host::new();
    let digest = host.adopt().manifests[0].tree;
    let path = host.component.state.join("manifests/backup_1.json");
    for torn in ["", "{\"id\":\"backup_1\"", "{\"id\":\"backup_2\"}"] {
        std::fs::write(&path, torn).unwrap();
        assert_eq!(host.store.manifests(&host.component).unwrap().len(), 1);
        assert!(matches!(host.check("backup_1"), Integrity::Unknown { .. }));
        let adopted = host.adopt();
        assert_eq!(adopted.manifests[0].tree, digest);
        assert!(adopted.skipped[0].1.contains("torn"));
        assert!(is_intact(&host.check("backup_1")));
    }
    std::fs::write(&path, "").unwrap();
    std::fs::write(host.release("backup_1").join("bin/app"), "changed meanwhile").unwrap();
    let adopted = host.adopt();
    assert_eq!(adopted.manifests, []);
    assert!(adopted.skipped[0].1.contains("no longer those of its index"));
}

#[test]
fn configuration_is_frozen_and_its_link_returns_with_it() {
    let mut host = Host::new();
    let absolute = host.home.path().join("app.env");
    std::fs::write(&absolute, "A=1").unwrap();
    host.keep_configuration(&[absolute.to_str().unwrap(), "bin/sub/data"]);
    assert!(host.adopt().manifests[0].configuration.is_some());
    std::fs::write(&absolute, "A=2").unwrap();
    let release = id("backup_1");
    assert_eq!(host.store.configuration(&host.component, &release), Configuration::Frozen);
    host.store.link_configuration(&host.component, &release).unwrap();
    let link = std::fs::read_link(host.root("config")).unwrap();
    assert_eq!(link, host.component.state.join("configuration/backup_1"));
    assert_eq!(std::fs::read_to_string(host.root("config/app.env")).unwrap(), "A=1");
    assert_eq!(std::fs::read_to_string(host.root("config/data")).unwrap(), "data");
    host.store.link_configuration(&host.component, &id("backup_2")).unwrap();
    host.store.link_configuration(&host.component, &release).unwrap();
    assert_eq!(std::fs::read_link(host.root("config")).unwrap(), link);
    std::fs::write(host.component.state.join("configuration/backup_1/app.env"), "A=3").unwrap();
    assert!(matches!(host.store.configuration(&host.component, &release), Configuration::Missing(_)));
}

#[test]
fn missing_configuration_is_noted_and_frozen_once_it_is_there() {
    let mut host = Host::new();
    let release = id("backup_1");
    assert_eq!(host.store.configuration(&host.component, &release), Configuration::NotKept);
    let absolute = host.home.path().join("app.env");
    host.keep_configuration(&[absolute.to_str().unwrap()]);
    let adopted = host.adopt();
    assert_eq!((adopted.manifests.len(), adopted.skipped.len()), (2, 2));
    assert!(matches!(host.store.configuration(&host.component, &release), Configuration::Missing(_)));
    std::fs::write(&absolute, "A=1").unwrap();
    assert_eq!(host.adopt().skipped, []);
    assert_eq!(host.store.configuration(&host.component, &release), Configuration::Frozen);
}

#[test]
fn configuration_is_not_read_through_a_link_of_the_release() {
    let mut host = Host::new();
    symlink("/etc/hostname", host.release("backup_1").join("app.env")).unwrap();
    host.keep_configuration(&["app.env"]);
    assert!(host.adopt().manifests.iter().all(|manifest| manifest.configuration.is_none()));
}
