//! The contract's methods over the driver: translate, check the scope, ask, translate back.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use jiff::Timestamp;
use rollback::convert::time_out;
use rollback::engine::stats;
use rollback::model::decision::{Choice, Severity};
use rollback::model::host::ObservedRelease;
use rollback::model::identity::Role;
use rollback::model::ids::{ComponentName, Environment, OperationId, ReleaseId};
use rollback::model::operation::{Destination, Operation, Request as ModelRequest};
use rollback::model::plan::Plan;
use rollback::model::record::{HistoryFilter, HistoryLine, Mark, Record};
use rollback::model::refusal::Refusal;
use rollback::model::text::Text;
use rollback::wire::v1;
use rollback::wire::v1::agent_server::{Agent, AgentServer};
use tokio::sync::Semaphore;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::authz::Caller;
use super::events;
use super::pushing::{self, Push};
use super::refusal::{failed, invalid, not_started, refused};
use super::server::MESSAGE_BYTES_MAX;
use super::verifying;
use crate::config::Component;
use crate::driver::{Driver, Order, PushOf};
use crate::observe::Depth;
use crate::ports::ChainAudit;

/// Reasons given at most: a screen.
const REASONS_MAX: usize = 20;
/// Operations counted at most: years of one host.
const COUNTED_MAX: u32 = 10_000;

/// What the status tells beyond the driver: facts of the agent itself.
pub trait AgentFacts: Send + Sync {
    /// What is wrong, one sentence each.
    fn problems(&self) -> Vec<String>;
    /// Audit records that journald has not got yet.
    fn audit_lag(&self) -> u64;
    /// When certificate and revocation list end.
    fn ends(&self) -> (Option<Timestamp>, Option<Timestamp>);
    /// When the agent started.
    fn started_at(&self) -> Timestamp;
}

/// The service; clones share the driver.
#[derive(Clone)]
pub struct AgentService {
    driver: Driver,
    facts: Arc<dyn AgentFacts>,
    /// The places of pushes; each holds an offer in memory.
    pushes: Arc<Semaphore>,
}

type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get::<Caller>().cloned().ok_or_else(|| Status::unauthenticated("nothing proves who calls"))
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(field: &str, text: &str) -> Result<Option<T>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|error: T::Err| Status::invalid_argument(format!("field `{field}`: {error}")))
}

fn request_of(order: &Order) -> &ModelRequest {
    match order {
        Order::Request(request) => request,
        Order::Plan(plan) => &plan.request,
    }
}

/// Adds to a request what the caller's role allows.
fn by(caller: &Caller, request: ModelRequest) -> ModelRequest {
    ModelRequest { break_glass: caller.has(Role::BreakGlass), ..request }
}

type Selector = (Option<ComponentName>, Option<Environment>);

fn selector(wire: Option<v1::ComponentSelector>) -> Result<Selector, Status> {
    let wire = wire.unwrap_or_default();
    Ok((parsed("component", &wire.component)?, parsed("environment", &wire.environment)?))
}

impl AgentService {
    /// Makes the service.
    #[must_use]
    pub fn new(driver: Driver, facts: Arc<dyn AgentFacts>) -> Self {
        Self { driver, facts, pushes: Arc::new(Semaphore::new(pushing::PUSHES_MAX)) }
    }

    /// Gives what a server takes, with the bound on messages set.
    #[must_use]
    pub fn into_server(self) -> AgentServer<Self> {
        AgentServer::new(self).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn host(&self) -> String {
        self.driver.settings().host.to_string()
    }

    /// Gives the one component that is meant, if the caller may touch its environment.
    async fn component(&self, caller: &Caller, method: &str, meant: Selector) -> Result<Component, Status> {
        let component = self.driver.select(meant.0.as_ref(), meant.1.as_ref()).map_err(refused)?;
        self.in_scope(caller, method, &component.environment).await?;
        Ok(component)
    }

    /// Gives the release that something is said of, and the reason.
    async fn meant(
        &self,
        component: &Component,
        release: &str,
        reason: &str,
    ) -> Result<(ObservedRelease, Text), Status> {
        let release: ReleaseId =
            parsed("release", release)?.ok_or_else(|| Status::invalid_argument("field `release` is missing"))?;
        let reason = Text::new(reason).map_err(|error| Status::invalid_argument(format!("field `reason`: {error}")))?;
        // It may have been laid down a moment ago.
        self.driver.adopt_now(component).await;
        let observed = self.driver.observe(component, Depth::Plan).await.map_err(|error| failed(&error))?;
        let known = observed.release(&release).cloned();
        let known = known.ok_or_else(|| Status::not_found(format!("there is no release `{release}`")))?;
        Ok((known, reason))
    }

    async fn in_scope(&self, caller: &Caller, method: &str, environment: &Environment) -> Result<(), Status> {
        if caller.covers(environment) {
            return Ok(());
        }
        let why = format!("environment `{environment}` is not in the certificate of {caller}");
        self.driver
            .note(Record::AccessDenied {
                actor: caller.to_string(),
                peer: caller.peer(),
                method: Some(method.to_owned()),
                why: why.clone(),
            })
            .await;
        Err(Status::permission_denied(why))
    }

    /// Begins an operation in the caller's scope, or follows it when it was begun before.
    async fn operate(
        &self,
        caller: &Caller,
        method: &str,
        order: Order,
    ) -> Result<Response<Events<v1::OperationEvent>>, Status> {
        let meant = match &order {
            Order::Request(asked) => (asked.component.clone(), asked.environment.clone()),
            Order::Plan(plan) => (Some(plan.component.clone()), Some(plan.environment.clone())),
        };
        let order = match order {
            Order::Request(asked) => Order::Request(by(caller, asked)),
            Order::Plan(mut plan) => {
                plan.request = by(caller, plan.request);
                Order::Plan(plan)
            }
        };
        let operation = request_of(&order).operation;
        self.component(caller, method, meant).await?;
        let following = self.driver.start(order, caller.to_string()).await.map_err(not_started)?;
        let history = Arc::clone(self.driver.history());
        Ok(Response::new(Box::pin(events::of_one(self.host(), operation, following, history))))
    }

    fn running(&self, id: OperationId) -> Option<Operation> {
        let environments = self.driver.select_all(None, None).into_iter().map(|component| component.environment);
        let mut running = environments.filter_map(|environment| self.driver.running(&environment));
        running.find(|operation| operation.id == id)
    }

    fn components(&self, caller: &Caller, meant: &Selector) -> Vec<Component> {
        let mut components = self.driver.select_all(meant.0.as_ref(), meant.1.as_ref());
        components.retain(|component| caller.covers(&component.environment));
        components
    }

    async fn lines(&self, caller: &Caller, filter: HistoryFilter) -> Result<Vec<HistoryLine>, Status> {
        let mut lines = self.driver.history().list(filter).await.map_err(|error| failed(&error))?;
        lines.retain(|line| line.environment.as_ref().is_none_or(|environment| caller.covers(environment)));
        Ok(lines)
    }

    async fn status_of(&self, component: &Component) -> Result<v1::ComponentStatus, Status> {
        let observed = self.driver.observe(component, Depth::Probes).await.map_err(|error| failed(&error))?;
        let release = observed.current.release().and_then(|id| observed.release(id)).cloned();
        Ok(v1::ComponentStatus {
            component: component.name.to_string(),
            environment: component.environment.to_string(),
            release: release.map(Into::into),
            current: Some(observed.current.into()),
            health: Some(observed.health.into()),
            lease: observed.lease.map(Into::into),
            operation: self.driver.running(&component.environment).map(Into::into),
        })
    }

    async fn releases_of(&self, component: &Component) -> Result<v1::ComponentReleases, Status> {
        let observed = self.driver.observe(component, Depth::Quick).await.map_err(|error| failed(&error))?;
        let mut releases: Vec<ObservedRelease> = observed.releases;
        releases.sort_by(|a, b| (b.manifest.created_at, b.id()).cmp(&(a.manifest.created_at, a.id())));
        Ok(v1::ComponentReleases {
            component: component.name.to_string(),
            environment: component.environment.to_string(),
            current: Some(observed.current.into()),
            releases: releases.into_iter().map(Into::into).collect(),
        })
    }
}

#[tonic::async_trait]
impl Agent for AgentService {
    type RollbackStream = Events<v1::OperationEvent>;
    type DeployStream = Events<v1::OperationEvent>;
    type PushReleaseStream = Events<v1::PushEvent>;
    type WatchStream = Events<v1::OperationEvent>;
    type VerifyStream = Events<v1::VerifyEvent>;

    async fn plan(&self, request: Request<v1::PlanRequest>) -> Result<Response<v1::PlanReply>, Status> {
        let caller = caller(&request)?;
        let wire =
            request.into_inner().request.ok_or_else(|| Status::invalid_argument("field `request` is missing"))?;
        let asked = by(&caller, ModelRequest::try_from(wire).map_err(invalid)?);
        let meant = (asked.component.clone(), asked.environment.clone());
        self.component(&caller, "Plan", meant).await?;
        let plan = self.driver.plan(&asked).await.map_err(not_started)?;
        Ok(Response::new(v1::PlanReply { plan: Some(plan.into()) }))
    }

    async fn rollback(&self, request: Request<v1::RollbackRequest>) -> Result<Response<Self::RollbackStream>, Status> {
        use v1::rollback_request::What;
        let caller = caller(&request)?;
        let what = request.into_inner().what.ok_or_else(|| Status::invalid_argument("field `what` is missing"))?;
        let order = match what {
            What::Request(wire) => Order::Request(ModelRequest::try_from(wire).map_err(invalid)?),
            What::Plan(wire) => Order::Plan(Box::new(Plan::try_from(wire).map_err(invalid)?)),
        };
        if request_of(&order).deploy.is_some() {
            return Err(Status::invalid_argument("this is a deploy: call `Deploy`"));
        }
        self.operate(&caller, "Rollback", order).await
    }

    async fn deploy(&self, request: Request<v1::DeployRequest>) -> Result<Response<Self::DeployStream>, Status> {
        use v1::deploy_request::What;
        let caller = caller(&request)?;
        let what = request.into_inner().what.ok_or_else(|| Status::invalid_argument("field `what` is missing"))?;
        let order = match what {
            What::Request(wire) => Order::Request(ModelRequest::try_from(wire).map_err(invalid)?),
            What::Plan(wire) => Order::Plan(Box::new(Plan::try_from(wire).map_err(invalid)?)),
        };
        let asked = request_of(&order);
        if asked.deploy.is_none() {
            return Err(Status::invalid_argument("field `deploy` is missing: to go back, call `Rollback`"));
        }
        if asked.to == Destination::Previous {
            return Err(Status::invalid_argument("field `to` is missing: a deploy names its release"));
        }
        self.operate(&caller, "Deploy", order).await
    }

    async fn confirm(&self, request: Request<v1::ConfirmRequest>) -> Result<Response<v1::ConfirmReply>, Status> {
        let caller = caller(&request)?;
        let text = request.into_inner().operation;
        let id: OperationId =
            parsed("operation", &text)?.ok_or_else(|| Status::invalid_argument("field `operation` is missing"))?;
        let Some(operation) = self.running(id) else {
            return Err(Status::failed_precondition(format!("operation {id} does not run on this agent")));
        };
        self.in_scope(&caller, "Confirm", &operation.plan.environment).await?;
        if self.driver.confirm(id, caller.to_string()).await {
            return Ok(Response::new(v1::ConfirmReply { host: self.host() }));
        }
        let text = format!("operation {id} is no deploy that is watched or waits to be confirmed, or the disk fails");
        Err(Status::failed_precondition(text))
    }

    async fn decide(&self, request: Request<v1::DecideRequest>) -> Result<Response<v1::DecideReply>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let choice = Choice::try_from(asked.choice()).map_err(invalid)?;
        let reason = match asked.reason.as_str() {
            "" => None,
            text => {
                Some(Text::new(text).map_err(|error| Status::invalid_argument(format!("field `reason`: {error}")))?)
            }
        };
        let id: OperationId = parsed("operation", &asked.operation)?
            .ok_or_else(|| Status::invalid_argument("field `operation` is missing"))?;
        let Some(operation) = self.running(id) else {
            return Err(Status::failed_precondition(format!("operation {id} does not run on this agent")));
        };
        self.in_scope(&caller, "Decide", &operation.plan.environment).await?;
        if self.driver.decide(id, choice, reason, caller.to_string()).await {
            return Ok(Response::new(v1::DecideReply { host: self.host() }));
        }
        Err(Status::failed_precondition(format!("operation {id} does not ask for a decision, or the disk fails")))
    }

    async fn alert(&self, request: Request<v1::AlertRequest>) -> Result<Response<v1::AlertReply>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let severity = Severity::try_from(asked.severity()).map_err(invalid)?;
        let reason =
            Text::new(&asked.reason).map_err(|error| Status::invalid_argument(format!("field `reason`: {error}")))?;
        let component = self.component(&caller, "Alert", selector(asked.selector)?).await?;
        let asks = self.driver.alert(&component, severity, reason, caller.to_string()).await.map_err(not_started)?;
        let operation = asks.map(|id| id.to_string()).unwrap_or_default();
        Ok(Response::new(v1::AlertReply { host: self.host(), operation }))
    }

    async fn set_quarantine(
        &self,
        request: Request<v1::SetQuarantineRequest>,
    ) -> Result<Response<v1::SetQuarantineReply>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let component = self.component(&caller, "SetQuarantine", selector(asked.selector)?).await?;
        let (known, reason) = self.meant(&component, &asked.release, &asked.reason).await?;
        if asked.lift && known.quarantine.is_none() {
            return Err(Status::failed_precondition(format!("release `{}` is not quarantined", known.id())));
        }
        let (tree, actor) = (known.manifest.tree, caller.to_string());
        let record = if asked.lift {
            Record::QuarantineLifted { tree, reason, actor }
        } else {
            Record::Quarantined { tree, reason, actor }
        };
        let appended = self.driver.history().append(self.driver.clock().now(), vec![record], true).await;
        appended.map_err(|error| failed(&error))?;
        Ok(Response::new(v1::SetQuarantineReply { host: self.host(), tree: tree.as_bytes().to_vec() }))
    }

    async fn mark_release(
        &self,
        request: Request<v1::MarkReleaseRequest>,
    ) -> Result<Response<v1::MarkReleaseReply>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let mark = match asked.mark() {
            v1::Mark::Unspecified => return Err(Status::invalid_argument("field `mark` is missing")),
            v1::Mark::Blessed => Mark::Blessed,
            v1::Mark::Pinned => Mark::Pinned,
            v1::Mark::Unpinned => Mark::Unpinned,
        };
        let component = self.component(&caller, "MarkRelease", selector(asked.selector)?).await?;
        let (known, reason) = self.meant(&component, &asked.release, &asked.reason).await?;
        let release = known.id().clone();
        let unfit = match mark {
            Mark::Blessed if known.quarantine.is_some() => Some("is quarantined: lift that first"),
            Mark::Blessed if known.good_since.is_some() => Some("is good already"),
            Mark::Pinned if known.pinned => Some("is pinned already"),
            Mark::Unpinned if !known.pinned => Some("is not pinned"),
            Mark::Blessed | Mark::Pinned | Mark::Unpinned => None,
        };
        if let Some(why) = unfit {
            return Err(Status::failed_precondition(format!("release `{release}` {why}")));
        }
        let record = Record::ReleaseMarked {
            component: component.name,
            environment: component.environment,
            release,
            tree: known.manifest.tree,
            mark,
            reason,
            actor: caller.to_string(),
        };
        let appended = self.driver.history().append(self.driver.clock().now(), vec![record], true).await;
        appended.map_err(|error| failed(&error))?;
        Ok(Response::new(v1::MarkReleaseReply { host: self.host() }))
    }

    async fn push_release(
        &self,
        request: Request<Streaming<v1::PushRequest>>,
    ) -> Result<Response<Self::PushReleaseStream>, Status> {
        let caller = caller(&request)?;
        let mut requests = request.into_inner();
        let (meant, label) = pushing::header(&mut requests).await?;
        let component = self.component(&caller, "PushRelease", selector(meant)?).await?;
        let Ok(place) = Arc::clone(&self.pushes).try_acquire_owned() else {
            let cause = format!("{} releases are being pushed already", pushing::PUSHES_MAX);
            return Err(refused(Refusal::NotReady { cause }));
        };
        let of = PushOf { component, release: label.release.clone(), by: caller.to_string() };
        let push = Push { driver: self.driver.clone(), host: self.host(), of, label };
        Ok(Response::new(Box::pin(push.run(requests, place))))
    }

    async fn list_releases(
        &self,
        request: Request<v1::ListReleasesRequest>,
    ) -> Result<Response<v1::ListReleasesReply>, Status> {
        let caller = caller(&request)?;
        let meant = selector(request.into_inner().selector)?;
        let mut components = Vec::new();
        for component in self.components(&caller, &meant) {
            components.push(self.releases_of(&component).await?);
        }
        if components.is_empty() {
            // Says which components there are, or that they are out of scope.
            self.component(&caller, "ListReleases", meant).await?;
        }
        Ok(Response::new(v1::ListReleasesReply { host: self.host(), components }))
    }

    async fn verify(&self, request: Request<v1::VerifyRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let component = self.component(&caller, "Verify", selector(asked.selector)?).await?;
        let wanted: Option<ReleaseId> = parsed("release", &asked.release)?;
        let stream = verifying::verify(&self.driver, self.host(), component, wanted).await?;
        Ok(Response::new(Box::pin(stream)))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        let caller = caller(&request)?;
        let meant = selector(request.into_inner().selector)?;
        let mut problems = self.driver.problems();
        problems.extend(self.facts.problems());
        let mut components = Vec::new();
        for component in self.components(&caller, &meant) {
            match self.status_of(&component).await {
                Ok(status) => components.push(status),
                Err(status) => {
                    problems.push(format!("{}/{}: {}", component.environment, component.name, status.message()));
                }
            }
        }
        let (certificate_ends, revocations_end) = self.facts.ends();
        Ok(Response::new(v1::StatusReply {
            host: self.host(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: Some(time_out(self.facts.started_at())),
            components,
            problems,
            head: self.driver.history().head().await.ok().map(Into::into),
            audit_lag: self.facts.audit_lag(),
            certificate_ends: certificate_ends.map(time_out),
            revocations_end: revocations_end.map(time_out),
        }))
    }

    async fn history(&self, request: Request<v1::HistoryRequest>) -> Result<Response<v1::HistoryReply>, Status> {
        let caller = caller(&request)?;
        let filter = HistoryFilter::try_from(request.into_inner()).map_err(invalid)?;
        let lines = self.lines(&caller, filter).await?;
        let head = self.driver.history().head().await.ok();
        Ok(Response::new(v1::HistoryReply {
            host: self.host(),
            lines: lines.into_iter().map(Into::into).collect(),
            head: head.map(Into::into),
        }))
    }

    async fn show(&self, request: Request<v1::ShowRequest>) -> Result<Response<v1::ShowReply>, Status> {
        let caller = caller(&request)?;
        let text = request.into_inner().operation;
        let id: OperationId =
            parsed("operation", &text)?.ok_or_else(|| Status::invalid_argument("field `operation` is missing"))?;
        let (operation, evidence) = match self.running(id) {
            Some(operation) => (operation, Vec::new()),
            None => {
                let stored = self.driver.history().operation(id).await.map_err(|error| failed(&error))?;
                let stored = stored.ok_or_else(|| Status::not_found(format!("this agent knows no operation {id}")))?;
                (stored.operation, stored.evidence)
            }
        };
        self.in_scope(&caller, "Show", &operation.plan.environment).await?;
        Ok(Response::new(v1::ShowReply {
            host: self.host(),
            operation: Some(operation.into()),
            evidence: evidence.into_iter().map(Into::into).collect(),
        }))
    }

    async fn stats(&self, request: Request<v1::StatsRequest>) -> Result<Response<v1::StatsReply>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let filter = HistoryFilter::try_from(v1::HistoryRequest {
            environment: asked.environment,
            component: asked.component,
            since: asked.since,
            until: asked.until,
            limit: COUNTED_MAX,
            ..v1::HistoryRequest::default()
        })
        .map_err(invalid)?;
        let counted = stats::count(&self.lines(&caller, filter).await?);
        Ok(Response::new(v1::StatsReply { host: self.host(), environments: counts_out(counted) }))
    }

    async fn audit(&self, request: Request<v1::AuditRequest>) -> Result<Response<v1::AuditReply>, Status> {
        caller(&request)?;
        let history = self.driver.history();
        let found = history.audit().await.map_err(|error| failed(&error))?;
        let (head, broken_at, why) = match found {
            ChainAudit::Sound(head) => (Some(head), 0, String::new()),
            ChainAudit::Broken { sequence, why } => (history.head().await.ok(), sequence, why),
        };
        Ok(Response::new(v1::AuditReply { host: self.host(), head: head.map(Into::into), broken_at, why }))
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = caller(&request)?;
        let (name, environment) = selector(request.into_inner().selector)?;
        let wanted = move |plan: &Plan| {
            caller.covers(&plan.environment)
                && name.as_ref().is_none_or(|name| *name == plan.component)
                && environment.as_ref().is_none_or(|environment| *environment == plan.environment)
        };
        let stream = events::of_all(self.host(), self.driver.follow_all());
        let stream = stream.filter(move |event| match event {
            Ok((plan, _)) => wanted(plan),
            Err(_) => true,
        });
        Ok(Response::new(Box::pin(stream.map(|event| event.map(|(_, event)| event)))))
    }
}

fn counts_out(counted: BTreeMap<Environment, stats::Counts>) -> Vec<v1::EnvironmentStats> {
    let one = |(environment, counts): (Environment, stats::Counts)| {
        let mut reasons: Vec<_> = counts.reasons.into_iter().collect();
        reasons.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        reasons.truncate(REASONS_MAX);
        v1::EnvironmentStats {
            environment: environment.to_string(),
            results: counts
                .results
                .into_iter()
                .map(|(result, count)| v1::ResultCount { result: v1::ResultWord::from(result).into(), count })
                .collect(),
            durations_ms: counts.durations_ms,
            reasons: reasons.into_iter().map(|(reason, count)| v1::ReasonCount { reason, count }).collect(),
        }
    };
    counted.into_iter().map(one).collect()
}
