//! False alarms: good deploys on a host whose processors and disk are busy; none goes back.

use rollback_tests::installed::{COMPONENT, Installed, real_hosts};
use rollback_tests::skip::note;

/// Deploys unless `ROLLBACK_FALSE_ALARMS` says how many.
const DEPLOYS: u32 = 10;

/// Takes more processors than there are, and writes to the disk with a flush after each block.
const LOAD: &str = "for n in 1 2 3 4 5 6; do (while :; do :; done) & done
    while :; do dd if=/dev/zero of=/srv/load bs=64k count=256 oflag=dsync status=none; done";

#[test]
fn no_good_deploy_goes_back_on_a_busy_host() {
    if !real_hosts("no_good_deploy_goes_back_on_a_busy_host") {
        return;
    }
    let deploys = std::env::var("ROLLBACK_FALSE_ALARMS").ok().and_then(|text| text.parse().ok()).unwrap_or(DEPLOYS);
    let world = Installed::up(COMPONENT);
    world.lay_down("2", "");
    let mut load =
        world.host().spawn(&["systemd-run", "--quiet", "--wait", "--unit=load", "sh", "-c", LOAD]).expect("load");
    world.wait_for("the load", || world.host().sh("systemctl is-active load.service").is_ok());
    for number in 0..deploys {
        let release = if number % 2 == 0 { "2" } else { "1" };
        let output = world.rbctl(&["deploy", release, "--watch", "1s", "--yes"]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "deploy {number}: {said}{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(world.current(), format!("releases/{release}"), "deploy {number}");
    }
    world.host().sh("systemctl stop load.service").expect("stopped");
    drop(load.wait());
    note(&format!("no_good_deploy_goes_back_on_a_busy_host: {deploys} deploys under load, none went back"));
}
