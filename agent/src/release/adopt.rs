//! Takes directories that are on the host as releases, without touching them.

use std::os::fd::{AsFd, BorrowedFd};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rollback::chain::Chain;
use rollback::model::ids::{ReleaseId, Version};
use rollback::model::release::{Manifest, Origin, is_git_sha};
use rollback::model::text::sanitize;
use rustix::fs::FileType;

use super::configuration::{self, FreezeError};
use super::index::Index;
use super::store::{self, StateError};
use super::{beneath, digest, switch};
use crate::config::Component;
use crate::ports::{Adopted, PortError};

/// Most names in a releases directory: a thousand times what anybody keeps.
const RELEASES_MAX: usize = 10_000;
/// Longest file that names a version or a commit.
const MARK_BYTES_MAX: u64 = 4_096;
/// Longest name that is printed: the longest that a directory can hold.
const NAME_BYTES_MAX: usize = 255;

/// Adopts what has no manifest; see [`crate::ports::Store::adopt`]. `lock` is held while something is written.
///
/// Something that only concerns one directory is noted in `skipped` and does not stop the others.
pub(super) fn adopt<L>(component: &Component, now: Timestamp, lock: impl Fn() -> L) -> Result<Adopted, PortError> {
    let releases = store::open_releases(component)?;
    let attempt = || format!("cannot list `{}`", component.root.join(&component.releases.directory).display());
    let mut names =
        beneath::names(releases.as_fd(), RELEASES_MAX).map_err(|error| PortError::failed(attempt(), error))?;
    names.sort_unstable();
    let mut adopted = Adopted::default();
    for name in names {
        let printed = sanitize(&name, NAME_BYTES_MAX);
        match candidate(component, releases.as_fd(), &name) {
            Candidate::None => {}
            Candidate::Bad(why) => adopted.skipped.push((printed, why)),
            Candidate::Release(id) => {
                let found = Found { component, releases: releases.as_fd(), id: &id, now };
                found.take(&mut adopted, &lock)?;
            }
        }
    }
    let _writing = lock();
    switch::prepare(component);
    Ok(adopted)
}

/// What a name in the releases directory is.
enum Candidate {
    /// Not meant: another name, a hidden one, a plain file.
    None,
    /// Meant as a release, but not fit.
    Bad(String),
    /// A directory with a good name.
    Release(ReleaseId),
}

fn candidate(component: &Component, releases: BorrowedFd<'_>, name: &[u8]) -> Candidate {
    let text = String::from_utf8_lossy(name);
    if text.starts_with('.') || !matches(&component.releases.pattern, &text) {
        return Candidate::None;
    }
    match beneath::stat(releases, name).map(|stat| beneath::kind(&stat)) {
        Ok(FileType::Directory) => match text.parse() {
            Ok(id) => Candidate::Release(id),
            Err(error) => Candidate::Bad(format!("its name cannot be a release's: {error}")),
        },
        Ok(FileType::Symlink) => Candidate::Bad("it is a link; a release is a directory".to_owned()),
        Ok(_) => Candidate::None,
        Err(error) => Candidate::Bad(format!("cannot read its type: {error}")),
    }
}

/// Matches a name against a pattern in which `*` stands for any text.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = name.find(part) else { return false };
        name = &name[at + part.len()..];
    }
    name.ends_with(last)
}

/// A directory that may become a release, or one that has just become one.
pub(super) struct Found<'a> {
    pub(super) component: &'a Component,
    pub(super) releases: BorrowedFd<'a>,
    pub(super) id: &'a ReleaseId,
    pub(super) now: Timestamp,
}

impl Found<'_> {
    fn take<L>(&self, adopted: &mut Adopted, lock: &impl Fn() -> L) -> Result<(), PortError> {
        let manifest = match store::manifest(self.component, self.id) {
            Ok(manifest) => return self.freeze_late(manifest, adopted, lock),
            Err(StateError::Absent(_)) => self.read(),
            Err(StateError::Damaged { .. }) => self.read().and_then(|(manifest, index)| {
                self.compare_with_old_index(&manifest)?;
                let why = "its manifest was torn; its files are those of its index, so it was written anew";
                adopted.skipped.push((self.id.to_string(), why.to_owned()));
                Ok((manifest, index))
            }),
            Err(error @ StateError::Io { .. }) => Err(Chain(&error).to_string()),
        };
        let (mut manifest, index) = match manifest {
            Ok(read) => read,
            Err(why) => {
                adopted.skipped.push((self.id.to_string(), why));
                return Ok(());
            }
        };
        let _writing = lock();
        if store::manifest(self.component, self.id).is_ok() {
            // A push has recorded it while it was read.
            return Ok(());
        }
        self.record(&mut manifest, &index, adopted)?;
        adopted.manifests.push(manifest);
        Ok(())
    }

    /// Records a release whose files are in place; who calls holds the lock.
    pub(super) fn record(
        &self,
        manifest: &mut Manifest,
        index: &Index<'_>,
        adopted: &mut Adopted,
    ) -> Result<(), PortError> {
        self.freeze(manifest, adopted)?;
        // The manifest comes last: with it the release is one.
        store::write_index(self.component, self.id, index)?;
        store::write_manifest(self.component, manifest)?;
        store::remove_promise(self.component, self.id)
    }

    /// A torn manifest must not bless files that changed since they were recorded. With a torn index too, nothing is
    /// left to compare with; goodness is remembered by digest, so other files are never taken for good ones.
    fn compare_with_old_index(&self, manifest: &Manifest) -> Result<(), String> {
        let Ok(bytes) = store::index_bytes(self.component, self.id) else { return Ok(()) };
        match Index::decode(&bytes) {
            Ok(index) if index.digest != *manifest.tree.as_bytes() => Err(format!(
                "its manifest is torn and its files are no longer those of its index; look at them, then remove `{}`",
                store::manifests_directory(self.component).join(format!("{}.index", self.id)).display()
            )),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn read(&self) -> Result<(Manifest, Index<'static>), String> {
        let root = beneath::directory(self.releases, self.id.as_str().as_bytes())
            .map_err(|error| format!("cannot open it: {error}"))?;
        let stat = beneath::stat_open(root.as_fd()).map_err(|error| format!("cannot stat it: {error}"))?;
        let mut tree = digest::read_tree(root.as_fd(), &|_| {}).map_err(|error| Chain(&error).to_string())?;
        let (entries, bytes) = tree.size();
        let digest = tree.digest();
        tree.settle(self.now);
        let modified = Timestamp::new(stat.stx_mtime.tv_sec, 0).unwrap_or(self.now);
        if let Some(promised) = store::promise(self.component, self.id).filter(|promised| promised.tree == digest) {
            // A push was cut off between the name and the record.
            let manifest = Manifest { recorded_at: self.now, configuration: None, ..promised };
            return Ok((manifest, Index { read_at: self.now, digest: *digest.as_bytes(), tree }));
        }
        let manifest = Manifest {
            id: self.id.clone(),
            version: mark(root.as_fd(), "VERSION").and_then(|text| text.parse::<Version>().ok()),
            git_sha: ["REVISION", ".git_sha"]
                .iter()
                .find_map(|name| mark(root.as_fd(), name).filter(|sha| is_git_sha(sha))),
            created_at: time_in_name(self.id.as_str()).unwrap_or(modified),
            created_by: owner(stat.stx_uid),
            recorded_at: self.now,
            origin: Origin::Adopted,
            bytes,
            entries,
            tree: digest,
            configuration: None,
            notes: None,
        };
        Ok((manifest, Index { read_at: self.now, digest: *digest.as_bytes(), tree }))
    }

    /// Freezes the configuration of a release that was recorded without one.
    fn freeze_late<L>(
        &self,
        mut manifest: Manifest,
        adopted: &mut Adopted,
        lock: &impl Fn() -> L,
    ) -> Result<(), PortError> {
        if self.component.configuration.is_none() || manifest.configuration.is_some() {
            return Ok(());
        }
        let _writing = lock();
        self.freeze(&mut manifest, adopted)?;
        if manifest.configuration.is_some() {
            store::write_manifest(self.component, &manifest)?;
        }
        Ok(())
    }

    /// Freezes the configuration, if one is kept; a missing file is noted and leaves the release without one.
    fn freeze(&self, manifest: &mut Manifest, adopted: &mut Adopted) -> Result<(), PortError> {
        let Some(kept) = &self.component.configuration else { return Ok(()) };
        let root = beneath::directory(self.releases, self.id.as_str().as_bytes())
            .map_err(|error| PortError::failed(format!("cannot open release `{}`", self.id), error))?;
        match configuration::freeze(self.component, kept, self.id, root.as_fd()) {
            Ok(digest) => manifest.configuration = Some(digest),
            Err(error @ FreezeError::Source { .. }) => {
                let why = format!("it has no frozen configuration: {}", Chain(&error));
                adopted.skipped.push((self.id.to_string(), why));
            }
            Err(FreezeError::State(error)) => return Err(error),
        }
        Ok(())
    }
}

/// Reads the first line of a small file in the release.
fn mark(release: BorrowedFd<'_>, name: &str) -> Option<String> {
    let bytes = beneath::read(release, name.as_bytes(), MARK_BYTES_MAX).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    text.lines().next().map(|line| line.trim().to_owned())
}

/// Names the owner of a directory: the user, or the number when no user has it.
fn owner(uid: u32) -> String {
    match nix::unistd::User::from_uid(uid.into()) {
        Ok(Some(user)) => sanitize(user.name.as_bytes(), NAME_BYTES_MAX),
        Ok(None) | Err(_) => uid.to_string(),
    }
}

/// Finds the time in a name such as `backup_20241112_153045`, `20241112153045` or `20241112T153045Z`; it is taken as UTC.
fn time_in_name(name: &str) -> Option<Timestamp> {
    let digits = |text: &str, count: usize| {
        text.get(..count).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())).map(str::to_owned)
    };
    let starts = name.char_indices().map(|(at, _)| at);
    starts.filter(|at| !name[..*at].ends_with(|c: char| c.is_ascii_digit())).find_map(|at| {
        let date = digits(&name[at..], 8)?;
        let rest = &name[at + 8..];
        let rest = rest.strip_prefix(['_', 'T', '-', '.']).unwrap_or(rest);
        let time = digits(rest, 6)?;
        if rest[6..].starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let moment = DateTime::strptime("%Y%m%d%H%M%S", date + &time).ok()?;
        moment.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("*", "anything", true),
            ("backup_*", "backup_1", true),
            ("backup_*", "old_backup_1", false),
            ("*_ok", "1_ok", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("ab*b", "ab", false),
            ("fixed", "fixed", true),
            ("fixed", "fixed2", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn times_are_found_in_the_names_of_the_field() {
        let expected: Timestamp = "2024-11-12T15:30:45Z".parse().unwrap();
        for name in ["backup_20241112_153045", "20241112153045", "20241112T153045Z", "v2-20241112-153045-ab"] {
            assert_eq!(time_in_name(name), Some(expected), "{name}");
        }
        for name in ["backup_1", "120241112153045", "20241112_1530455", "20241399_153045", "2024é112_153045"] {
            assert_eq!(time_in_name(name), None, "{name}");
        }
    }
}
