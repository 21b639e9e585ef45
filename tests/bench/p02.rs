//! P2: `rbctl rollback` on a host over the network with a real check of a page, against ssh with a tuned one-liner.
#![expect(clippy::disallowed_methods, reason = "the client and ssh are started as people start them")]

use std::path::Path;
use std::process::Command;
use std::thread::sleep;

use rollback_tests::wait::wait_until;

use crate::figures::{Fault, Goal, Report, Row, Samples, in_turns, timed};
use crate::lab::{Component, Lab, run};
use crate::options::Options;
use crate::p01::{IDLE, one_liner, other};

/// Rollbacks per round.
const SWITCHES_PER_ROUND: usize = 4;
/// How long the ssh server may take to listen.
const SSHD_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);

const WEB: Component = Component { name: "web", port: 8080, files: 0, probed: true };

/// No name service, no other key exchange than what OpenSSH prefers where both sides are new, no other keys.
const SSH_OPTIONS: &str = "-F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
    -o KexAlgorithms=curve25519-sha256 -o GSSAPIAuthentication=no -o LogLevel=ERROR";
const SSHD: &str = "Port 22\nHostKey /etc/figures/host_key\nAuthorizedKeysFile /etc/figures/authorized_keys\n\
    StrictModes no\nUsePAM no\nUseDNS no\nPermitRootLogin yes\nPidFile none\n";
const SSHD_UNIT: &str = "[Service]\nRuntimeDirectory=sshd\nExecStart=/usr/sbin/sshd -D -f /etc/figures/sshd_config\n";

pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<(), Fault> {
    let lab = Lab::up(&[WEB])?;
    let keys = tempfile::tempdir()?;
    let ssh = ["/usr/sbin/sshd", "/usr/bin/ssh", "/usr/bin/curl"].iter().find(|path| !Path::new(path).exists());
    report.skip("P2 against the seeds' script", "its sleeps alone take seconds; against them any figure looks good");
    report.skip("P2 against Ansible", "it is not part of this run");
    // On a thread of its own, because the thread stays on the host's network.
    std::thread::scope(|scope| {
        let measuring = scope.spawn(|| {
            lab.enter_net()?;
            let rounds = usize::from(options.rounds) * SWITCHES_PER_ROUND;
            match ssh {
                None => {
                    serve_ssh(&lab, keys.path())?;
                    against_ssh(&lab, keys.path(), rounds, report)
                }
                Some(missing) => {
                    report.skip("P2 against ssh", format!("needs `{missing}`"));
                    alone(&lab, rounds, report)
                }
            }
        });
        measuring.join().unwrap_or_else(|_| Err("the measuring thread panicked".into()))
    })
}

fn serve_ssh(lab: &Lab, keys: &Path) -> Result<(), Fault> {
    for name in ["host_key", "client_key"] {
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(keys.join(name));
        run(keygen)?;
    }
    for (to, from, mode) in [("host_key", "host_key", 0o600), ("authorized_keys", "client_key.pub", 0o600)] {
        lab.host().write(&format!("/etc/figures/{to}"), std::fs::read(keys.join(from))?, mode)?;
    }
    lab.host().write("/etc/figures/sshd_config", SSHD, 0o600)?;
    lab.host().write("/etc/systemd/system/figures-sshd.service", SSHD_UNIT, 0o644)?;
    lab.host().sh("systemctl daemon-reload; systemctl start figures-sshd.service")?;
    wait_until(SSHD_LIMIT, "the ssh server", || std::net::TcpStream::connect((lab.host().address(), 22)).is_ok())?;
    Ok(())
}

fn against_ssh(lab: &Lab, keys: &Path, rounds: usize, report: &mut Report) -> Result<(), Fault> {
    let [standard, emergency, by_hand] = in_turns(
        rounds,
        [&mut || ours(lab, &[]), &mut || ours(lab, &["--emergency"]), &mut || {
            let to = other(&lab.outside("/srv/web/current")?)?;
            let checked = "until curl -fs -o /dev/null http://127.0.0.1:8080/healthz; do :; done";
            let mut command = Command::new("ssh");
            command.args(SSH_OPTIONS.split_whitespace()).arg("-i").arg(keys.join("client_key"));
            command.env("HOME", keys).arg(format!("root@{}", lab.host().address()));
            command.arg(format!("{}; {checked}", one_liner("web", to)));
            sleep(IDLE);
            Ok(timed(|| run(command))?.0)
        }],
    )?;
    for (what, ours) in [("rbctl rollback", standard), ("rbctl rollback --emergency", emergency)] {
        report.rows.push(row(what, ours, Some(("ssh one-liner".to_owned(), by_hand.clone())), Goal::Ratio(0.2)));
    }
    Ok(())
}

fn alone(lab: &Lab, rounds: usize, report: &mut Report) -> Result<(), Fault> {
    let [standard, emergency] = in_turns(rounds, [&mut || ours(lab, &[]), &mut || ours(lab, &["--emergency"])])?;
    report.rows.push(row("rbctl rollback", standard, None, Goal::None));
    report.rows.push(row("rbctl rollback --emergency", emergency, None, Goal::None));
    Ok(())
}

fn row(what: &str, ours: Samples, floor: Option<(String, Samples)>, goal: Goal) -> Row {
    Row { figure: "P2", what: format!("{what}, process start to exit"), unit: "ms", ours, floor, goal }
}

fn ours(lab: &Lab, more: &[&str]) -> Result<f64, Fault> {
    let to = other(&lab.outside("/srv/web/current")?)?;
    let mut command =
        lab.rbctl(&["rollback", "--host", "h1", "--to", to, "--force", "--reason", "it is measured", "--yes"])?;
    command.args(more);
    sleep(IDLE);
    Ok(timed(|| run(command))?.0)
}
