//! Valid settings: the only types of the configuration that the rest of the agent sees.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use rollback::model::decision::Severity;
use rollback::model::health::Weight;
use rollback::model::ids::{ComponentName, Environment, HostName, ProbeName, UnitName};
use rollback::model::policy::{Policy, Timeouts};
use rollback::rules::lines::Patterns;
use rollback::rules::metric::Measure;
use rollback::rules::usage::Limits;

/// Everything an agent was told.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The host's name: the name in the agent's certificate.
    pub host: HostName,
    /// Where the agent listens for operators; none when only the local socket serves.
    pub listen: Option<SocketAddr>,
    /// Keys and certificates; present whenever `listen` is.
    pub tls: Option<Tls>,
    /// Directories.
    pub paths: Paths,
    /// The components by environment and name.
    pub components: BTreeMap<(Environment, ComponentName), Component>,
}

/// The agent's keys and whom it trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The trust domain in identities.
    pub domain: HostName,
    /// Certificates of the authorities, PEM.
    pub authority: PathBuf,
    /// The agent's certificate chain, PEM.
    pub certificate: PathBuf,
    /// The agent's key, PEM (PKCS#8), readable by its owner alone.
    pub key: PathBuf,
    /// The revocation list, PEM; none when there is none.
    pub revocations: Option<PathBuf>,
}

/// Where the agent keeps things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// `/etc/rollback`: `agent.toml`, `agent.d/*.toml`, `components.d/*.toml`.
    pub configuration: PathBuf,
    /// `/var/lib/rollback`: history, intent journal, manifests, frozen configurations.
    pub state: PathBuf,
    /// `/run/rollback`: the local socket.
    pub runtime: PathBuf,
}

impl Default for Paths {
    /// The directories of an installed agent.
    fn default() -> Self {
        Self {
            configuration: PathBuf::from("/etc/rollback"),
            state: PathBuf::from("/var/lib/rollback"),
            runtime: PathBuf::from("/run/rollback"),
        }
    }
}

impl Paths {
    /// The local socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.runtime.join("agent.sock")
    }

    /// The history's database.
    #[must_use]
    pub fn history(&self) -> PathBuf {
        self.state.join("history.db")
    }

    /// The intent journal.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.state.join("intents")
    }

    /// Manifests and frozen configurations of a component.
    #[must_use]
    pub fn component(&self, environment: &Environment, component: &ComponentName) -> PathBuf {
        self.state.join("components").join(environment.as_str()).join(component.as_str())
    }
}

/// One thing that is released on its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Component {
    /// Its name.
    pub name: ComponentName,
    /// Its environment.
    pub environment: Environment,
    /// The directory that has `current` and the releases; absolute.
    pub root: PathBuf,
    /// Where its releases are.
    pub releases: ReleasesLayout,
    /// The link's name below `root`.
    pub current: String,
    /// Who runs its units.
    pub backend: Backend,
    /// The units in start order; never empty.
    pub units: Vec<UnitName>,
    /// The configuration that returns with a release.
    pub configuration: Option<KeptConfiguration>,
    /// Its probes, smoke checks included.
    pub probes: Vec<Probe>,
    /// Its time limits.
    pub timeouts: Timeouts,
    /// Its rules.
    pub policy: Policy,
    /// Where its manifests and frozen configurations are kept.
    pub state: PathBuf,
}

/// Where a component's releases are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleasesLayout {
    /// The directory below `root`: `releases`, or `backups/prod`.
    pub directory: PathBuf,
    /// The names that count, with `*` for any text; `*` alone takes every directory.
    pub pattern: String,
    /// Whether files of equal content are one file with several names.
    pub hardlinks: bool,
}

/// Who runs a component's units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// systemd, over D-Bus.
    Systemd,
    /// The agent itself: one program per unit, run in the directory that `current` leads to.
    Process {
        /// The program and its arguments per unit; a program with a slash is taken below `current` unless absolute.
        commands: BTreeMap<UnitName, Vec<String>>,
    },
}

/// The configuration that is frozen with a release and linked back with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptConfiguration {
    /// The link's name below `root`; it leads to the frozen directory of the current release.
    pub link: String,
    /// The files in that directory.
    pub files: Vec<ConfigurationFile>,
}

/// One file of a kept configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigurationFile {
    /// Its name in the frozen directory.
    pub name: String,
    /// Where it comes from: absolute, or below the release's directory.
    pub from: PathBuf,
}

/// One check of a component.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// Its name.
    pub name: ProbeName,
    /// Whether it decides.
    pub weight: Weight,
    /// What it asks.
    pub kind: ProbeKind,
    /// The longest time for one try, in milliseconds.
    pub timeout_ms: u64,
    /// The time between two tries, in milliseconds.
    pub interval_ms: u64,
    /// How many consecutive failures count as a failure.
    pub failures: u32,
    /// How long it must fail in a watch before that counts, in milliseconds.
    pub for_ms: u64,
    /// How bad its failure is.
    pub severity: Severity,
}

/// What a probe asks.
#[derive(Debug, Clone, PartialEq)]
pub enum ProbeKind {
    /// All units run.
    Unit,
    /// An HTTP answer.
    Http(HttpProbe),
    /// A TCP connection is accepted.
    Tcp(TcpProbe),
    /// A program ends with 0.
    Exec(ExecProbe),
    /// Lines in the journal of the units.
    Log(LogProbe),
    /// Metrics of the service, or a query of a Prometheus server.
    Metric(MetricProbe),
    /// Memory and CPU of the units' processes.
    Resource(ResourceProbe),
}

/// An HTTP request and what it must give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProbe {
    /// The URL; redirects are not followed.
    pub url: String,
    /// The status codes that pass; empty for 200 to 299.
    pub statuses: Vec<u16>,
    /// A text that the body must contain.
    pub body: Option<String>,
    /// A value that the body must have as JSON.
    pub json: Option<JsonValue>,
    /// The longest time until the whole answer is there, in milliseconds.
    pub latency_max_ms: Option<u64>,
}

/// A value in a JSON text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonValue {
    /// Where it stands: a pointer of RFC 6901.
    pub pointer: String,
    /// What it must be; none when it must only be there and be neither `null` nor `false`.
    pub equals: Option<serde_json::Value>,
}

/// A TCP address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpProbe {
    /// `HOST:PORT`.
    pub address: String,
}

/// A program: absolute path and arguments; no shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecProbe {
    /// The program and its arguments.
    pub command: Vec<String>,
}

/// Critical lines in the journal of the units since their start.
#[derive(Debug, Clone, PartialEq)]
pub struct LogProbe {
    /// What makes a line critical.
    pub patterns: Patterns,
    /// How many there may be within the time.
    pub lines_max: u32,
    /// The time, in milliseconds.
    pub within_ms: u64,
}

/// A rule over metrics.
#[derive(Debug, Clone, PartialEq)]
pub enum MetricProbe {
    /// What the service itself exposes.
    Scrape(ScrapeProbe),
    /// What a Prometheus server says.
    Query(QueryProbe),
}

/// Metrics that the service exposes, read by the agent.
#[derive(Debug, Clone, PartialEq)]
pub struct ScrapeProbe {
    /// Where they are; redirects are not followed.
    pub url: String,
    /// What is measured.
    pub measure: Measure,
    /// The time over which it is, in milliseconds.
    pub window_ms: u64,
    /// How many requests there must be in it before anything is told.
    pub requests_min: u32,
}

/// An instant query.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryProbe {
    /// The server's own URL.
    pub server: String,
    /// The query.
    pub promql: String,
    /// The largest value.
    pub max: f64,
}

/// What the units' processes may use.
#[derive(Debug, Clone, PartialEq)]
pub struct ResourceProbe {
    /// The limits.
    pub limits: Limits,
    /// The time over which growth and CPU are measured, in milliseconds.
    pub window_ms: u64,
}
