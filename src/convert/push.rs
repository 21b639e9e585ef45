//! What is offered in a push.

use super::{
    ConvertError, digest, name, name_or_none, optional_text, required, required_time, text_or_none, time_out, wrong,
};
use crate::model::offer::{Label, Offered, OfferedFile, OfferedKind};
use crate::model::release::is_git_sha;
use crate::wire::v1;
use crate::wire::v1::offered_entry::Kind;

impl From<Label> for v1::PushHeader {
    /// Names no component: that is the caller's to add.
    fn from(label: Label) -> Self {
        Self {
            selector: None,
            release: label.release.to_string(),
            version: optional_text(label.version.as_ref()),
            git_sha: label.git_sha.unwrap_or_default(),
            notes: optional_text(label.notes.as_ref()),
        }
    }
}

impl TryFrom<v1::PushHeader> for Label {
    type Error = ConvertError;

    fn try_from(header: v1::PushHeader) -> Result<Self, ConvertError> {
        if !header.git_sha.is_empty() && !is_git_sha(&header.git_sha) {
            return Err(wrong("git_sha", "7 to 64 hexadecimal digits are expected"));
        }
        Ok(Self {
            release: name("release", &header.release)?,
            version: name_or_none("version", &header.version)?,
            git_sha: (!header.git_sha.is_empty()).then_some(header.git_sha),
            notes: text_or_none("notes", &header.notes)?,
        })
    }
}

impl From<Offered> for v1::OfferedEntry {
    fn from(entry: Offered) -> Self {
        let kind = match entry.kind {
            OfferedKind::Directory => Kind::Directory(v1::Empty {}),
            OfferedKind::File(file) => Kind::File(v1::OfferedFile {
                bytes: file.bytes,
                content: file.content.as_bytes().to_vec(),
                modified: Some(time_out(file.modified)),
            }),
            OfferedKind::Link(target) => Kind::Link(target),
        };
        Self { path: entry.path, mode: entry.mode, kind: Some(kind) }
    }
}

impl TryFrom<v1::OfferedEntry> for Offered {
    type Error = ConvertError;

    /// Whether the entry may be laid down is [`crate::model::offer::OfferBuilder`]'s to say.
    fn try_from(entry: v1::OfferedEntry) -> Result<Self, ConvertError> {
        let kind = match required("kind", entry.kind)? {
            Kind::Directory(v1::Empty {}) => OfferedKind::Directory,
            Kind::File(file) => OfferedKind::File(OfferedFile {
                bytes: file.bytes,
                content: digest("content", &file.content)?,
                modified: required_time("modified", file.modified)?,
            }),
            Kind::Link(target) => OfferedKind::Link(target),
        };
        Ok(Self { path: entry.path, mode: entry.mode, kind })
    }
}
