//! Asks many agents at once: bounded, with one outcome per host, in the order of the hosts.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use rollback::wire::v1::agent_client::AgentClient;
use tonic::transport::Channel;

use super::connect::{self, Deadlines, Target, Trust};
use crate::error::{CommandError, ErrorKind};

/// A client of one agent.
pub type Client = AgentClient<Channel>;

/// What every call of a command shares.
#[derive(Clone)]
pub struct Fleet {
    /// The hosts.
    pub targets: Vec<Target>,
    /// The client's keys.
    pub trust: Option<Arc<Trust>>,
    /// How many are asked at once.
    pub concurrency: usize,
    /// Longest time for one host's answer.
    pub limit: Duration,
}

/// One host's outcome.
pub struct HostOutcome<T> {
    /// The host's name, or `local`.
    pub host: String,
    /// What came of it.
    pub result: Result<T, CommandError>,
}

/// Names a target in answers.
#[must_use]
pub fn host_name(target: &Target) -> String {
    match target {
        Target::Remote { name, .. } => name.to_string(),
        Target::Local { .. } => "local".to_owned(),
    }
}

impl Fleet {
    /// Connects to one host.
    ///
    /// # Errors
    /// When it cannot be reached or does not accept the client.
    pub async fn connect(&self, target: &Target) -> Result<Client, CommandError> {
        let channel = connect::connect(target, self.trust.as_deref(), Deadlines::default()).await?;
        Ok(connect::client(channel))
    }

    /// Asks every host within the limit; a slow or dead one delays nobody but itself.
    pub async fn each<T, F, Fut>(&self, ask: F) -> Vec<HostOutcome<T>>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, CommandError>>,
    {
        let limit = self.limit;
        self.each_unbounded(|client, _| {
            let asking = ask(client);
            async move {
                tokio::time::timeout(limit, asking).await.unwrap_or_else(|_| {
                    let text = format!("no answer within {} s", limit.as_secs());
                    Err(CommandError::new(ErrorKind::Unreachable, text).hint("`--timeout` gives it longer"))
                })
            }
        })
        .await
    }

    /// Asks every host for as long as it takes, for what is followed.
    pub async fn each_unbounded<T, F, Fut>(&self, ask: F) -> Vec<HostOutcome<T>>
    where
        F: Fn(Client, Target) -> Fut,
        Fut: Future<Output = Result<T, CommandError>>,
    {
        let ask = &ask;
        let one = |target: Target| async move {
            let host = host_name(&target);
            let result = match self.connect(&target).await {
                Ok(client) => ask(client, target).await,
                Err(error) => Err(error),
            };
            HostOutcome { host, result }
        };
        futures_util::stream::iter(self.targets.clone()).map(one).buffered(self.concurrency).collect().await
    }
}
