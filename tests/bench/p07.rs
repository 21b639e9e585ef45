//! P7: how soon a bad release is left once its third probe has failed, and what a watch with twenty probes costs.

use std::fmt::Write as _;
use std::thread::sleep;
use std::time::Duration;

use rollback::model::effect::Effect;
use rollback::model::operation::{Operation, Step};
use rollback::wire::v1::{self, agent_client::AgentClient};
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;

use crate::bus::Bus;
use crate::figures::{Fault, Goal, Report, Row, Samples, in_turns, timed};
use crate::lab::{Component, Lab};
use crate::options::Options;
use crate::p01::{IDLE, other};
use crate::p06::Use;

const WEB: Component = Component { name: "web", port: 8080, files: 0, probed: true };
/// Probes of the watch whose cost is measured.
const PROBES: usize = 20;
/// How long that watch is looked at.
const LOOK: Duration = Duration::from_secs(20);
/// What going back may take beyond the floor.
const BEYOND_MS: f64 = 50.0;

pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<(), Fault> {
    let lab = Lab::up(&[WEB])?;
    lab.host().sh("cp -a /srv/web/releases/r1 /srv/web/releases/r3; echo unhealthy > /srv/web/releases/r3/BROKEN")?;
    falls(&lab, options, report)?;
    costs(&lab, report)
}

fn falls(lab: &Lab, options: &Options, report: &mut Report) -> Result<(), Fault> {
    let links = [lab.outside("/srv/web/current")?, lab.outside("/srv/web/.next")?];
    let mut bus = lab.runtime.block_on(Bus::connect(lab))?;
    let mut client = lab.client()?;
    let [ours, floor] = in_turns(
        usize::from(options.rounds) * 4,
        [
            &mut || {
                let operation = lab.runtime.block_on(deploy(&mut client, "r3", 60_000, true))?;
                went_back(&operation).ok_or_else(|| format!("it did not go back: {:?}", operation.phase).into())
            },
            &mut || {
                let to = other(&links[0])?;
                lab.host().sh(&format!("ln -sfn releases/{to} /srv/web/.next"))?;
                sleep(IDLE);
                Ok(timed(|| lab.runtime.block_on(bus.switch("web.service", &links)))?.0)
            },
        ],
    )?;
    let beyond = Samples::one(ours.median() - floor.median());
    let what = "third failed probe to the old release serving".to_owned();
    let floor = Some(("D-Bus".to_owned(), floor));
    report.rows.push(Row { figure: "P7", what, unit: "ms", ours, floor, goal: Goal::None });
    let what = "the same, beyond the floor".to_owned();
    report.rows.push(Row { figure: "P7", what, unit: "ms", ours: beyond, floor: None, goal: Goal::AtMost(BEYOND_MS) });
    Ok(())
}

/// The milliseconds from the end of the judgement to the end of the start that followed.
fn went_back(operation: &Operation) -> Option<f64> {
    let ended = |step: &Step| step.began_at.as_microsecond() + i64::try_from(step.duration_us).unwrap_or(i64::MAX);
    let judged = operation.steps.iter().position(|step| matches!(step.effect, Effect::Verified { .. }))?;
    let started = operation.steps[judged..].iter().find(|step| matches!(step.effect, Effect::UnitsStarted { .. }))?;
    let took_us = ended(started) - ended(&operation.steps[judged]);
    Some(Duration::from_micros(u64::try_from(took_us).ok()?).as_secs_f64() * 1_000.0)
}

/// Deploys a release; waits for its end, or until it is watched.
async fn deploy(
    client: &mut AgentClient<Channel>,
    release: &str,
    lasts_ms: u64,
    to_its_end: bool,
) -> Result<Operation, Fault> {
    let request = v1::Request {
        operation: uuid::Uuid::now_v7().to_string(),
        selector: Some(v1::ComponentSelector { component: "web".to_owned(), environment: "web".to_owned() }),
        to: release.to_owned(),
        // What has failed before is quarantined, and is to fail again.
        force: true,
        reason: "it is measured".to_owned(),
        deploy: Some(v1::WatchTerms { lasts_ms: Some(lasts_ms), auto: Some(true), confirm_ms: None }),
        ..v1::Request::default()
    };
    let what = Some(v1::deploy_request::What::Request(request));
    let mut events = client.deploy(v1::DeployRequest { what }).await?.into_inner();
    while let Some(event) = events.next().await {
        let Some(operation) = event?.operation else { continue };
        let operation = Operation::try_from(operation)?;
        if operation.outcome().is_some() || (!to_its_end && operation.is_waiting()) {
            return Ok(operation);
        }
    }
    Err("the agent broke off".into())
}

fn costs(lab: &Lab, report: &mut Report) -> Result<(), Fault> {
    let mut text = "name = \"web\"\nenvironment = \"web\"\nroot = \"/srv/web\"\nunits = [\"web.service\"]\n\
                    [timeouts]\nstability = \"0s\"\n[policy]\nexternal_deploys = \"note\"\n"
        .to_owned();
    for number in 0..PROBES {
        write!(
            text,
            "[[probes]]\nname = \"page{number}\"\nkind = \"http\"\nurl = \"http://127.0.0.1:8080/healthz\"\n"
        )?;
    }
    lab.host().write("/etc/rollback/components.d/web.toml", text, 0o644)?;
    lab.host().sh("systemctl restart rb-agent.service")?;
    let mut client = lab.client()?;
    let link = lab.outside("/srv/web/current")?;
    lab.runtime.block_on(deploy(&mut client, other(&link)?, 3_600_000, false))?;
    let agent = lab.host().main_pid("rb-agent.service")?;
    let before = Use::of(agent)?;
    sleep(LOOK);
    let after = Use::of(agent)?;
    let share = (after.cpu_s - before.cpu_s) / LOOK.as_secs_f64() * 100.0;
    let what = format!("CPU of a watch with {PROBES} http probes twice a second");
    let ours = Samples::one(share);
    report.rows.push(Row { figure: "P7", what, unit: "%", ours, floor: None, goal: Goal::AtMost(0.5) });
    Ok(())
}
