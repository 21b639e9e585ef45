//! `rbctl releases`: lists the releases of components, and says of one that it is good, or that it is kept.

use clap::{Args, Subcommand};
use rollback::model::host::{Current, ObservedRelease};
use rollback::model::ids::ReleaseId;
use rollback::wire::v1;
use serde::Serialize;

use super::Session;
use super::quarantine::ReleaseArgs;
use crate::cli::{Format, Selector};
use crate::error::{CommandError, EXIT_DONE, ErrorKind};
use crate::fleet::fanout::Client;
use crate::ui::printer::table;
use crate::ui::words::{age, size, standing};

/// Arguments of `rbctl releases`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rbctl releases --host web01
  rbctl releases --environment prod -o wide
  rbctl releases bless 2.4.0 --host web01 --reason 'has run for a year'
  rbctl releases pin 2.4.0 --host web01 --reason 'for the auditors'")]
#[command(args_conflicts_with_subcommands = true)]
pub struct ReleasesArgs {
    /// What to do; without it the releases are listed.
    #[command(subcommand)]
    pub what: Option<What>,
    /// Which components; all by default.
    #[command(flatten)]
    pub selector: Selector,
}

/// What is said of a release.
#[derive(Debug, Subcommand)]
pub enum What {
    /// It is good, although no watch says so: it may be gone back to.
    Bless(ReleaseArgs),
    /// Retention keeps it.
    Pin(ReleaseArgs),
    /// Retention may remove it again.
    Unpin(ReleaseArgs),
}

/// One host's answer to what was said of a release.
#[derive(Debug, Serialize)]
pub struct Marked {
    /// The release.
    pub release: ReleaseId,
    /// What was said: `blessed`, `pinned`, `unpinned`.
    pub mark: &'static str,
}

async fn mark(session: &Session, what: What) -> Result<u8, CommandError> {
    let fleet = session.fleet(true)?;
    let (wire, word, args) = match what {
        What::Bless(args) => (v1::Mark::Blessed, "blessed", args),
        What::Pin(args) => (v1::Mark::Pinned, "pinned", args),
        What::Unpin(args) => (v1::Mark::Unpinned, "unpinned", args),
    };
    let request = v1::MarkReleaseRequest {
        selector: Some(args.selector.wire()),
        release: args.release.to_string(),
        mark: wire.into(),
        reason: args.reason.to_string(),
    };
    let outcomes = fleet
        .each(|mut client| {
            let (request, release) = (request.clone(), args.release.clone());
            async move {
                client.mark_release(request).await?;
                Ok(Marked { release, mark: word })
            }
        })
        .await;
    let human = |hosts: &[(&str, &Marked)]| {
        hosts.iter().map(|(host, done)| format!("{host}: `{}` is {word}", done.release)).collect::<Vec<_>>().join("\n")
    };
    Ok(session.printer.hosts("Mark", &outcomes, human, |_| EXIT_DONE))
}

/// The releases of one agent.
#[derive(Debug, Serialize)]
pub struct Releases {
    /// The host, as the agent calls itself.
    pub name: String,
    /// Its components.
    pub components: Vec<ComponentReleases>,
}

/// The releases of one component, the newest first.
#[derive(Debug, Serialize)]
pub struct ComponentReleases {
    /// The component.
    pub component: String,
    /// Its environment.
    pub environment: String,
    /// Where `current` leads.
    pub current: Current,
    /// The releases.
    pub releases: Vec<ObservedRelease>,
}

/// Asks one agent for its releases.
pub(super) async fn ask(mut client: Client, selector: v1::ComponentSelector) -> Result<Releases, CommandError> {
    let reply = client.list_releases(v1::ListReleasesRequest { selector: Some(selector) }).await?.into_inner();
    let bad = |error: rollback::convert::ConvertError| CommandError::failed(&error);
    let component = |wire: v1::ComponentReleases| {
        let current = wire.current.ok_or_else(|| CommandError::new(ErrorKind::Failed, "the agent sent no current"))?;
        Ok::<_, CommandError>(ComponentReleases {
            component: wire.component,
            environment: wire.environment,
            current: current.try_into().map_err(bad)?,
            releases: wire.releases.into_iter().map(TryInto::try_into).collect::<Result<_, _>>().map_err(bad)?,
        })
    };
    Ok(Releases {
        name: reply.host,
        components: reply.components.into_iter().map(component).collect::<Result<_, _>>()?,
    })
}

/// Runs the command.
///
/// # Errors
/// When the hosts are wrong.
pub async fn run(session: &Session, args: ReleasesArgs) -> Result<u8, CommandError> {
    if let Some(what) = args.what {
        return mark(session, what).await;
    }
    let fleet = session.fleet(false)?;
    let outcomes = fleet.each(|client| ask(client, args.selector.wire())).await;
    let (now, wide) = (session.now(), session.printer.format() == Format::Wide);
    let human = |hosts: &[(&str, &Releases)]| {
        let mut header = vec!["HOST", "ENVIRONMENT", "COMPONENT", "RELEASE", "VERSION", "AGE", "SIZE", "", "STATE"];
        if wide {
            header.extend(["TREE", "GIT", "BY", "ENTRIES"]);
        }
        let mut rows = Vec::new();
        for (host, found) in hosts.iter().flat_map(|(_, r)| r.components.iter().map(|c| (r.name.as_str(), c))) {
            for release in &found.releases {
                let m = &release.manifest;
                let current = if found.current.release() == Some(&m.id) { "CURRENT" } else { "" };
                let mut row = vec![
                    host.to_owned(),
                    found.environment.clone(),
                    found.component.clone(),
                    m.id.to_string(),
                    m.version.as_ref().map(ToString::to_string).unwrap_or_default(),
                    age(m.created_at, now),
                    size(m.bytes),
                    current.to_owned(),
                    standing(release),
                ];
                if wide {
                    let git = m.git_sha.clone().unwrap_or_default();
                    row.extend([m.tree.short(), git, m.created_by.clone(), m.entries.to_string()]);
                }
                rows.push(row);
            }
        }
        table(&header, rows)
    };
    Ok(session.printer.hosts("Releases", &outcomes, human, |_| EXIT_DONE))
}
