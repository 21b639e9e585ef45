//! The switch of a fleet, and the cables from it to the hosts.
//!
//! The switch lies in a network namespace of its own, so no fleet sees another one's addresses
//! and nothing is added to the machine's own network.
#![expect(clippy::disallowed_methods, reason = "a network namespace is entered through its file")]

use std::fs::File;
use std::net::IpAddr;
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns};

use super::lease::io_error;
use super::{HostError, address};
use crate::run::{RunError, run};

/// The last byte of the switch's address.
pub(super) const SWITCH: u8 = 254;

/// The network of one fleet.
#[derive(Clone, Debug)]
pub(super) struct Network {
    tag: String,
    number: u8,
}

impl Network {
    pub(super) fn create(tag: &str, number: u8) -> Result<Self, RunError> {
        let network = Self { tag: tag.to_owned(), number };
        let switch = network.switch();
        let own = format!("{}/24", network.address(SWITCH));
        run(&["ip", "netns", "add", &switch])?;
        run(&["ip", "-n", &switch, "link", "set", "lo", "up"])?;
        run(&["ip", "-n", &switch, "link", "add", "switch", "type", "bridge"])?;
        run(&["ip", "-n", &switch, "addr", "add", &own, "dev", "switch"])?;
        run(&["ip", "-n", &switch, "link", "set", "switch", "up"])?;
        Ok(network)
    }

    /// Makes the network namespace of a host and plugs it into the switch.
    pub(super) fn plug(&self, host: &str, last: u8) -> Result<(), RunError> {
        let (switch, own) = (self.switch(), self.namespace(host));
        let cidr = format!("{}/24", self.address(last));
        run(&["ip", "netns", "add", &own])?;
        run(&["ip", "-n", &switch, "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", &own])?;
        run(&["ip", "-n", &switch, "link", "set", host, "master", "switch", "up"])?;
        run(&["ip", "-n", &own, "addr", "add", &cidr, "dev", "eth0"])?;
        run(&["ip", "-n", &own, "link", "set", "eth0", "up"])?;
        run(&["ip", "-n", &own, "link", "set", "lo", "up"])?;
        Ok(())
    }

    /// Pulls (`down`) or plugs in again (`up`) the cable of a host.
    pub(super) fn set_cable(&self, host: &str, state: &str) -> Result<(), RunError> {
        run(&["ip", "-n", &self.switch(), "link", "set", host, state]).map(drop)
    }

    pub(super) fn address(&self, last: u8) -> IpAddr {
        address(self.number, last)
    }

    pub(super) fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.tag)
    }

    /// Prefixes a command so that it runs on the switch.
    pub(super) fn on_switch(&self, words: &[&str]) -> Vec<String> {
        ["ip", "netns", "exec", &self.switch()].iter().chain(words).map(|&word| word.to_owned()).collect()
    }

    pub(super) fn enter(&self) -> Result<(), HostError> {
        let path = PathBuf::from(format!("/run/netns/{}", self.switch()));
        let enter = io_error("enter", &path);
        let file = File::open(&path).map_err(&enter)?;
        setns(file, CloneFlags::CLONE_NEWNET).map_err(|errno| enter(errno.into()))
    }

    fn switch(&self) -> String {
        self.namespace("switch")
    }
}
