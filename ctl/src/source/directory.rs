//! Reads a directory: every entry with its metadata, and the content of every file on all cores. No link is followed.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rayon::prelude::*;
use rollback::model::digest::Digest;
use rollback::model::offer::{ENTRIES_MAX, LINK_MODE, OfferBuilder, OfferError, Offered, OfferedFile, OfferedKind};

use super::{LABEL, Place, Source, SourceError};

/// What one core reads at once; it stays in the core's cache.
const BUFFER_BYTES: usize = 128 * 1024;
/// From this size on a file is hashed by all cores together.
const LARGE_BYTES: u64 = 16 * 1024 * 1024;
/// What is read at once of such a file.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;

/// An entry that was found.
struct Found {
    path: Vec<u8>,
    absolute: PathBuf,
    metadata: Metadata,
}

pub(super) fn read(root: &Path) -> Result<Source, SourceError> {
    let found = walk(root)?;
    let offered: Vec<Offered> = found.par_iter().map(offer).collect::<Result<_, _>>()?;
    let mut contents = HashMap::new();
    for (found, offered) in found.into_iter().zip(&offered) {
        if let OfferedKind::File(file) = &offered.kind {
            contents.entry(file.content).or_insert(Place::File(found.absolute));
        }
    }
    let mut builder = OfferBuilder::default();
    offered.into_iter().try_for_each(|entry| builder.add(entry))?;
    Ok(Source { offer: builder.finish()?, contents, spool: None })
}

fn walk(root: &Path) -> Result<Vec<Found>, SourceError> {
    let stat = |path: &Path| std::fs::metadata(path).map_err(|error| SourceError::io("stat", path, error));
    let mut found = vec![Found { path: Vec::new(), absolute: root.to_owned(), metadata: stat(root)? }];
    let mut at = 0;
    while at < found.len() {
        if found[at].metadata.is_dir() {
            let (path, absolute) = (found[at].path.clone(), found[at].absolute.clone());
            let failed = |error| SourceError::io("list", &absolute, error);
            for entry in std::fs::read_dir(&absolute).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let absolute = entry.path();
                let metadata = entry.metadata().map_err(|error| SourceError::io("stat", &absolute, error))?;
                found.push(Found { path: join(&path, &entry.file_name()), absolute, metadata });
            }
            if found.len() > ENTRIES_MAX {
                return Err(OfferError::TooMany.into());
            }
        }
        at += 1;
    }
    Ok(found)
}

fn join(directory: &[u8], name: &OsStr) -> Vec<u8> {
    if directory.is_empty() { name.as_bytes().to_vec() } else { [directory, b"/", name.as_bytes()].concat() }
}

fn offer(found: &Found) -> Result<Offered, SourceError> {
    let Found { path, absolute, metadata } = found;
    let kind = metadata.file_type();
    let mode = metadata.mode() & 0o7777;
    if kind.is_symlink() {
        let target = std::fs::read_link(absolute).map_err(|error| SourceError::io("read link", absolute, error))?;
        let target = target.as_os_str().as_bytes().to_vec();
        return Ok(Offered { path: path.clone(), mode: LINK_MODE, kind: OfferedKind::Link(target) });
    }
    without_attributes(found)?;
    if kind.is_dir() {
        return Ok(Offered { path: path.clone(), mode, kind: OfferedKind::Directory });
    }
    if !kind.is_file() {
        let what = "is a device, a socket or a FIFO; a release has only files, directories and links";
        return Err(SourceError::entry(path, what));
    }
    let (bytes, content) = hash(absolute, metadata.len())?;
    let nanos = i32::try_from(metadata.mtime_nsec()).unwrap_or_default();
    let modified = Timestamp::new(metadata.mtime(), nanos).unwrap_or(Timestamp::UNIX_EPOCH);
    Ok(Offered { path: path.clone(), mode, kind: OfferedKind::File(OfferedFile { bytes, content, modified }) })
}

/// Refuses extended attributes: they give rights that a release cannot carry, and would be lost without a word.
fn without_attributes(found: &Found) -> Result<(), SourceError> {
    let failed = |error: rustix::io::Errno| SourceError::io("read the attributes of", &found.absolute, error.into());
    match rustix::fs::llistxattr_query(&found.absolute) {
        Ok(0) | Err(rustix::io::Errno::OPNOTSUPP) => return Ok(()),
        Ok(_) => {}
        Err(error) => return Err(failed(error)),
    }
    let mut names = [0_u8; 64 * 1024];
    let bytes = rustix::fs::llistxattr(&found.absolute, &mut names[..]).map_err(failed)?;
    let foreign = names[..bytes].split(|byte| *byte == 0).find(|name| !name.is_empty() && *name != LABEL.as_bytes());
    match foreign {
        None => Ok(()),
        Some(name) => {
            let what = format!("has the extended attribute `{}`, which no release can have", super::printable(name));
            Err(SourceError::entry(&found.path, what))
        }
    }
}

fn hash(path: &Path, bytes: u64) -> Result<(u64, Digest), SourceError> {
    let failed = |error| SourceError::io("read", path, error);
    let mut file = File::open(path).map_err(failed)?;
    let mut hasher = blake3::Hasher::new();
    let is_large = bytes >= LARGE_BYTES;
    let small = usize::try_from(bytes).unwrap_or(BUFFER_BYTES).saturating_add(1).min(BUFFER_BYTES);
    let mut buffer = vec![0; if is_large { WINDOW_BYTES } else { small }];
    let mut bytes_read = 0;
    loop {
        let count = file.read(&mut buffer).map_err(failed)?;
        match count {
            0 => break,
            _ if is_large => hasher.update_rayon(&buffer[..count]),
            _ => hasher.update(&buffer[..count]),
        };
        bytes_read += count as u64;
    }
    Ok((bytes_read, Digest::from_bytes(*hasher.finalize().as_bytes())))
}
