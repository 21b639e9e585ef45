//! One connection to systemd's manager: its methods with deadlines, and the ends of its jobs; decides nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::try_join_all;
use rollback::model::ids::UnitName;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::timeout;
use zbus::message::Type;
use zbus::proxy::CacheProperties;
use zbus::wire::{OwnedObjectPath, OwnedVariant};
use zbus::{Connection, MatchRule, MessageStream};

/// Longest wait for the answer to one method call. PID 1 answers in well under a millisecond; five seconds let it
/// survive a storm of reloads, and are short enough that an operation sees a dead manager within its own limits.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(5);
/// Longest time to connect: a dead bus daemon whose socket systemd still holds lets connections hang, and there is
/// another way to reach the manager.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Longest wait for a reload of all unit files, which runs generators and takes seconds on large hosts.
pub(super) const RELOAD_LIMIT: Duration = Duration::from_secs(30);
/// Ends of jobs that are kept for a waiter that is slower than the bus. A whole boot has fewer jobs; a waiter that
/// misses some asks for the unit's state instead.
const ENDS_KEPT: usize = 4_096;

const SERVICE: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const UNIT_SERVICE: &str = "org.freedesktop.systemd1.Service";
const UNIT_SOCKET: &str = "org.freedesktop.systemd1.Socket";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// What is read of every unit.
const OF_UNITS: [&str; 4] = ["LoadState", "ActiveState", "SubState", "InvocationID"];
/// What is read of a service besides.
const OF_SERVICES: [&str; 4] = ["MainPID", "NRestarts", "Result", "ExecMainStatus"];

/// The methods of systemd's manager that are used.
#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn kill_unit(&self, name: &str, whom: &str, signal: i32) -> zbus::Result<()>;
    /// Nobody waits for the answer: a unit that is not loaded has no failure to forget, and the bus keeps the order.
    #[zbus(no_reply)]
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    fn cancel_job(&self, id: u32) -> zbus::Result<()>;
    fn reload(&self) -> zbus::Result<()>;
    fn get_unit_processes(&self, name: &str) -> zbus::Result<Vec<(String, u32, String)>>;
}

/// Why a call to the manager failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum BusError {
    /// The connection is dead, or nobody owns the manager's name: another way may work.
    #[error("the connection to systemd is gone")]
    Gone(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The manager did not answer in time.
    #[error("systemd did not answer within {} ms", .0.as_millis())]
    Silent(Duration),
    /// The manager said no.
    #[error("systemd refused")]
    Refused(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<zbus::Error> for BusError {
    fn from(error: zbus::Error) -> Self {
        /// The bus daemon's words for "there is nobody to ask".
        const ABSENT: [&str; 4] = [
            "org.freedesktop.DBus.Error.ServiceUnknown",
            "org.freedesktop.DBus.Error.NameHasNoOwner",
            "org.freedesktop.DBus.Error.NoReply",
            "org.freedesktop.DBus.Error.Disconnected",
        ];
        match &error {
            zbus::Error::MethodError(name, ..) if !ABSENT.contains(&name.as_str()) => Self::Refused(error.into()),
            _ => Self::Gone(error.into()),
        }
    }
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum JobEnd {
    /// The manager told its result: `done`, `failed`, `canceled`, `timeout`, `dependency`, `skipped`.
    Ended(String),
    /// It still runs at the limit.
    Late,
    /// Its end can no longer be told on this connection.
    Lost,
}

/// A job whose end is awaited.
#[derive(Debug)]
pub(super) enum Job {
    /// The manager will tell its end.
    Bus {
        /// The job.
        path: OwnedObjectPath,
        /// The ends of all jobs since before it was made.
        ends: broadcast::Receiver<(OwnedObjectPath, String)>,
    },
    /// A `systemctl` waits for it.
    Tool(Box<tokio::process::Child>),
}

impl Job {
    /// Waits for the job's end; may be called again after [`JobEnd::Late`].
    pub(super) async fn end(&mut self, limit: Duration) -> JobEnd {
        let end = async {
            match self {
                Self::Bus { path, ends } => loop {
                    match ends.recv().await {
                        Ok((ended, result)) if ended == *path => return JobEnd::Ended(result),
                        Ok(_) => {}
                        Err(RecvError::Closed | RecvError::Lagged(_)) => return JobEnd::Lost,
                    }
                },
                Self::Tool(systemctl) => match systemctl.wait().await {
                    Ok(status) if status.success() => JobEnd::Ended("done".to_owned()),
                    Ok(_) => JobEnd::Ended("failed".to_owned()),
                    Err(_) => JobEnd::Lost,
                },
            }
        };
        timeout(limit, end).await.unwrap_or(JobEnd::Late)
    }
}

/// Properties of a unit by the manager's names, as `systemctl show` writes them.
#[derive(Debug, Default)]
pub(super) struct Properties(HashMap<String, String>);

impl Properties {
    /// Reads a text; empty when there is none.
    pub(super) fn text(&self, name: &str) -> &str {
        self.0.get(name).map(String::as_str).unwrap_or_default()
    }

    /// Reads a number; 0 when there is none.
    pub(super) fn number(&self, name: &str) -> u32 {
        self.text(name).parse().unwrap_or_default()
    }
}

impl FromIterator<(String, String)> for Properties {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(properties: I) -> Self {
        Self(properties.into_iter().collect())
    }
}

/// Writes a value as `systemctl show` does; none for kinds that nobody here reads.
fn written(value: OwnedVariant) -> Option<String> {
    if let Ok(text) = value.downcast_ref::<&str>() {
        return Some(text.to_owned());
    }
    if let Ok(number) = value.downcast_ref::<u32>() {
        return Some(number.to_string());
    }
    if let Ok(number) = value.downcast_ref::<i32>() {
        return Some(number.to_string());
    }
    if let Ok(flag) = value.downcast_ref::<bool>() {
        return Some(if flag { "yes" } else { "no" }.to_owned());
    }
    let bytes = Vec::<u8>::try_from(value).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A connection with its subscription to the ends of jobs.
#[derive(Debug)]
pub(super) struct Bus {
    manager: ManagerProxy<'static>,
    ends: broadcast::Receiver<(OwnedObjectPath, String)>,
    alive: Arc<AtomicBool>,
}

impl Bus {
    /// Connects and subscribes to the ends of jobs, before any job is made.
    pub(super) async fn connect() -> Result<Self, BusError> {
        within(CONNECT_LIMIT, async {
            let connection = Connection::system().await?;
            let rule = MatchRule::builder().msg_type(Type::Signal).interface(MANAGER).member("JobRemoved").path(PATH);
            let removed = MessageStream::for_match_rule(rule.build()?, &connection, None).await?;
            let manager = ManagerProxy::builder(&connection).cache_properties(CacheProperties::No).build().await?;
            manager.subscribe().await?;
            let alive = Arc::new(AtomicBool::new(true));
            let (told, ends) = broadcast::channel(ENDS_KEPT);
            tokio::spawn(tell_ends(removed, told, Arc::clone(&alive)));
            Ok(Self { manager, ends, alive })
        })
        .await
    }

    /// Tells whether the connection still works, as far as is known.
    pub(super) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed) && !self.manager.inner().connection().is_closed()
    }

    /// Enqueues the unit's stop. Tells the unit's cgroup as well, empty when it has none: asked for at the same time,
    /// which costs no wait.
    pub(super) async fn stop(&self, unit: &UnitName) -> Result<(Job, String), BusError> {
        let ends = self.ends.resubscribe();
        let stopped = within(CALL_LIMIT, self.manager.stop_unit(unit.as_str(), "replace"));
        let interface = if unit.as_str().ends_with(".socket") { UNIT_SOCKET } else { UNIT_SERVICE };
        let (path, group) = futures_util::join!(stopped, self.property(unit, interface, "ControlGroup"));
        Ok((Job::Bus { path: path?, ends }, group.unwrap_or_default()))
    }

    /// Forgets the unit's failures and its start limit, and enqueues its start.
    pub(super) async fn start(&self, unit: &UnitName) -> Result<Job, BusError> {
        let ends = self.ends.resubscribe();
        let calls = async {
            self.manager.reset_failed_unit(unit.as_str()).await?;
            self.manager.start_unit(unit.as_str(), "replace").await
        };
        Ok(Job::Bus { path: within(CALL_LIMIT, calls).await?, ends })
    }

    /// Sends SIGKILL to every process of the unit.
    pub(super) async fn kill(&self, unit: &UnitName) -> Result<(), BusError> {
        within(CALL_LIMIT, self.manager.kill_unit(unit.as_str(), "all", nix::libc::SIGKILL)).await
    }

    /// Cancels a job.
    pub(super) async fn cancel(&self, job: &OwnedObjectPath) -> Result<(), BusError> {
        let id = job.as_str().rsplit('/').next().and_then(|id| id.parse().ok()).unwrap_or_default();
        within(CALL_LIMIT, self.manager.cancel_job(id)).await
    }

    /// Reads all unit files again.
    pub(super) async fn reload(&self) -> Result<(), BusError> {
        within(RELOAD_LIMIT, self.manager.reload()).await
    }

    /// Lists the processes in the unit's cgroup as process id and command line.
    pub(super) async fn processes(&self, unit: &UnitName) -> Result<Vec<(u32, String)>, BusError> {
        let found = within(CALL_LIMIT, self.manager.get_unit_processes(unit.as_str())).await?;
        Ok(found.into_iter().map(|(_, pid, command)| (pid, command)).collect())
    }

    /// Tells whether the unit's files changed since the manager read them.
    pub(super) async fn is_outdated(&self, unit: &UnitName) -> Result<bool, BusError> {
        Ok(self.property(unit, UNIT, "NeedDaemonReload").await? == "yes")
    }

    async fn property(&self, unit: &UnitName, interface: &str, name: &str) -> Result<String, BusError> {
        let connection = self.manager.inner().connection();
        let body = &(interface, name);
        let path = object_path(unit);
        let call = connection.call_method(Some(SERVICE), path.as_str(), Some(PROPERTIES), "Get", body);
        let value: OwnedVariant = within(CALL_LIMIT, async { call.await?.body().deserialize() }).await?;
        Ok(written(value).unwrap_or_default())
    }

    /// Reads [`OF_UNITS`] and, of a service, [`OF_SERVICES`], asked for at the same time. A unit has some three hundred
    /// properties; to read them all takes the manager longer than a start.
    ///
    /// Asking for a unit's object makes the manager load it, so a unit that was never used is found as well.
    pub(super) async fn properties(&self, unit: &UnitName) -> Result<Properties, BusError> {
        let of_services: &[&str] = if unit.as_str().ends_with(".service") { &OF_SERVICES } else { &[] };
        let wanted =
            OF_UNITS.iter().map(|name| (UNIT, *name)).chain(of_services.iter().map(|name| (UNIT_SERVICE, *name)));
        let reads = wanted.map(async |(interface, name)| {
            Ok::<_, BusError>((name.to_owned(), self.property(unit, interface, name).await?))
        });
        Ok(try_join_all(reads).await?.into_iter().collect())
    }
}

/// Passes the ends of jobs on to whoever waits, until the connection dies.
async fn tell_ends(
    mut removed: MessageStream,
    told: broadcast::Sender<(OwnedObjectPath, String)>,
    alive: Arc<AtomicBool>,
) {
    while let Some(Ok(message)) = removed.next().await {
        let body = message.body();
        if let Ok((_, path, _, result)) = body.deserialize::<(u32, OwnedObjectPath, String, String)>() {
            // Without a waiter there is nobody to tell.
            told.send((path, result)).ok();
        }
    }
    alive.store(false, Ordering::Relaxed);
}

/// Bounds a call.
async fn within<T>(limit: Duration, call: impl Future<Output = zbus::Result<T>>) -> Result<T, BusError> {
    match timeout(limit, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(BusError::Silent(limit)),
    }
}

/// Names the object of a unit: letters and digits stand for themselves, all else (and a digit in front) as `_` and two
/// hexadecimal digits.
fn object_path(unit: &UnitName) -> String {
    let escaped = unit.as_str().bytes().enumerate().map(|(index, byte)| {
        let stands_for_itself = byte.is_ascii_alphabetic() || (index > 0 && byte.is_ascii_digit());
        if stands_for_itself { char::from(byte).to_string() } else { format!("_{byte:02x}") }
    });
    format!("{PATH}/unit/{}", escaped.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_paths_are_escaped_as_systemd_does() {
        for (unit, path) in [
            ("web.service", "web_2eservice"),
            ("1a-b@c.service", "_31a_2db_40c_2eservice"),
            ("a_b1.socket", "a_5fb1_2esocket"),
        ] {
            let unit = unit.parse().expect("a valid name");
            assert_eq!(object_path(&unit), format!("{PATH}/unit/{path}"));
        }
    }
}
