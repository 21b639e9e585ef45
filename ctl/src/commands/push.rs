//! `rbctl push`: lays a release down on hosts, and sends only what each of them lacks.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use rollback::model::digest::Digest;
use rollback::model::ids::{ReleaseId, Version};
use rollback::model::offer::Label;
use rollback::model::release::is_git_sha;
use rollback::model::text::Text;
use rollback::wire::v1;
use rollback::wire::v1::push_event::Event;
use rollback::wire::v1::push_request::What;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::Session;
use crate::cli::Selector;
use crate::error::{CommandError, EXIT_DONE, ErrorKind};
use crate::fleet::fanout::Client;
use crate::source::{self, Source};
use crate::ui::words::size;

/// Bytes of a content in one message: a quarter of what an agent accepts, so that headers never matter.
const PIECE_BYTES: usize = 256 * 1024;
/// Bytes of the entries of one message, for the same.
const ENTRIES_BYTES: usize = 256 * 1024;
/// Entries of one message: what an agent accepts.
const ENTRIES_MAX: usize = 10_000;
/// What is shown while the hosts work: the bytes that are in place on all of them.
const LAYING_DOWN: &str = "laying down {bytes}/{total_bytes} {bar:30} {eta}";
/// How often the spinner turns: often enough to be seen to live.
const SPINNER_INTERVAL: Duration = Duration::from_millis(200);
/// Messages that wait for a slow line, of each host.
const MESSAGES_WAITING_MAX: usize = 4;

/// Arguments of `rbctl push`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rbctl push dist/ --host web01,web02 --component web --version 2.5.0
  rbctl push web-2.5.0.tar.zst --all --component web --version 2.5.0 --git-sha 4f2a9c1 --note 'OPS-18'
  rbctl push web-2.5.0.tar.gz --strip-components 1 --host web01 --version 2.5.0 --name backup_20241112_153045
  rbctl push dist/ --host web01 --version 2.5.0 && rbctl deploy 2.5.0 --host web01
It activates nothing. Only files that a host lacks are sent. What broke off is taken up by the same command.")]
pub struct PushArgs {
    /// A directory, or an archive: `tar`, `tar.gz` or `tar.zst`.
    #[arg(value_name = "DIR|ARCHIVE")]
    pub source: PathBuf,
    /// Which component.
    #[command(flatten)]
    pub selector: Selector,
    /// What people call the release.
    #[arg(long)]
    pub version: Version,
    /// The name of its directory on the hosts; the version by default.
    #[arg(long, value_name = "RELEASE")]
    pub name: Option<ReleaseId>,
    /// The commit that it was built from.
    #[arg(long, value_name = "SHA", value_parser = git_sha)]
    pub git_sha: Option<String>,
    /// What is to be known of it.
    #[arg(long, value_name = "TEXT", value_parser = |text: &str| Text::new(text))]
    pub note: Option<Text>,
    /// Leaves out the first parts of the paths in an archive.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub strip_components: usize,
}

fn git_sha(text: &str) -> Result<String, String> {
    if is_git_sha(text) { Ok(text.to_owned()) } else { Err("7 to 64 hexadecimal digits are expected".to_owned()) }
}

/// One host's answer.
#[derive(Debug, Serialize)]
pub struct PushAnswer {
    /// The release.
    pub release: String,
    /// Its tree digest.
    pub tree: String,
    /// Whether it was there already, so that nothing was done.
    pub known: bool,
    /// Its files.
    pub files: Counted,
    /// Files that were sent.
    pub sent: Counted,
    /// Files that other releases have, or the release itself has twice.
    pub shared: Counted,
    /// How these were shared: `reflink`, `copy` or `hardlink`.
    pub sharing: &'static str,
    /// Files that were there from a push that broke off.
    pub resumed: Counted,
}

/// Files and their bytes.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Counted {
    /// How many.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl From<Option<v1::PushCount>> for Counted {
    fn from(count: Option<v1::PushCount>) -> Self {
        count.map(|count| Self { files: count.files, bytes: count.bytes }).unwrap_or_default()
    }
}

/// What every host gets.
struct Parcel {
    source: Source,
    /// The header and the entries.
    offer: Vec<v1::PushRequest>,
    bar: ProgressBar,
    limit: Duration,
}

impl Parcel {
    fn files(&self) -> Counted {
        Counted { files: self.source.offer.files().count() as u64, bytes: self.source.offer.bytes() }
    }
}

/// Runs the command.
///
/// # Errors
/// When what is pushed cannot be read or is not fit for a release, or the hosts are wrong.
pub async fn run(session: &Session, args: PushArgs) -> Result<u8, CommandError> {
    let fleet = session.fleet(true)?;
    let label = label(&args)?;
    let (path, strip) = (args.source.clone(), args.strip_components);
    let spinner = bar("{spinner} reading what is pushed");
    spinner.enable_steady_tick(SPINNER_INTERVAL);
    let reading = tokio::task::spawn_blocking(move || source::read(&path, strip)).await;
    spinner.finish_and_clear();
    let source = reading.map_err(|error| CommandError::failed(&error))?;
    let source = source.map_err(|error| {
        let error = CommandError::failed(&error);
        CommandError { text: format!("cannot push `{}`: {}", args.source.display(), error.text), ..error }
    })?;
    let header = v1::PushHeader { selector: Some(args.selector.wire()), ..label.into() };
    let offer = offer(header, &source);
    let parcel = Arc::new(Parcel { source, offer, bar: bar(LAYING_DOWN), limit: fleet.limit });
    let outcomes = fleet
        .each_unbounded(|client, _| {
            let parcel = Arc::clone(&parcel);
            async move {
                push(client, parcel).await.map_err(|error| match error.kind {
                    ErrorKind::Unreachable => error.hint("the same command goes on where this one has broken off"),
                    _ => error,
                })
            }
        })
        .await;
    parcel.bar.finish_and_clear();
    Ok(session.printer.hosts("Push", &outcomes, human, |_| EXIT_DONE))
}

fn label(args: &PushArgs) -> Result<Label, CommandError> {
    let release = match &args.name {
        Some(name) => name.clone(),
        None => args.version.as_str().parse().map_err(|error| {
            CommandError::usage(format!("the version is no name of a release: {error}"), "name it with `--name`")
        })?,
    };
    Ok(Label { release, version: Some(args.version.clone()), git_sha: args.git_sha.clone(), notes: args.note.clone() })
}

/// Makes the messages that every host gets.
fn offer(header: v1::PushHeader, source: &Source) -> Vec<v1::PushRequest> {
    let mut messages = vec![What::Header(header)];
    let (mut entries, mut bytes) = (Vec::new(), 0);
    for entry in source.offer.entries() {
        if bytes > ENTRIES_BYTES || entries.len() == ENTRIES_MAX {
            messages.push(What::Entries(v1::OfferedEntries { entries: std::mem::take(&mut entries) }));
            bytes = 0;
        }
        let entry = v1::OfferedEntry::from(entry.clone());
        bytes += prost::Message::encoded_len(&entry);
        entries.push(entry);
    }
    messages.push(What::Entries(v1::OfferedEntries { entries }));
    messages.push(What::Offered(v1::Empty {}));
    messages.into_iter().map(|what| v1::PushRequest { what: Some(what) }).collect()
}

fn bar(template: &str) -> ProgressBar {
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

async fn push(mut client: Client, parcel: Arc<Parcel>) -> Result<PushAnswer, CommandError> {
    let (messages, waiting) = mpsc::channel(MESSAGES_WAITING_MAX);
    let (told, lacked) = oneshot::channel();
    let feeding = feed(Arc::clone(&parcel), messages, lacked);
    let following = async {
        let called = client.push_release(ReceiverStream::new(waiting));
        let events = tokio::time::timeout(parcel.limit, called).await.map_err(|_| silent(parcel.limit))??;
        follow(events.into_inner(), &parcel, told).await
    };
    let (fed, answer) = tokio::join!(feeding, following);
    // What cannot be read here is the cause of what the agent then says.
    fed?;
    answer
}

fn silent(limit: Duration) -> CommandError {
    CommandError::new(ErrorKind::Unreachable, format!("the agent has been silent for {} s", limit.as_secs()))
}

/// Sends the offer, waits for what is lacked, and sends that. An agent that has gone is no error of this side.
async fn feed(
    parcel: Arc<Parcel>,
    messages: mpsc::Sender<v1::PushRequest>,
    lacked: oneshot::Receiver<Vec<Digest>>,
) -> Result<(), CommandError> {
    for message in &parcel.offer {
        if messages.send(message.clone()).await.is_err() {
            return Ok(());
        }
    }
    let Ok(lacked) = lacked.await else { return Ok(()) };
    let sending = tokio::task::spawn_blocking(move || {
        for content in lacked {
            let send = |data: Vec<u8>| {
                let part = v1::PushContent { content: content.as_bytes().to_vec(), data };
                messages.blocking_send(v1::PushRequest { what: Some(What::Content(part)) }).is_ok()
            };
            parcel.source.pieces(&content, PIECE_BYTES, send)?;
        }
        Ok::<_, source::SourceError>(())
    });
    sending.await.map_err(|error| CommandError::failed(&error))?.map_err(|error| CommandError::failed(&error))
}

/// Reads what the agent says to its end; it says something at least once a second.
async fn follow(
    mut events: tonic::Streaming<v1::PushEvent>,
    parcel: &Parcel,
    told: oneshot::Sender<Vec<Digest>>,
) -> Result<PushAnswer, CommandError> {
    let mut told = Some(told);
    let mut lacked: Vec<Digest> = Vec::new();
    let mut placed = 0;
    parcel.bar.inc_length(parcel.source.offer.bytes());
    loop {
        let event = tokio::time::timeout(parcel.limit, events.next()).await.map_err(|_| silent(parcel.limit))?;
        let Some(event) = event else {
            return Err(CommandError::new(ErrorKind::Unreachable, "the agent ended the push before its result"));
        };
        match event?.event {
            Some(Event::Lack(lack)) => {
                for content in lack.contents {
                    let content = <[u8; 32]>::try_from(content)
                        .map_err(|_| CommandError::new(ErrorKind::Failed, "the agent asks for no digest"))?;
                    lacked.push(Digest::from_bytes(content));
                }
                if lacked.len() > parcel.source.offer.entries().len() {
                    return Err(CommandError::new(ErrorKind::Failed, "the agent asks for more than was offered"));
                }
                if let Some(told) = told.take_if(|_| lack.complete) {
                    // Who feeds is there until it is told.
                    drop(told.send(std::mem::take(&mut lacked)));
                }
            }
            Some(Event::Result(result)) => {
                parcel.bar.inc(parcel.source.offer.bytes().saturating_sub(placed));
                return Ok(answer(result, parcel));
            }
            Some(Event::Progress(progress)) => {
                let now = progress.bytes.clamp(placed, parcel.source.offer.bytes());
                parcel.bar.inc(now - placed);
                placed = now;
            }
            None => {}
        }
    }
}

fn answer(result: v1::PushResult, parcel: &Parcel) -> PushAnswer {
    let sharing = match result.sharing() {
        v1::Sharing::Reflink => "reflink",
        v1::Sharing::Hardlink => "hardlink",
        v1::Sharing::Copy | v1::Sharing::Unspecified => "copy",
    };
    PushAnswer {
        release: result.release,
        tree: parcel.source.offer.tree().to_string(),
        known: result.known,
        files: parcel.files(),
        sent: result.sent.into(),
        shared: result.shared.into(),
        sharing,
        resumed: result.resumed.into(),
    }
}

fn human(hosts: &[(&str, &PushAnswer)]) -> String {
    let counted = |count: Counted| {
        let files = if count.files == 1 { "1 file".to_owned() } else { format!("{} files", count.files) };
        format!("{files} ({})", size(count.bytes))
    };
    let line = |(host, answer): &(&str, &PushAnswer)| {
        let release = &answer.release;
        if answer.known {
            return format!("{host}: `{release}` was there already, nothing was done");
        }
        let resumed = match answer.resumed.files {
            0 => String::new(),
            _ => format!(", {} there from a push that broke off", counted(answer.resumed)),
        };
        format!(
            "{host}: `{release}` is there, {}: {} sent, {} shared by {}{resumed}",
            counted(answer.files),
            counted(answer.sent),
            counted(answer.shared),
            answer.sharing
        )
    };
    crate::ui::printer::safe(&hosts.iter().map(line).collect::<Vec<_>>().join("\n"))
}
