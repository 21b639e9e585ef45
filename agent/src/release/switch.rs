//! Switches the links below a component's root: atomically, without an instant in which one is missing.
//!
//! For each release that is not current a hidden link `.LINK.RELEASE` is prepared ahead, and a switch exchanges it with
//! the link: so it needs no space and no inode of a full disk. What the exchange takes out of the link becomes the
//! prepared link of the release that it leads to. Only links are ever removed, and only ones that are about releases.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rollback::chain::Chain;
use rollback::model::host::Current;
use rollback::model::ids::ReleaseId;
use rollback::model::text::sanitize;
use rustix::fs::{AtFlags, FileType, RenameFlags};
use rustix::io::Errno;

use super::{adopt, beneath, configuration, store};
use crate::config::Component;
use crate::ports::PortError;

/// Longest link target that is printed: the longest that a link can have.
const TARGET_BYTES_MAX: usize = 4_096;
/// Most names in a component's root: anything near this is a mistake, and the search for prepared links is bounded.
const ROOT_NAMES_MAX: usize = 100_000;

/// Tells where `current` leads; see [`crate::ports::Store::current`].
pub(super) fn current(component: &Component) -> Result<Current, PortError> {
    let root = store::open_root(component)?;
    let attempt = || format!("cannot read link `{}`", component.root.join(&component.current).display());
    let target = match beneath::link_target(root.as_fd(), component.current.as_bytes()) {
        Ok(Some(target)) => target,
        Ok(None) => return Ok(Current::NotALink),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Current::Missing),
        Err(error) => return Err(PortError::failed(attempt(), error)),
    };
    let path = beneath::as_path(&target);
    match beneath::stat_following(root.as_fd(), path) {
        Ok(_) => {}
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Current::Dangling(printable(&target))),
        Err(error) => return Err(PortError::failed(attempt(), io::Error::from(error))),
    }
    Ok(match release_at(component, root.as_fd(), path) {
        Some(release) => Current::Release(release),
        None => Current::Outside(printable(&target)),
    })
}

/// Tells which release a path is: a directory, not a link, straight in the releases directory, with a release's name.
fn release_at(component: &Component, root: BorrowedFd<'_>, path: &Path) -> Option<ReleaseId> {
    let name = path.file_name()?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let releases = store::open_releases(component).ok()?;
    let (found, expected) = (beneath::stat_following(root, parent).ok()?, beneath::stat_open(releases.as_fd()).ok()?);
    let place = |stat: &rustix::fs::Statx| (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
    let entry = beneath::stat(releases.as_fd(), name.as_bytes()).ok()?;
    let release: ReleaseId = name.to_str()?.parse().ok()?;
    let fits = place(&found) == place(&expected)
        && beneath::kind(&entry) == FileType::Directory
        && adopt::matches(&component.releases.pattern, release.as_str());
    fits.then_some(release)
}

/// Ensures that `current` leads to the release; see [`crate::ports::Store::link_current`].
pub(super) fn link_current(component: &Component, release: &ReleaseId) -> Result<(), PortError> {
    let releases = store::open_releases(component)?;
    let link = Link::current(component);
    match beneath::stat(releases.as_fd(), release.as_str().as_bytes()).map(|stat| beneath::kind(&stat)) {
        Ok(FileType::Directory) => link.lead_to(release),
        Ok(_) => Err(PortError::Unfit { attempt: link.attempt(release), found: "it is no directory".to_owned() }),
        Err(error) => Err(PortError::failed(link.attempt(release), io::Error::from(error))),
    }
}

/// Ensures that the configuration's link leads to what was frozen with the release.
pub(super) fn link_configuration(component: &Component, release: &ReleaseId) -> Result<(), PortError> {
    let Some(link) = Link::configuration(component) else { return Ok(()) };
    match std::fs::symlink_metadata(configuration::directory(component, release)) {
        Ok(metadata) if metadata.is_dir() => link.lead_to(release),
        Ok(_) => Err(PortError::Unfit { attempt: link.attempt(release), found: "it is no directory".to_owned() }),
        Err(error) => Err(PortError::failed(link.attempt(release), error)),
    }
}

/// Prepares the links of all releases with a manifest and removes those of releases that are gone.
///
/// What fails is logged and left to the next adoption: a switch also works without, as long as the disk has room.
pub(super) fn prepare(component: &Component) {
    let links = [Some(Link::current(component)), Link::configuration(component)];
    for link in links.into_iter().flatten() {
        if let Err(error) = store::manifests(component).and_then(|manifests| {
            let releases: Vec<ReleaseId> = manifests.into_iter().map(|manifest| manifest.id).collect();
            link.tidy(&releases)?;
            releases.iter().try_for_each(|release| link.prepare(release))
        }) {
            tracing::warn!(link = link.name, "cannot prepare links for a switch: {}", Chain(&error));
        }
    }
}

/// Asks the kernel whether the root can be written; see [`crate::ports::Store::writable`].
pub(super) fn writable(component: &Component) -> Result<(), PortError> {
    rustix::fs::access(&component.root, rustix::fs::Access::WRITE_OK).map_err(|error| {
        let attempt = format!("cannot switch links in `{}`", component.root.display());
        PortError::failed(attempt, io::Error::from(error))
    })
}

/// A link below a component's root that leads to something of a release.
struct Link<'a> {
    component: &'a Component,
    name: &'a str,
    /// Where the things are that it leads to, absolute.
    absolute: PathBuf,
    /// The same seen from the root, when links to it may be relative.
    relative: Option<&'a Path>,
}

impl<'a> Link<'a> {
    fn current(component: &'a Component) -> Self {
        Self {
            component,
            name: &component.current,
            absolute: component.root.join(&component.releases.directory),
            relative: Some(&component.releases.directory),
        }
    }

    fn configuration(component: &'a Component) -> Option<Self> {
        let kept = component.configuration.as_ref()?;
        let absolute = component.state.join("configuration");
        Some(Self { component, name: &kept.link, absolute, relative: None })
    }

    fn attempt(&self, release: &ReleaseId) -> String {
        format!(
            "cannot lead `{}` to `{}`",
            self.component.root.join(self.name).display(),
            self.absolute.join(release.as_str()).display()
        )
    }

    /// The hidden name of the link that is prepared for a release.
    fn spare(&self, release: &ReleaseId) -> String {
        format!(".{}.{release}", self.name)
    }

    /// The target in the style of the link as it is: absolute if that is absolute, otherwise relative.
    fn target(&self, release: &ReleaseId, old: Option<&[u8]>) -> PathBuf {
        match self.relative {
            Some(relative) if !old.is_some_and(|old| old.starts_with(b"/")) => relative.join(release.as_str()),
            Some(_) | None => self.absolute.join(release.as_str()),
        }
    }

    /// The release that a target is about, whether or not it still exists.
    fn release_of(&self, target: &[u8]) -> Option<ReleaseId> {
        let path = beneath::as_path(target);
        let parent = path.parent()?;
        let ours = parent == self.absolute || self.relative == Some(parent);
        if ours { path.file_name()?.to_str()?.parse().ok() } else { None }
    }

    /// Switches the link and flushes the directory, once; a link that leads there already is flushed too, since the run
    /// that switched it may have been cut off before.
    fn lead_to(&self, release: &ReleaseId) -> Result<(), PortError> {
        let root = store::open_root(self.component)?;
        let failed = |error: io::Error| PortError::failed(self.attempt(release), error);
        let old = self.read(root.as_fd()).map_err(|error| match error {
            ReadError::NotALink => self.not_a_link(release),
            ReadError::Io(error) => failed(error),
        })?;
        let target = self.target(release, old.as_deref());
        if old.as_deref() != Some(target.as_os_str().as_bytes()) {
            let spare = self.find_or_make(root.as_fd(), release, &target).map_err(failed)?;
            match old {
                None => rustix::fs::renameat(&root, &*spare, &root, self.name).map_err(|error| failed(error.into()))?,
                Some(old) => self.exchange(root.as_fd(), release, &spare, &old)?,
            }
        }
        // Never tried again: after one error the kernel calls the same pages clean.
        rustix::fs::fsync(&root)
            .map_err(|error| PortError::Durability { attempt: self.attempt(release), source: error.into() })
    }

    fn not_a_link(&self, release: &ReleaseId) -> PortError {
        let path = self.component.root.join(self.name);
        let found = format!(
            "`{}` is no link but a file or directory; move it away (it is never deleted), then try again",
            path.display()
        );
        PortError::Unfit { attempt: self.attempt(release), found }
    }

    fn read(&self, root: BorrowedFd<'_>) -> Result<Option<Vec<u8>>, ReadError> {
        match beneath::link_target(root, self.name.as_bytes()) {
            Ok(Some(target)) => Ok(Some(target)),
            Ok(None) => Err(ReadError::NotALink),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ReadError::Io(error)),
        }
    }

    /// Puts the spare link in the link's place, and the old one in the place of the spare of its release.
    fn exchange(&self, root: BorrowedFd<'_>, release: &ReleaseId, spare: &[u8], old: &[u8]) -> Result<(), PortError> {
        let failed = |error: Errno| PortError::failed(self.attempt(release), io::Error::from(error));
        match rustix::fs::renameat_with(root, spare, root, self.name, RenameFlags::EXCHANGE) {
            Ok(()) => {}
            // The file system has no exchange (NFS, old overlays): a rename is as atomic, only the old link is lost.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                rustix::fs::renameat(root, spare, root, self.name).map_err(failed)?;
                if let Some(old_release) = self.release_of(old) {
                    self.note(self.make(root, &old_release, beneath::as_path(old)).map(drop));
                }
                return Ok(());
            }
            Err(error) => return Err(failed(error)),
        }
        match beneath::link_target(root, spare) {
            Ok(Some(taken)) => self.note(self.put_aside(root, spare, &taken)),
            // Somebody put a directory or a file there between the look and the exchange: it goes back.
            Ok(None) => {
                rustix::fs::renameat_with(root, spare, root, self.name, RenameFlags::EXCHANGE).map_err(failed)?;
                return Err(self.not_a_link(release));
            }
            Err(error) => self.note(Err(error)),
        }
        Ok(())
    }

    /// Gives a link that was taken out the name that is its own, or removes it when it is about no release.
    fn put_aside(&self, root: BorrowedFd<'_>, name: &[u8], target: &[u8]) -> io::Result<()> {
        match self.release_of(target) {
            Some(release) => Ok(rustix::fs::renameat(root, name, root, self.spare(&release))?),
            None => {
                tracing::warn!(link = self.name, target = %printable(target), "link led to no release, replaced");
                Ok(rustix::fs::unlinkat(root, name, AtFlags::empty())?)
            }
        }
    }

    /// Logs what failed after the switch was made; a later search finds a spare link under any name.
    fn note(&self, result: io::Result<()>) {
        if let Err(error) = result {
            tracing::warn!(link = self.name, "cannot tidy up after a switch: {}", Chain(&error));
        }
    }

    /// Finds the spare link with that target, or makes it; on a full disk one of the other style will do.
    fn find_or_make(&self, root: BorrowedFd<'_>, release: &ReleaseId, target: &Path) -> io::Result<Vec<u8>> {
        let wanted = |found: &[u8]| found == target.as_os_str().as_bytes();
        let own = self.spare(release).into_bytes();
        if beneath::link_target(root, &own).is_ok_and(|found| found.is_some_and(|found| wanted(&found))) {
            return Ok(own);
        }
        let spares = self.spares(root)?;
        if let Some((name, _)) = spares.iter().find(|(_, found)| wanted(found)) {
            return Ok(name.clone());
        }
        self.make(root, release, target).or_else(|error| {
            let other = spares.into_iter().find(|(_, found)| self.release_of(found).as_ref() == Some(release));
            other.map(|(name, _)| name).ok_or(error)
        })
    }

    /// Makes a spare link, in place of one with another target.
    fn make(&self, root: BorrowedFd<'_>, release: &ReleaseId, target: &Path) -> io::Result<Vec<u8>> {
        let name = self.spare(release).into_bytes();
        match rustix::fs::symlinkat(target, root, &*name) {
            Ok(()) => return Ok(name),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        // The old one is kept until the new one is there: on a full disk it may serve. No release has a `#` in its name.
        let temporary = format!("{}#new", self.spare(release));
        match rustix::fs::unlinkat(root, &*temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        rustix::fs::symlinkat(target, root, &*temporary)?;
        rustix::fs::renameat(root, &*temporary, root, &*name)?;
        Ok(name)
    }

    /// Lists the hidden links that are about releases, with their targets.
    fn spares(&self, root: BorrowedFd<'_>) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let prefix = format!(".{}.", self.name);
        let names = beneath::names(root, ROOT_NAMES_MAX)?;
        let hidden = names.into_iter().filter(|name| name.starts_with(prefix.as_bytes()));
        let links = hidden.filter_map(|name| {
            let target = beneath::link_target(root, &name).ok().flatten()?;
            self.release_of(&target).is_some().then_some((name, target))
        });
        Ok(links.collect())
    }

    /// Removes the hidden links of releases that are gone, and gives those that a crash left under another name their own.
    fn tidy(&self, releases: &[ReleaseId]) -> Result<(), PortError> {
        let root = store::open_root(self.component)?;
        let failed =
            |error| PortError::failed(format!("cannot tidy links in `{}`", self.component.root.display()), error);
        for (name, target) in self.spares(root.as_fd()).map_err(failed)? {
            let release = self.release_of(&target).filter(|release| releases.contains(release));
            match release.map(|release| self.spare(&release)) {
                Some(own) if own.as_bytes() == name => {}
                Some(own) => rustix::fs::renameat(&root, &*name, &root, &*own).map_err(|error| failed(error.into()))?,
                None => rustix::fs::unlinkat(&root, &*name, AtFlags::empty()).map_err(|error| failed(error.into()))?,
            }
        }
        Ok(())
    }

    /// Makes the spare link of a release if it is not there; the release that the link leads to needs none.
    fn prepare(&self, release: &ReleaseId) -> Result<(), PortError> {
        let root = store::open_root(self.component)?;
        let old = self.read(root.as_fd()).unwrap_or_default();
        let target = self.target(release, old.as_deref());
        let target_bytes = target.as_os_str().as_bytes();
        let has = beneath::link_target(root.as_fd(), self.spare(release).as_bytes()).ok().flatten();
        if old.as_deref() == Some(target_bytes) || has.as_deref() == Some(target_bytes) {
            return Ok(());
        }
        if self.relative.is_none() && !target.is_dir() {
            return Ok(());
        }
        self.make(root.as_fd(), release, &target).map(drop).map_err(|error| {
            PortError::failed(
                format!("cannot make link `{}` in `{}`", self.spare(release), self.component.root.display()),
                error,
            )
        })
    }
}

/// Says why a link could not be read.
enum ReadError {
    NotALink,
    Io(io::Error),
}

fn printable(target: &[u8]) -> String {
    sanitize(target, TARGET_BYTES_MAX).replace('\n', "\\n")
}
