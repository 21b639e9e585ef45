//! Reads an archive: `tar`, plain or compressed by gzip or zstd. Contents go into one spool, paths stay bytes.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek as _, Write as _};
use std::path::Path;

use jiff::Timestamp;
use rollback::model::digest::Digest;
use rollback::model::offer::{
    ENTRIES_MAX, LINK_MODE, OfferBuilder, OfferError, Offered, OfferedFile, OfferedKind, parent,
};
use tar::{Entry, EntryType};

use super::{EXPANSION_MAX, LABEL, Place, Source, SourceError};

/// What any archive may unpack to, however small it is: tables of zeros shrink to nothing.
const UNPACKED_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// The mode of directories that an archive does not mention.
const DIRECTORY_MODE: u32 = 0o755;
/// What begins the keys of extended attributes and of access lists in the headers of an archive.
const ATTRIBUTES: [&str; 3] = ["SCHILY.xattr.", "LIBARCHIVE.xattr.", "SCHILY.acl."];

/// What is copied at once.
const BUFFER_BYTES: usize = 128 * 1024;

pub(super) fn read(path: &Path, strip: usize) -> Result<Source, SourceError> {
    let failed = |error| SourceError::io("read", path, error);
    let mut file = File::open(path).map_err(failed)?;
    let packed = file.metadata().map_err(failed)?.len();
    let unpacked_max = packed.saturating_mul(EXPANSION_MAX).max(UNPACKED_BYTES_MIN);
    let mut magic = [0; 4];
    let got = file.read(&mut magic).map_err(failed)?;
    file.rewind().map_err(failed)?;
    let input = BufReader::with_capacity(BUFFER_BYTES, file);
    let plain: Box<dyn Read> = match &magic[..got] {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::stream::read::Decoder::with_buffer(input).map_err(failed)?),
        _ => Box::new(input),
    };
    let spool =
        tempfile::tempfile().map_err(|error| SourceError::io("make a file in", &std::env::temp_dir(), error))?;
    let mut reading = Reading {
        archive: path,
        strip,
        unpacked_max,
        spool: BufWriter::with_capacity(BUFFER_BYTES, spool),
        spooled: 0,
        entries: BTreeMap::new(),
        contents: HashMap::new(),
    };
    // What is unpacked beyond the bound is an end of the archive for who reads it, and is noticed below.
    let mut bounded = plain.take(unpacked_max + 1);
    let read = reading.read_all(&mut bounded);
    if bounded.limit() == 0 {
        return Err(SourceError::Bomb(unpacked_max));
    }
    read?;
    reading.finish()
}

/// An archive that is being read.
struct Reading<'a> {
    archive: &'a Path,
    strip: usize,
    unpacked_max: u64,
    spool: BufWriter<File>,
    spooled: u64,
    entries: BTreeMap<Vec<u8>, Vec<Offered>>,
    contents: HashMap<Digest, Place>,
}

impl Reading<'_> {
    fn failed(&self, error: io::Error) -> SourceError {
        SourceError::io("read", self.archive, error)
    }

    fn read_all(&mut self, plain: &mut dyn Read) -> Result<(), SourceError> {
        let mut archive = tar::Archive::new(plain);
        let entries = archive.entries().map_err(|error| self.failed(error))?;
        for entry in entries {
            let mut entry = entry.map_err(|error| self.failed(error))?;
            self.take(&mut entry)?;
            if self.entries.len() > ENTRIES_MAX {
                return Err(OfferError::TooMany.into());
            }
        }
        Ok(())
    }

    fn take(&mut self, entry: &mut Entry<'_, &mut dyn Read>) -> Result<(), SourceError> {
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let told = entry.path_bytes().into_owned();
        let Some(path) = stripped(&told, self.strip) else { return Ok(()) };
        if self.strip > 0 && path.is_empty() && kind != EntryType::Directory {
            return Ok(());
        }
        without_attributes(entry, &path).map_err(|error| error.unwrap_or_else(|error| self.failed(error)))?;
        let mode = entry.header().mode().map_err(|error| self.failed(error))? & 0o7777;
        let offered = match kind {
            EntryType::Directory => Offered { path, mode, kind: OfferedKind::Directory },
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let seconds = entry.header().mtime().map_err(|error| self.failed(error))?;
                let modified = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
                let (bytes, content) = self.spool(entry)?;
                let modified = modified.unwrap_or(Timestamp::UNIX_EPOCH);
                Offered { path, mode, kind: OfferedKind::File(OfferedFile { bytes, content, modified }) }
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().map(|target| target.into_owned()).unwrap_or_default();
                Offered { path, mode: LINK_MODE, kind: OfferedKind::Link(target) }
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().map(|target| target.into_owned()).unwrap_or_default();
                let first = stripped(&target, self.strip).and_then(|target| self.entries.get(&target)?.last());
                match first.map(|first| (first.mode, &first.kind)) {
                    Some((mode, OfferedKind::File(file))) => Offered { path, mode, kind: OfferedKind::File(*file) },
                    Some((_, OfferedKind::Directory | OfferedKind::Link(_))) | None => {
                        let what = "is a hard link to something that is no file of the archive before it";
                        return Err(SourceError::entry(&path, what));
                    }
                }
            }
            _ => {
                let what = "is a device, a FIFO or of an unknown type; a release has only files, directories and links";
                return Err(SourceError::entry(&path, what));
            }
        };
        self.keep(offered);
        Ok(())
    }

    /// Keeps an entry. A directory that is told twice has the last mode; of others both are kept, and are refused.
    fn keep(&mut self, offered: Offered) {
        let told = self.entries.entry(offered.path.clone()).or_default();
        match told.last_mut() {
            Some(last) if last.kind == OfferedKind::Directory && offered.kind == OfferedKind::Directory => {
                *last = offered;
            }
            Some(_) | None => told.push(offered),
        }
    }

    /// Writes a content behind the others.
    fn spool(&mut self, entry: &mut Entry<'_, &mut dyn Read>) -> Result<(u64, Digest), SourceError> {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut bytes = 0;
        loop {
            let count = entry.read(&mut buffer).map_err(|error| self.failed(error))?;
            if count == 0 {
                break;
            }
            bytes += count as u64;
            // Holes of sparse files cost an archive nothing.
            if self.spooled + bytes > self.unpacked_max {
                return Err(SourceError::Bomb(self.unpacked_max));
            }
            hasher.update(&buffer[..count]);
            let written = self.spool.write_all(&buffer[..count]);
            written.map_err(|error| SourceError::io("write to", &std::env::temp_dir(), error))?;
        }
        let content = Digest::from_bytes(*hasher.finalize().as_bytes());
        self.contents.entry(content).or_insert(Place::Spooled { offset: self.spooled, bytes });
        self.spooled += bytes;
        Ok((bytes, content))
    }

    fn finish(mut self) -> Result<Source, SourceError> {
        let known: Vec<Vec<u8>> = self.entries.keys().cloned().collect();
        for path in &known {
            let mut above = parent(path);
            while !above.is_empty() && !self.entries.contains_key(above) {
                self.keep(Offered { path: above.to_vec(), mode: DIRECTORY_MODE, kind: OfferedKind::Directory });
                above = parent(above);
            }
        }
        if !self.entries.contains_key(&b""[..]) {
            self.keep(Offered { path: Vec::new(), mode: DIRECTORY_MODE, kind: OfferedKind::Directory });
        }
        let mut builder = OfferBuilder::default();
        self.entries.into_values().flatten().try_for_each(|entry| builder.add(entry))?;
        let spool = self
            .spool
            .into_inner()
            .map_err(|error| SourceError::io("write to", &std::env::temp_dir(), error.into_error()))?;
        Ok(Source { offer: builder.finish()?, contents: self.contents, spool: Some(spool) })
    }
}

/// Leaves `.`, a slash at the end, and the first parts out of a path; none when it has fewer. What is hostile in a path stays
/// in it.
fn stripped(path: &[u8], strip: usize) -> Option<Vec<u8>> {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| *part != b".").collect();
    parts.get(strip..).map(|left| left.join(&b'/'))
}

/// Refuses extended attributes and access lists; the inner result tells an archive that cannot be read.
fn without_attributes(entry: &mut Entry<'_, &mut dyn Read>, path: &[u8]) -> Result<(), Result<SourceError, io::Error>> {
    let Some(extensions) = entry.pax_extensions().map_err(Err)? else { return Ok(()) };
    for extension in extensions {
        let extension = extension.map_err(Err)?;
        let key = String::from_utf8_lossy(extension.key_bytes()).into_owned();
        let name = ATTRIBUTES.iter().find_map(|prefix| key.strip_prefix(prefix));
        if name.is_some_and(|name| name != LABEL) {
            let what = format!("has the attribute `{}`, which no release can have", super::printable(key.as_bytes()));
            return Err(Ok(SourceError::entry(path, what)));
        }
    }
    Ok(())
}
