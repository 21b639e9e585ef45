//! Tests of the store on real directories, with the host that they share.

mod adoption;
mod integrity;
mod links;
mod pushes;
mod removal;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rollback::model::ids::ReleaseId;
use rollback::model::policy::{Policy, Timeouts};
use rollback::model::release::{DifferenceKind, Integrity};
use tempfile::TempDir;

use super::{DiskStore, store};
use crate::config::{Backend, Component, ConfigurationFile, KeptConfiguration, ReleasesLayout};
use crate::ports::{Adopted, Store};

/// A component below a directory of its own, with `backups/prod/backup_1` and `backup_2`, nothing adopted yet.
struct Host {
    component: Component,
    store: DiskStore,
    home: Home,
}

/// Where a host lives.
enum Home {
    Temporary(TempDir),
    Mounted(Mounted),
}

impl Home {
    fn path(&self) -> &Path {
        match self {
            Self::Temporary(directory) => directory.path(),
            Self::Mounted(mounted) => mounted.directory.path(),
        }
    }
}

/// A small tmpfs, unmounted when dropped.
struct Mounted {
    directory: TempDir,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        nix::mount::umount2(self.directory.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}

impl Mounted {
    /// Mounts, or tells why the test cannot run here.
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn new() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let options = Some("size=4m,nr_inodes=200,mode=0755");
        let flags = nix::mount::MsFlags::empty();
        match nix::mount::mount(Some("tmpfs"), directory.path(), Some("tmpfs"), flags, options) {
            Ok(()) => Some(Self { directory }),
            Err(error) => {
                eprintln!("skipped: a tmpfs cannot be mounted here: {error}");
                None
            }
        }
    }

    fn make_read_only(&self) {
        let flags = nix::mount::MsFlags::MS_REMOUNT | nix::mount::MsFlags::MS_RDONLY;
        nix::mount::mount(None::<&str>, self.directory.path(), None::<&str>, flags, None::<&str>).unwrap();
    }
}

impl Host {
    fn new() -> Self {
        Self::at(Home::Temporary(tempfile::tempdir().unwrap()))
    }

    fn at(home: Home) -> Self {
        let component = Component {
            name: "web".parse().unwrap(),
            environment: "prod".parse().unwrap(),
            root: home.path().join("srv"),
            releases: ReleasesLayout { directory: "backups/prod".into(), pattern: "backup_*".into(), hardlinks: false },
            current: "current".into(),
            backend: Backend::Systemd,
            units: vec!["web.service".parse().unwrap()],
            configuration: None,
            probes: Vec::new(),
            timeouts: Timeouts::default(),
            policy: Policy::default(),
            state: home.path().join("state"),
        };
        let host = Self { component, store: DiskStore::new(), home };
        host.lay_down("backup_1");
        host.lay_down("backup_2");
        host
    }

    fn lay_down(&self, name: &str) {
        let release = self.release(name);
        std::fs::create_dir_all(release.join("bin/sub")).unwrap();
        std::fs::write(release.join("bin/app"), format!("app of {name}")).unwrap();
        std::fs::set_permissions(release.join("bin/app"), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(release.join("bin/sub/data"), "data").unwrap();
        std::fs::write(release.join("VERSION"), "2.4.1\n").unwrap();
        symlink("bin/app", release.join("start")).unwrap();
    }

    fn keep_configuration(&mut self, from: &[&str]) {
        let files = from
            .iter()
            .map(|from| ConfigurationFile {
                name: Path::new(from).file_name().unwrap().to_str().unwrap().to_owned(),
                from: from.into(),
            })
            .collect();
        self.component.configuration = Some(KeptConfiguration { link: "config".into(), files });
    }

    fn release(&self, name: &str) -> PathBuf {
        self.component.root.join("backups/prod").join(name)
    }

    fn root(&self, name: &str) -> PathBuf {
        self.component.root.join(name)
    }

    fn adopt(&self) -> Adopted {
        self.store.adopt(&self.component, now()).unwrap()
    }

    fn check(&self, name: &str) -> Integrity {
        self.store.check(&self.component, &id(name), now())
    }

    fn verify(&self, name: &str) -> Integrity {
        self.store.verify(&self.component, &id(name), now(), &|_| {})
    }

    fn switch(&self, name: &str) {
        self.store.link_current(&self.component, &id(name)).unwrap();
        assert_eq!(self.current_target(), Some(format!("backups/prod/{name}").into()));
    }

    fn current_target(&self) -> Option<PathBuf> {
        std::fs::read_link(self.root("current")).ok()
    }

    /// The names below the root, sorted.
    fn root_names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(&self.component.root)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn id(name: &str) -> ReleaseId {
    name.parse().unwrap()
}

fn now() -> Timestamp {
    std::time::SystemTime::now().try_into().unwrap()
}

fn is_intact(integrity: &Integrity) -> bool {
    matches!(integrity, Integrity::Intact { .. })
}

/// The differences as `(path, what)`; panics when the release is not damaged.
fn damage(integrity: Integrity) -> Vec<(String, DifferenceKind)> {
    match integrity {
        Integrity::Damaged { differences, .. } => differences.into_iter().map(|one| (one.path, one.what)).collect(),
        other => panic!("expected damage, found {other:?}"),
    }
}
