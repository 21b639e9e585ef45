//! Builds every part of the agent, starts driver and servers, reloads, and drains on SIGTERM.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rollback::chain::Chain;
use rollback::model::record::Record;
use rollback::wire::FILE_DESCRIPTOR_SET;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::service::Routes;

use crate::audit::Audit;
use crate::clock::SystemClock;
use crate::config::{self, Paths, Settings};
use crate::dead_man::Switches;
use crate::driver::journal::FileJournal;
use crate::driver::{Driver, Ports};
use crate::facts::HostFacts;
use crate::history::SqliteHistory;
use crate::ports::{Clock, History};
use crate::probe::Probes;
use crate::release::{DiskStore, switched};
use crate::rpc::denials::Denials;
use crate::rpc::local::LocalSocket;
use crate::rpc::server;
use crate::rpc::service::{AgentFacts, AgentService};
use crate::rpc::tls::HotTls;
use crate::units::Managers;

/// Where journald takes entries.
const JOURNALD: &str = "/run/systemd/journal/socket";
/// Exists where systemd runs, and with it journald.
const SYSTEMD: &str = "/run/systemd/system";
/// How long running operations may take to end on SIGTERM; the unit's own limit is above it.
const DRAIN_LIMIT: Duration = Duration::from_secs(75);
/// How often new release directories are looked for: a deploy by another hand is listed within this time.
const ADOPT_INTERVAL: Duration = Duration::from_secs(30);
/// How often retention looks without an operation before it: what it removes is days old.
const PRUNE_INTERVAL: Duration = Duration::from_secs(3_600);
/// How often the status text is renewed when no watchdog asks for more.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// Reports of denied peers that wait for the history; more are counted, not kept.
const DENIALS_WAITING_MAX: usize = 64;

/// Why the agent does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The configuration is wrong: every problem, one line each.
    #[error("{0}")]
    Configuration(#[from] config::ConfigErrors),
    /// Something that others must not read can be read by them.
    #[error("{0}")]
    Private(#[from] config::ConfigProblem),
    /// A directory of the agent cannot be made.
    #[error("cannot make directory `{path}`")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A part cannot be started.
    #[error("{attempt}")]
    Part {
        /// What was attempted.
        attempt: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn part<E: Into<Box<dyn std::error::Error + Send + Sync>>>(attempt: impl Into<String>) -> impl FnOnce(E) -> AppError {
    let attempt = attempt.into();
    move |source| AppError::Part { attempt, source: source.into() }
}

/// What the status tells of the agent itself.
struct Itself {
    started_at: Timestamp,
    tls: Option<Arc<HotTls>>,
    no_tls: Option<String>,
    audit: Audit,
    reload: Mutex<Option<String>>,
}

impl AgentFacts for Itself {
    fn problems(&self) -> Vec<String> {
        let mut problems = self.tls.as_ref().map(|tls| tls.problems()).unwrap_or_default();
        problems.extend(self.no_tls.clone());
        // A host that never had a journald (a container, the demo) is not degraded without one.
        problems.extend(self.audit.degraded().filter(|_| std::path::Path::new(SYSTEMD).exists()));
        problems.extend(self.reload.lock().unwrap_or_else(PoisonError::into_inner).clone());
        problems
    }

    fn audit_lag(&self) -> u64 {
        self.audit.lag()
    }

    fn ends(&self) -> (Option<Timestamp>, Option<Timestamp>) {
        match &self.tls {
            None => (None, None),
            Some(tls) => {
                let material = tls.current();
                (Some(material.certificate_ends()), material.revocations_end())
            }
        }
    }

    fn started_at(&self) -> Timestamp {
        self.started_at
    }
}

/// The running agent.
struct App {
    paths: Paths,
    hostname: String,
    driver: Driver,
    settings: Arc<ArcSwap<Settings>>,
    itself: Arc<Itself>,
    /// Told when the disk is to be looked at; what comes while it is looked at is one more look.
    look: Arc<Notify>,
}

/// Runs the agent until SIGTERM.
///
/// # Errors
/// When it cannot start, or its server fails.
pub async fn run(paths: Paths, hostname: String) -> Result<(), AppError> {
    let settings = config::load(&paths, &hostname)?;
    for directory in [&paths.state, &paths.runtime] {
        make_private(directory)?;
        config::check_private(directory)?;
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let started_at = clock.now();
    let journal = FileJournal::open(&paths.journal()).map_err(part("cannot open the intent journal"))?;
    let history: Arc<dyn History> =
        Arc::new(SqliteHistory::open(&paths.history()).map_err(part("cannot open the history"))?);
    let audit = Audit::start(Arc::clone(&history), JOURNALD.as_ref(), &paths.state.join("audit.cursor"))
        .map_err(part("cannot start the audit"))?;
    let units = Arc::new(Managers::default());
    let facts = Arc::new(HostFacts);
    let ports = Ports {
        store: Arc::new(DiskStore::new()),
        units: Arc::clone(&units) as _,
        prober: Arc::new(Probes::new(units, Arc::clone(&facts) as _, Arc::clone(&clock))),
        history: Arc::clone(&history),
        journal: Arc::new(journal),
        clock: Arc::clone(&clock),
        facts,
        dead_man: Arc::new(Switches::new(&paths.state)),
    };
    let tls = settings.tls.clone().map(|tls| HotTls::open(tls, settings.host.clone(), Arc::clone(&clock))).transpose();
    // Bad certificates must never be the reason that a host cannot be taken back: the local socket serves all the same.
    let (tls, no_tls) = match tls {
        Ok(tls) => (tls.map(Arc::new), None),
        Err(error) => {
            let text = format!("the network is not served until the next start: {}", Chain(&error));
            tracing::error!("{text}");
            (None, Some(text))
        }
    };
    let listen = settings.listen;
    let settings = Arc::new(ArcSwap::from_pointee(settings));
    let driver = Driver::new(ports, Arc::clone(&settings));
    let boot = crate::procfs::boot();
    driver.note(Record::AgentStarted { version: env!("CARGO_PKG_VERSION").to_owned(), boot }).await;
    let itself = Arc::new(Itself { started_at, tls, no_tls, audit, reload: Mutex::default() });
    let app = App { paths, hostname, driver, settings, itself, look: Arc::default() };
    notify(&[sd_notify::NotifyState::Status("converging what was interrupted")]);
    for problem in app.driver.recover().await {
        tracing::warn!("{problem}");
    }
    app.driver.start_own_units().await;
    app.serve(listen).await
}

impl App {
    async fn serve(self, listen: Option<std::net::SocketAddr>) -> Result<(), AppError> {
        let token = CancellationToken::new();
        let denials = self.denials();
        let local = LocalSocket::bind(&self.paths.socket()).map_err(part("cannot open the local socket"))?;
        let routes = self.routes()?;
        let local = tokio::spawn(local.serve(routes.clone(), Arc::clone(&denials), token.clone()));
        let remote = match (listen, &self.itself.tls) {
            (Some(address), Some(tls)) => {
                let listener = TcpListener::bind(address).await.map_err(part(format!("cannot listen on {address}")))?;
                tracing::info!(%address, "listening");
                Some(tokio::spawn(server::serve(listener, Arc::clone(tls), routes, denials, token.clone())))
            }
            (Some(_) | None, _) => None,
        };
        self.until_told_to_stop().await?;
        notify(&[sd_notify::NotifyState::Stopping, sd_notify::NotifyState::Status("draining")]);
        let mut again = signals(SignalKind::terminate())?;
        tokio::select! {
            () = self.driver.drain(DRAIN_LIMIT) => {}
            _ = again.recv() => tracing::warn!("told to stop again: what runs is taken up by the next start"),
        }
        token.cancel();
        for server in [Some(local), remote].into_iter().flatten() {
            if let Ok(Err(error)) = server.await {
                tracing::warn!("{}", Chain(&error));
            }
        }
        Ok(())
    }

    fn routes(&self) -> Result<Routes, AppError> {
        let facts: Arc<dyn AgentFacts> = Arc::clone(&self.itself) as _;
        let service = AgentService::new(self.driver.clone(), facts).into_server();
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .build_v1()
            .map_err(part("cannot describe the contract"))?;
        let (_reporter, health) = tonic_health::server::health_reporter();
        Ok(Routes::new(service).add_service(health).add_service(reflection))
    }

    /// Records denied peers, in a task of its own so that the accept loop never waits.
    fn denials(&self) -> Arc<Denials> {
        let (sender, mut denied) = tokio::sync::mpsc::channel::<crate::rpc::denials::AccessDenied>(DENIALS_WAITING_MAX);
        let driver = self.driver.clone();
        tokio::spawn(async move {
            while let Some(denied) = denied.recv().await {
                let (actor, peer, method) = (denied.actor, denied.peer, denied.method);
                let why = match denied.suppressed {
                    0 => denied.why,
                    more => format!("{} ({more} more were not recorded)", denied.why),
                };
                driver.note(Record::AccessDenied { actor, peer, method, why }).await;
            }
        });
        Arc::new(Denials::new(Arc::clone(self.driver.clock()), move |denied| {
            if sender.try_send(denied).is_err() {
                tracing::warn!("too many denied peers at once; some are not recorded");
            }
        }))
    }

    /// Reloads, adopts, renews the status and feeds the watchdog, until SIGTERM or SIGINT.
    async fn until_told_to_stop(&self) -> Result<(), AppError> {
        let (mut terminate, mut interrupt, mut hangup) =
            (signals(SignalKind::terminate())?, signals(SignalKind::interrupt())?, signals(SignalKind::hangup())?);
        let further: Vec<PathBuf> =
            self.settings.load().tls.iter().filter_map(|tls| Some(tls.certificate.parent()?.to_owned())).collect();
        let mut changes = config::watch(&self.paths, &further).map_err(part("cannot watch the configuration"))?;
        let mut switches = self.watch_links();
        let _adopter = AbortOnDropHandle::new(tokio::spawn(adopt(self.driver.clone(), Arc::clone(&self.look))));
        let mut adopt = tokio::time::interval(ADOPT_INTERVAL);
        let beat = sd_notify::watchdog_enabled().map_or(STATUS_INTERVAL, |limit| limit / 3).min(STATUS_INTERVAL);
        let mut beats = tokio::time::interval(beat);
        let mut operations = self.driver.follow_all();
        let mut prune = tokio::time::interval(PRUNE_INTERVAL);
        adopt.tick().await;
        notify(&[sd_notify::NotifyState::Ready]);
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                _ = hangup.recv() => { self.reload().await; switches = self.watch_links(); }
                Some(()) = changes.recv() => { self.reload().await; switches = self.watch_links(); }
                Some(()) = next(&mut switches) => self.look.notify_one(),
                _ = adopt.tick() => self.look.notify_one(),
                _ = prune.tick() => {
                    // Removing files may take long, and nobody waits for it.
                    let driver = self.driver.clone();
                    drop(tokio::spawn(async move { driver.prune_all().await }));
                }
                _ = beats.tick() => self.beat().await,
                _ = operations.recv() => { self.itself.audit.wake(); self.beat().await; }
            }
        }
    }

    /// Watches the links of all components; without, they are looked at every [`ADOPT_INTERVAL`] all the same.
    fn watch_links(&self) -> Option<tokio::sync::mpsc::Receiver<()>> {
        let settings = self.settings.load();
        switched::watch(settings.components.values()).inspect_err(|error| tracing::warn!("{}", Chain(error))).ok()
    }

    /// Feeds the watchdog only when the history's thread answers; the driver answers by running this.
    async fn beat(&self) {
        let status = self.sentence();
        notify(&[sd_notify::NotifyState::Status(&status)]);
        match self.driver.history().head().await {
            Ok(_) => notify(&[sd_notify::NotifyState::Watchdog]),
            // A degraded history answers with an error, which is an answer: only a hang may cost a restart.
            Err(error) => {
                tracing::warn!("{}", Chain(&error));
                if self.driver.history().degraded().is_some() {
                    notify(&[sd_notify::NotifyState::Watchdog]);
                }
            }
        }
    }

    fn sentence(&self) -> String {
        let components = self.driver.select_all(None, None);
        let running: Vec<String> = components
            .iter()
            .filter_map(|component| self.driver.running(&component.environment))
            .map(|operation| {
                format!(
                    "{}/{}: {}",
                    operation.plan.environment,
                    operation.plan.component,
                    rollback::explain::phase(&operation.phase)
                )
            })
            .collect();
        let count = match components.len() {
            1 => "1 component".to_owned(),
            many => format!("{many} components"),
        };
        let problems = self.driver.problems().len() + self.itself.problems().len();
        let trouble = match problems {
            0 => String::new(),
            1 => ", 1 problem: see `rbctl status`".to_owned(),
            many => format!(", {many} problems: see `rbctl status`"),
        };
        if running.is_empty() { format!("{count}, idle{trouble}") } else { format!("{}{trouble}", running.join("; ")) }
    }

    /// Reads the configuration again; a bad one is refused and the old one stays.
    async fn reload(&self) {
        if let Some(tls) = &self.itself.tls
            && let Err(error) = tls.reload()
        {
            tracing::error!("{}", Chain(&error));
        }
        let (accepted, detail) = match config::load(&self.paths, &self.hostname) {
            Ok(new) if new == **self.settings.load() => return self.set_reload_problem(None),
            Ok(new) => {
                let listens_elsewhere = new.listen != self.settings.load().listen;
                let restart = if listens_elsewhere { "; `listen` changes with the next start" } else { "" };
                let detail = format!("{} components are in force{restart}", new.components.len());
                self.settings.store(Arc::new(new));
                self.set_reload_problem(None);
                self.look.notify_one();
                (true, detail)
            }
            Err(errors) => {
                let text = errors.to_string();
                self.set_reload_problem(Some(format!("the new configuration is refused, the old one stays: {text}")));
                (false, text)
            }
        };
        tracing::info!(accepted, "configuration: {detail}");
        self.driver.note(Record::ConfigurationReloaded { accepted, detail }).await;
    }

    fn set_reload_problem(&self, problem: Option<String>) {
        *self.itself.reload.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }
}

/// Looks at the disk whenever it is told to, beside the main loop: a large new release takes its time to be read, and
/// the watchdog is fed meanwhile.
async fn adopt(driver: Driver, look: Arc<Notify>) {
    loop {
        look.notified().await;
        driver.adopt_all().await;
    }
}

/// Gives the next message; waits for ever without a sender.
async fn next(receiver: &mut Option<tokio::sync::mpsc::Receiver<()>>) -> Option<()> {
    match receiver {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

fn signals(kind: SignalKind) -> Result<Signal, AppError> {
    signal(kind).map_err(part("cannot listen to signals"))
}

/// Tells systemd; without systemd nobody listens, which is no error.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot tell systemd");
    }
}

fn make_private(path: &std::path::Path) -> Result<(), AppError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| AppError::Directory { path: path.to_owned(), source })
}
