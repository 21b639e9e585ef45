//! What a record looks like in the journal: a sentence for people, an identifier per kind, fields for scripts.

use rollback::model::decision::Severity;
use rollback::model::digest::Digest;
use rollback::model::ids::{ComponentName, Environment, OperationId, ReleaseId};
use rollback::model::operation::{Operation, Outcome, Trigger};
use rollback::model::record::{ChainedRecord, Mark, Record};
use rollback::model::release::Manifest;
use rollback::model::text::Text;

/// The kinds of records with their message identifiers: random, never used for anything else, never changed.
pub const MESSAGE_IDS: [(&str, &str); 20] = [
    ("agent.started", "21e6d20034144d5894932a515eb2c270"),
    ("release.adopted", "6f8b9208efc84ec8a706249279832dec"),
    ("release.pushed", "485ba402b8004b45bcf263b24b177767"),
    ("push.refused", "dc6c5fcf645248ce923fe553b49eab90"),
    ("activation.found", "d4ba5c9045ac47058d5d760e50222d7a"),
    ("operation.started", "0f585681f9034dee90bb1cd5eb5509f0"),
    ("operation.ended", "372c0118094d44398a2bed96bae82beb"),
    ("operation.refused", "973f743d2c3b4c3e9f94245a4696de94"),
    ("access.denied", "96f0767feef74d68993025bfec9f93d5"),
    ("lease.taken_over", "0af26185e8334bceb1b20841872b8920"),
    ("quarantine.added", "595b89d76b9348dca499e19342050a78"),
    ("quarantine.lifted", "b9c07e9a007e443ba70d573475f7edcd"),
    ("release.damaged", "c7e4aa542c3744a0902b4e65343d6855"),
    ("configuration.reloaded", "d4ba57eb84054a8b8906bc694e81bc94"),
    ("release.blessed", "68c533e30c3c473ea5e07cac59879f4e"),
    ("release.pinned", "6958a518635844009e50fb0eac0b5859"),
    ("release.unpinned", "03452b07686a41b39603996dafe8986c"),
    ("release.removed", "a5ce0be60ec1436e9512e0b3d3b41523"),
    ("alert.received", "9f7ede892d444ca6ae0f8e1a1574fa0e"),
    ("evidence.saved", "74c57b4ccc3b46f28fdffb36223d4f7a"),
];

/// `authpriv`: who may read that may read the audit.
const FACILITY: &str = "10";

/// The priorities of syslog that the audit uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Priority {
    Critical = 2,
    Error = 3,
    Warning = 4,
    Notice = 5,
    Informational = 6,
}

/// What one kind of record says: its priority, its sentence, its own fields.
struct Told {
    priority: Priority,
    message: String,
    fields: Vec<(&'static str, String)>,
}

/// Gives the journal fields of a record, names unique, `MESSAGE` first. Empty fields are left out.
#[must_use]
pub fn fields(chained: &ChainedRecord) -> Vec<(&'static str, String)> {
    let told = tell(&chained.record);
    let kind = chained.record.kind();
    let mut fields = vec![("MESSAGE", told.message), ("PRIORITY", (told.priority as u8).to_string())];
    if let Some((_, id)) = MESSAGE_IDS.iter().find(|(known, _)| *known == kind) {
        fields.push(("MESSAGE_ID", (*id).to_owned()));
    }
    fields.extend([
        ("SYSLOG_IDENTIFIER", "rb-agent".to_owned()),
        ("SYSLOG_FACILITY", FACILITY.to_owned()),
        ("ROLLBACK_SEQUENCE", chained.sequence.to_string()),
        ("ROLLBACK_CHAIN", chained.digest.to_string()),
        ("ROLLBACK_AT", chained.at.to_string()),
        ("ROLLBACK_RECORD", kind.to_owned()),
    ]);
    fields.extend(told.fields.into_iter().filter(|(_, value)| !value.is_empty()));
    fields
}

fn tell(record: &Record) -> Told {
    match record {
        Record::AgentStarted { version, boot } => Told {
            priority: Priority::Informational,
            message: format!("Agent {version} has started in boot {boot}."),
            fields: Vec::new(),
        },
        Record::ReleaseAdopted { component, environment, manifest } => {
            let message = format!(
                "Release `{}` of `{component}` in `{environment}` was adopted: {}.",
                manifest.id, manifest.tree
            );
            of_release(Priority::Informational, message, component, environment, &manifest.id)
        }
        Record::ReleasePushed { component, environment, manifest } => pushed(component, environment, manifest),
        Record::PushRefused { component, environment, release, actor, refusal } => {
            let code = refusal.code();
            let message =
                format!("A push of `{release}` for `{component}` in `{environment}` was refused to {actor}: {code}.");
            let mut told = of_release(Priority::Warning, message, component, environment, release);
            told.fields.push(("ROLLBACK_ACTOR", actor.clone()));
            told.fields.push(("ROLLBACK_RESULT", "refused".to_owned()));
            told.fields.push(("ROLLBACK_REFUSAL", code.to_owned()));
            told
        }
        Record::ActivationFound { component, environment, release } => {
            let message = format!(
                "`{component}` in `{environment}` was found to run `{release}`, which no operation has activated."
            );
            of_release(Priority::Notice, message, component, environment, release)
        }
        Record::ReleaseDamaged { component, environment, release, what } => {
            let message = format!("Release `{release}` of `{component}` in `{environment}` is damaged: {what}.");
            of_release(Priority::Error, message, component, environment, release)
        }
        Record::OperationStarted { operation } => started(operation),
        Record::OperationEnded { operation, .. } => ended(operation),
        Record::EvidenceSaved { operation, journal } => saved(*operation, journal.len()),
        Record::OperationRefused { operation, component, environment, actor, refusal } => Told {
            priority: Priority::Warning,
            message: format!("Operation {operation} was refused to {actor}: {}.", refusal.code()),
            fields: vec![
                ("ROLLBACK_OPERATION", operation.to_string()),
                ("ROLLBACK_COMPONENT", component.as_ref().map(ToString::to_string).unwrap_or_default()),
                ("ROLLBACK_ENVIRONMENT", environment.as_ref().map(ToString::to_string).unwrap_or_default()),
                ("ROLLBACK_ACTOR", actor.clone()),
                ("ROLLBACK_RESULT", "refused".to_owned()),
                ("ROLLBACK_REFUSAL", refusal.code().to_owned()),
            ],
        },
        Record::AccessDenied { actor, peer, method, why } => denied(actor, peer, method.as_deref(), why),
        Record::LeaseTakenOver { environment, from, by, actor } => taken_over(environment, *from, *by, actor),
        Record::Quarantined { tree, reason, actor } => {
            let message = format!("Releases with the digest {tree} may not be activated any more: {reason}.");
            quarantine(Priority::Warning, message, tree, reason, actor)
        }
        Record::QuarantineLifted { tree, reason, actor } => {
            let message = format!("Releases with the digest {tree} may be activated again: {reason}.");
            quarantine(Priority::Notice, message, tree, reason, actor)
        }
        Record::ReleaseMarked { .. } | Record::ReleaseRemoved { .. } => kept_or_removed(record),
        Record::AlertReceived { component, environment, severity, reason, actor } => {
            alert((component, environment), *severity, reason, actor)
        }
        Record::ConfigurationReloaded { accepted, detail } => reloaded(*accepted, detail),
    }
}

fn saved(operation: OperationId, lines: usize) -> Told {
    Told {
        priority: Priority::Informational,
        message: format!("The last {lines} lines of what operation {operation} left are kept."),
        fields: vec![("ROLLBACK_OPERATION", operation.to_string())],
    }
}

fn taken_over(environment: &Environment, from: OperationId, by: OperationId, actor: &str) -> Told {
    Told {
        priority: Priority::Warning,
        message: format!("Operation {by} of {actor} has taken `{environment}` over from operation {from}."),
        fields: vec![
            ("ROLLBACK_OPERATION", by.to_string()),
            ("ROLLBACK_ENVIRONMENT", environment.to_string()),
            ("ROLLBACK_ACTOR", actor.to_owned()),
            ("ROLLBACK_TAKEN_FROM", from.to_string()),
        ],
    }
}

fn alert(
    (component, environment): (&ComponentName, &Environment),
    severity: Severity,
    reason: &Text,
    actor: &str,
) -> Told {
    Told {
        priority: Priority::Warning,
        message: format!("{actor} tells a {} alert of `{component}` in `{environment}`: {reason}.", severity.as_str()),
        fields: vec![
            ("ROLLBACK_COMPONENT", component.to_string()),
            ("ROLLBACK_ENVIRONMENT", environment.to_string()),
            ("ROLLBACK_ACTOR", actor.to_owned()),
            ("ROLLBACK_REASON", reason.to_string()),
        ],
    }
}

/// Tells what somebody says of a release, and what retention removed; nothing of other records.
fn kept_or_removed(record: &Record) -> Told {
    let (message, tree, by, (component, environment, release)) = match record {
        Record::ReleaseMarked { component, environment, release, tree, mark, reason, actor } => {
            let what = match mark {
                Mark::Blessed => "is good",
                Mark::Pinned => "is kept",
                Mark::Unpinned => "may be removed again",
            };
            let message = format!("Release `{release}` of `{component}` in `{environment}` {what}: {reason}.");
            (message, tree, Some((actor, reason)), (component, environment, release))
        }
        Record::ReleaseRemoved { component, environment, release, tree, why } => {
            let message = format!("Release `{release}` of `{component}` in `{environment}` was removed: {why}.");
            (message, tree, None, (component, environment, release))
        }
        other => unreachable!("{} is told elsewhere", other.kind()),
    };
    let mut told = of_release(Priority::Notice, message, component, environment, release);
    told.fields.push(("ROLLBACK_TREE", tree.to_string()));
    if let Some((actor, reason)) = by {
        told.fields.extend([("ROLLBACK_ACTOR", actor.clone()), ("ROLLBACK_REASON", reason.to_string())]);
    }
    told
}

fn quarantine(priority: Priority, message: String, tree: &Digest, reason: &Text, actor: &str) -> Told {
    Told {
        priority,
        message,
        fields: vec![
            ("ROLLBACK_TREE", tree.to_string()),
            ("ROLLBACK_ACTOR", actor.to_owned()),
            ("ROLLBACK_REASON", reason.to_string()),
        ],
    }
}

fn reloaded(accepted: bool, detail: &str) -> Told {
    let (priority, result, message) = if accepted {
        (Priority::Notice, "accepted", format!("The changed configuration is in force: {detail}."))
    } else {
        let message = format!("The changed configuration was refused, the old one stays in force: {detail}.");
        (Priority::Warning, "refused", message)
    };
    Told { priority, message, fields: vec![("ROLLBACK_RESULT", result.to_owned())] }
}

fn denied(actor: &str, peer: &str, method: Option<&str>, why: &str) -> Told {
    let what = method.map_or_else(|| "the connection".to_owned(), |method| format!("`{method}`"));
    Told {
        priority: Priority::Warning,
        message: format!("{actor} at {peer} was denied {what}: {why}."),
        fields: vec![
            ("ROLLBACK_ACTOR", actor.to_owned()),
            ("ROLLBACK_PEER", peer.to_owned()),
            ("ROLLBACK_METHOD", method.unwrap_or_default().to_owned()),
            ("ROLLBACK_RESULT", "denied".to_owned()),
        ],
    }
}

fn pushed(component: &ComponentName, environment: &Environment, manifest: &Manifest) -> Told {
    let Manifest { id, tree, created_by, .. } = manifest;
    let message = format!("Release `{id}` of `{component}` in `{environment}` was pushed by {created_by}: {tree}.");
    let mut told = of_release(Priority::Notice, message, component, environment, id);
    told.fields.push(("ROLLBACK_ACTOR", created_by.clone()));
    told
}

fn of_release(
    priority: Priority,
    message: String,
    component: &ComponentName,
    environment: &Environment,
    release: &ReleaseId,
) -> Told {
    let fields = vec![
        ("ROLLBACK_COMPONENT", component.to_string()),
        ("ROLLBACK_ENVIRONMENT", environment.to_string()),
        ("ROLLBACK_RELEASE", release.to_string()),
    ];
    Told { priority, message, fields }
}

fn started(operation: &Operation) -> Told {
    let plan = &operation.plan;
    let target = plan.target_release().map(ToString::to_string).unwrap_or_default();
    let from = plan.from.as_ref().map_or("no release", |from| from.as_str());
    let mut fields = of_operation(operation);
    fields.push(("ROLLBACK_RELEASE", target.clone()));
    Told {
        priority: Priority::Notice,
        message: format!(
            "Operation {} begins: `{}` in `{}` goes from `{from}` to `{target}`, asked for by {}.",
            operation.id, plan.component, plan.environment, operation.actor
        ),
        fields,
    }
}

fn ended(operation: &Operation) -> Told {
    let plan = &operation.plan;
    let subject = format!("Operation {} is over: `{}` in `{}`", operation.id, plan.component, plan.environment);
    let (priority, result, release, message) = match operation.outcome() {
        Some(Outcome::Done { release }) => {
            (Priority::Notice, "done", Some(release), format!("{subject} runs `{release}`, verified."))
        }
        Some(Outcome::Unverified { release, cause, .. }) => (
            Priority::Warning,
            "unverified",
            Some(release),
            format!("{subject} runs `{release}`, not verified: {cause}."),
        ),
        Some(Outcome::PutBack { release, cause }) => {
            (Priority::Error, "put_back", Some(release), format!("{subject} runs `{release}` as before: {cause}."))
        }
        Some(Outcome::NeedsOperator { release, cause }) => (
            Priority::Critical,
            "needs_operator",
            release.as_ref(),
            format!("{subject} needs manual intervention: {cause}."),
        ),
        Some(Outcome::Superseded { by }) => {
            (Priority::Warning, "superseded", None, format!("{subject} was taken over by operation {by}."))
        }
        None => (Priority::Error, "", None, format!("{subject} has no outcome.")),
    };
    let mut fields = of_operation(operation);
    fields.push(("ROLLBACK_RESULT", result.to_owned()));
    fields.push(("ROLLBACK_RELEASE", release.map(ToString::to_string).unwrap_or_default()));
    Told { priority, message, fields }
}

fn of_operation(operation: &Operation) -> Vec<(&'static str, String)> {
    let plan = &operation.plan;
    vec![
        ("ROLLBACK_OPERATION", operation.id.to_string()),
        ("ROLLBACK_COMPONENT", plan.component.to_string()),
        ("ROLLBACK_ENVIRONMENT", plan.environment.to_string()),
        ("ROLLBACK_PREVIOUS", plan.from.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("ROLLBACK_ACTOR", operation.actor.clone()),
        ("ROLLBACK_TRIGGER", trigger(operation.trigger).to_owned()),
        ("ROLLBACK_REASON", plan.request.reason.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("UNIT", plan.units.first().map(ToString::to_string).unwrap_or_default()),
    ]
}

fn trigger(trigger: Trigger) -> &'static str {
    match trigger {
        Trigger::Manual => "manual",
        Trigger::External => "external",
        Trigger::Alert => "alert",
    }
}
