//! The floor of a rollback: stop, link exchange and start by bare calls to systemd, with nothing proved or recorded.

use std::path::PathBuf;

use futures_util::StreamExt as _;
use zbus::wire::OwnedObjectPath;
use zbus::{Connection, MatchRule, MessageStream};

use crate::figures::Fault;
use crate::lab::Lab;

const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const SERVICE: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";

/// A connection to the host's systemd with the ends of its jobs.
pub(crate) struct Bus {
    connection: Connection,
    ends: MessageStream,
}

impl Bus {
    /// Connects to the bus of the lab's host.
    pub(crate) async fn connect(lab: &Lab) -> Result<Self, Fault> {
        let socket = lab.outside("/run/dbus/system_bus_socket")?;
        let address = format!("unix:path={}", socket.display());
        let connection = zbus::connection::Builder::address(address.as_str()).build().await?;
        let rule = MatchRule::builder().msg_type(zbus::message::Type::Signal).interface(MANAGER).member("JobRemoved");
        let ends = MessageStream::for_match_rule(rule.build()?, &connection, None).await?;
        connection.call_method(Some(SERVICE), PATH, Some(MANAGER), "Subscribe", &()).await?;
        Ok(Self { connection, ends })
    }

    /// Stops the unit, exchanges two links, starts the unit.
    pub(crate) async fn switch(&mut self, unit: &str, links: &[PathBuf; 2]) -> Result<(), Fault> {
        self.job("StopUnit", unit).await?;
        rustix::fs::renameat_with(
            rustix::fs::CWD,
            &links[0],
            rustix::fs::CWD,
            &links[1],
            rustix::fs::RenameFlags::EXCHANGE,
        )?;
        self.job("StartUnit", unit).await
    }

    async fn job(&mut self, method: &str, unit: &str) -> Result<(), Fault> {
        let reply = self.connection.call_method(Some(SERVICE), PATH, Some(MANAGER), method, &(unit, "replace")).await?;
        let job: OwnedObjectPath = reply.body().deserialize()?;
        while let Some(message) = self.ends.next().await {
            let message = message?;
            let body = message.body();
            let (_, path, _, result): (u32, OwnedObjectPath, String, String) = body.deserialize()?;
            if path == job {
                return if result == "done" { Ok(()) } else { Err(format!("{method} ended as {result}").into()) };
            }
        }
        Err("the bus is gone".into())
    }
}
