//! Releases, what is wrong with them, where `current` leads, who holds an environment.

use super::{
    ConvertError, digest, enum_words, list, name, name_or_none, optional_text, required, required_time, text_or_none,
    time_in, time_or_none, time_out, word, wrong,
};
use crate::model::host::{Configuration, Current, Lease, ObservedRelease};
use crate::model::refusal::{PassedOver, Unfit};
use crate::model::release::{Difference, DifferenceKind, Integrity, Manifest, Origin, Quarantine};
use crate::model::text::Text;
use crate::wire::v1;

enum_words!(DifferenceKind, v1::DifferenceKind, "what", {
    Missing <=> Missing, Added <=> Added, Content <=> Content, Mode <=> Mode, Type <=> Type, Target <=> Target,
});

impl From<Difference> for v1::Difference {
    fn from(difference: Difference) -> Self {
        Self { path: difference.path, what: v1::DifferenceKind::from(difference.what).into() }
    }
}

impl TryFrom<v1::Difference> for Difference {
    type Error = ConvertError;

    fn try_from(difference: v1::Difference) -> Result<Self, ConvertError> {
        Ok(Self { path: difference.path, what: word::<v1::DifferenceKind>("what", difference.what)?.try_into()? })
    }
}

fn damage_out(differences: Vec<Difference>, more: u64) -> v1::Damage {
    v1::Damage { differences: differences.into_iter().map(Into::into).collect(), more }
}

fn damage_in(damage: v1::Damage) -> Result<(Vec<Difference>, u64), ConvertError> {
    Ok((list("differences", damage.differences, TryInto::try_into)?, damage.more))
}

impl From<Quarantine> for v1::Quarantine {
    fn from(quarantine: Quarantine) -> Self {
        Self { reason: quarantine.reason.to_string(), by: quarantine.by, since: Some(time_out(quarantine.since)) }
    }
}

impl TryFrom<v1::Quarantine> for Quarantine {
    type Error = ConvertError;

    fn try_from(quarantine: v1::Quarantine) -> Result<Self, ConvertError> {
        Ok(Self {
            reason: Text::new(&quarantine.reason).map_err(|error| wrong("reason", error))?,
            by: quarantine.by,
            since: required_time("since", quarantine.since)?,
        })
    }
}

impl From<Integrity> for v1::Integrity {
    fn from(integrity: Integrity) -> Self {
        use v1::integrity::Integrity as Wire;
        Self {
            integrity: Some(match integrity {
                Integrity::Intact { read_at } => Wire::Intact(time_out(read_at)),
                Integrity::Damaged { differences, more } => Wire::Damaged(damage_out(differences, more)),
                Integrity::Unknown { why } => Wire::Unknown(why),
            }),
        }
    }
}

impl TryFrom<v1::Integrity> for Integrity {
    type Error = ConvertError;

    fn try_from(integrity: v1::Integrity) -> Result<Self, ConvertError> {
        use v1::integrity::Integrity as Wire;
        Ok(match required("integrity", integrity.integrity)? {
            Wire::Intact(read_at) => Self::Intact { read_at: time_in("intact", read_at)? },
            Wire::Damaged(damage) => {
                let (differences, more) = damage_in(damage)?;
                Self::Damaged { differences, more }
            }
            Wire::Unknown(why) => Self::Unknown { why },
        })
    }
}

impl From<Unfit> for v1::Unfit {
    fn from(unfit: Unfit) -> Self {
        use v1::unfit::Why;
        Self {
            why: Some(match unfit {
                Unfit::IsCurrent => Why::IsCurrent(v1::Empty {}),
                Unfit::NeverVerified => Why::NeverVerified(v1::Empty {}),
                Unfit::Quarantined { reason, by, since } => {
                    Why::Quarantined(v1::Quarantine { reason, by, since: Some(time_out(since)) })
                }
                Unfit::Damaged { differences, more } => Why::Damaged(damage_out(differences, more)),
                Unfit::IntegrityUnknown { cause } => Why::IntegrityUnknown(cause),
                Unfit::ConfigurationMissing { cause } => Why::ConfigurationMissing(cause),
                Unfit::BelowFloor { version, floor } => Why::BelowFloor(v1::BelowFloor {
                    version: version.map(|version| version.to_string()).unwrap_or_default(),
                    floor: floor.to_string(),
                }),
                Unfit::Gone => Why::Gone(v1::Empty {}),
            }),
        }
    }
}

impl TryFrom<v1::Unfit> for Unfit {
    type Error = ConvertError;

    fn try_from(unfit: v1::Unfit) -> Result<Self, ConvertError> {
        use v1::unfit::Why;
        Ok(match required("why", unfit.why)? {
            Why::IsCurrent(v1::Empty {}) => Self::IsCurrent,
            Why::NeverVerified(v1::Empty {}) => Self::NeverVerified,
            Why::Quarantined(quarantine) => Self::Quarantined {
                reason: quarantine.reason,
                by: quarantine.by,
                since: required_time("since", quarantine.since)?,
            },
            Why::Damaged(damage) => {
                let (differences, more) = damage_in(damage)?;
                Self::Damaged { differences, more }
            }
            Why::IntegrityUnknown(cause) => Self::IntegrityUnknown { cause },
            Why::ConfigurationMissing(cause) => Self::ConfigurationMissing { cause },
            Why::BelowFloor(below) => Self::BelowFloor {
                version: if below.version.is_empty() { None } else { Some(name("version", &below.version)?) },
                floor: name("floor", &below.floor)?,
            },
            Why::Gone(v1::Empty {}) => Self::Gone,
        })
    }
}

impl From<PassedOver> for v1::PassedOver {
    fn from(passed: PassedOver) -> Self {
        Self { release: passed.release.to_string(), unfit: Some(passed.unfit.into()) }
    }
}

impl TryFrom<v1::PassedOver> for PassedOver {
    type Error = ConvertError;

    fn try_from(passed: v1::PassedOver) -> Result<Self, ConvertError> {
        Ok(Self { release: name("release", &passed.release)?, unfit: required("unfit", passed.unfit)?.try_into()? })
    }
}

impl From<Current> for v1::Current {
    fn from(current: Current) -> Self {
        use v1::current::Current as Wire;
        Self {
            current: Some(match current {
                Current::Release(id) => Wire::Release(id.to_string()),
                Current::Missing => Wire::Missing(v1::Empty {}),
                Current::Dangling(target) => Wire::Dangling(target),
                Current::Outside(target) => Wire::Outside(target),
                Current::NotALink => Wire::NotALink(v1::Empty {}),
            }),
        }
    }
}

impl TryFrom<v1::Current> for Current {
    type Error = ConvertError;

    fn try_from(current: v1::Current) -> Result<Self, ConvertError> {
        use v1::current::Current as Wire;
        Ok(match required("current", current.current)? {
            Wire::Release(id) => Self::Release(name("release", &id)?),
            Wire::Missing(v1::Empty {}) => Self::Missing,
            Wire::Dangling(target) => Self::Dangling(target),
            Wire::Outside(target) => Self::Outside(target),
            Wire::NotALink(v1::Empty {}) => Self::NotALink,
        })
    }
}

impl From<Lease> for v1::Lease {
    fn from(lease: Lease) -> Self {
        Self {
            environment: lease.environment.to_string(),
            operation: lease.operation.to_string(),
            holder: lease.holder,
            reason: lease.reason,
            since: Some(time_out(lease.since)),
            expires: Some(time_out(lease.expires)),
            gives_way: lease.gives_way,
        }
    }
}

impl TryFrom<v1::Lease> for Lease {
    type Error = ConvertError;

    fn try_from(lease: v1::Lease) -> Result<Self, ConvertError> {
        Ok(Self {
            environment: name("environment", &lease.environment)?,
            operation: name("operation", &lease.operation)?,
            holder: lease.holder,
            reason: lease.reason,
            since: required_time("since", lease.since)?,
            expires: required_time("expires", lease.expires)?,
            gives_way: lease.gives_way,
        })
    }
}

impl From<ObservedRelease> for v1::Release {
    fn from(release: ObservedRelease) -> Self {
        let manifest = release.manifest;
        let (configuration_kept, configuration_missing) = match release.configuration {
            Configuration::NotKept => (false, String::new()),
            Configuration::Frozen => (true, String::new()),
            Configuration::Missing(cause) => (true, cause),
        };
        Self {
            id: manifest.id.to_string(),
            version: optional_text(manifest.version.as_ref()),
            git_sha: manifest.git_sha.unwrap_or_default(),
            created_at: Some(time_out(manifest.created_at)),
            created_by: manifest.created_by,
            recorded_at: Some(time_out(manifest.recorded_at)),
            pushed: match manifest.origin {
                Origin::Pushed => true,
                Origin::Adopted => false,
            },
            bytes: manifest.bytes,
            entries: manifest.entries,
            tree: manifest.tree.as_bytes().to_vec(),
            configuration_digest: manifest.configuration.map(|digest| digest.as_bytes().to_vec()).unwrap_or_default(),
            notes: optional_text(manifest.notes.as_ref()),
            integrity: Some(release.integrity.into()),
            configuration_missing,
            configuration_kept,
            good_since: release.good_since.map(time_out),
            quarantine: release.quarantine.map(Into::into),
            pinned: release.pinned,
        }
    }
}

impl TryFrom<v1::Release> for ObservedRelease {
    type Error = ConvertError;

    fn try_from(release: v1::Release) -> Result<Self, ConvertError> {
        let configuration = match (release.configuration_kept, release.configuration_missing) {
            (false, _) => Configuration::NotKept,
            (true, cause) if cause.is_empty() => Configuration::Frozen,
            (true, cause) => Configuration::Missing(cause),
        };
        Ok(Self {
            manifest: Manifest {
                id: name("id", &release.id)?,
                version: name_or_none("version", &release.version)?,
                git_sha: (!release.git_sha.is_empty()).then_some(release.git_sha),
                created_at: required_time("created_at", release.created_at)?,
                created_by: release.created_by,
                recorded_at: required_time("recorded_at", release.recorded_at)?,
                origin: if release.pushed { Origin::Pushed } else { Origin::Adopted },
                bytes: release.bytes,
                entries: release.entries,
                tree: digest("tree", &release.tree)?,
                configuration: if release.configuration_digest.is_empty() {
                    None
                } else {
                    Some(digest("configuration_digest", &release.configuration_digest)?)
                },
                notes: text_or_none("notes", &release.notes)?,
            },
            integrity: required("integrity", release.integrity)?.try_into()?,
            configuration,
            good_since: time_or_none("good_since", release.good_since)?,
            quarantine: release.quarantine.map(TryInto::try_into).transpose()?,
            pinned: release.pinned,
        })
    }
}
