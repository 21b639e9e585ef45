//! From the configuration file to hosts with addresses: raw file, then a validated context, then a selection.

#![expect(clippy::disallowed_methods, reason = "this module reads the configuration file")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy as _;
use rollback::model::ids::HostName;
use serde::Deserialize;

use crate::cli::Global;
use crate::error::CommandError;
use crate::fleet::connect::{Target, TrustFiles};

/// The port of an agent whose address names none.
pub const PORT_DEFAULT: u16 = 7443;

/// What the file says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    current_context: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

/// The hosts that belong together, and the files of the client that they know.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    domain: HostName,
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    #[serde(default = "port_default")]
    port: u16,
    /// Addresses by host name; an empty address is the name itself.
    #[serde(default)]
    hosts: BTreeMap<HostName, String>,
}

fn port_default() -> u16 {
    PORT_DEFAULT
}

/// Hosts and the keys to ask them.
#[derive(Debug, Clone)]
pub struct Selection {
    /// The hosts, in order.
    pub targets: Vec<Target>,
    /// The client's keys; none for the local socket.
    pub trust: Option<TrustFiles>,
}

/// Chooses the hosts by the global options. `changes` says that the command changes something, so that all hosts of a
/// context are meant only when `--all` is spelled.
///
/// # Errors
/// When the file, the context or a host is wrong.
pub fn select(global: &Global, changes: bool) -> Result<Selection, CommandError> {
    if global.local {
        return Ok(Selection { targets: vec![Target::Local { socket: global.socket.clone() }], trust: None });
    }
    let (path, context) = context(global)?;
    let beside = |file: &Path| path.parent().unwrap_or(Path::new(".")).join(file);
    let trust = TrustFiles {
        domain: context.domain.clone(),
        authority: beside(&context.authority),
        certificate: beside(&context.certificate),
        key: beside(&context.key),
    };
    let targets = if global.hosts.is_empty() {
        if changes && !global.all {
            return Err(CommandError::usage(
                "this command changes hosts, and none is named",
                "name them with `--host`, or spell `--all`",
            ));
        }
        context.hosts.keys().map(|name| known(name, &context)).collect()
    } else {
        global.hosts.iter().map(|text| meant(text, &context)).collect::<Result<Vec<_>, _>>()?
    };
    if targets.is_empty() {
        return Err(CommandError::usage(
            format!("the context in `{}` has no hosts", path.display()),
            "add them under `hosts`, or name one: `--host NAME=ADDRESS:PORT`",
        ));
    }
    Ok(Selection { targets, trust: Some(trust) })
}

fn known(name: &HostName, context: &Context) -> Target {
    let address = context.hosts.get(name).filter(|address| !address.is_empty());
    let address = address.cloned().unwrap_or_else(|| name.to_string());
    Target::Remote { name: name.clone(), address: with_port(&address, context.port) }
}

fn meant(text: &str, context: &Context) -> Result<Target, CommandError> {
    let (name, address) = text.split_once('=').map_or((text, None), |(name, address)| (name, Some(address)));
    let name: HostName = name
        .parse()
        .map_err(|error| CommandError::usage(format!("`--host {text}`: {error}"), "NAME or NAME=ADDRESS:PORT"))?;
    match address {
        Some(address) => Ok(Target::Remote { name, address: with_port(address, context.port) }),
        None if context.hosts.contains_key(&name) => Ok(known(&name, context)),
        None => {
            let known: Vec<&str> = context.hosts.keys().map(HostName::as_str).collect();
            Err(CommandError::usage(
                format!("the context has no host `{name}`; it has {}", known.join(", ")),
                "add it to the configuration file, or give its address: `--host NAME=ADDRESS:PORT`",
            ))
        }
    }
}

fn with_port(address: &str, port: u16) -> String {
    if address.parse::<std::net::Ipv6Addr>().is_ok() {
        return format!("[{address}]:{port}");
    }
    let has_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port { address.to_owned() } else { format!("{address}:{port}") }
}

fn candidates(global: &Global) -> Vec<PathBuf> {
    if let Some(path) = &global.config {
        return vec![path.clone()];
    }
    let own = etcetera::choose_base_strategy().map(|base| base.config_dir().join("rbctl/config.toml"));
    own.into_iter().chain([PathBuf::from("/etc/rbctl/config.toml")]).collect()
}

fn context(global: &Global) -> Result<(PathBuf, Context), CommandError> {
    let candidates = candidates(global);
    let listed = candidates.iter().map(|path| format!("`{}`", path.display())).collect::<Vec<_>>().join(" nor ");
    let Some(path) = candidates.into_iter().find(|path| path.exists()) else {
        return Err(CommandError::usage(
            format!("there is no configuration file: neither {listed}"),
            "write one (see docs/operations/cli.md), or use `--local` on the host itself",
        ));
    };
    let text =
        std::fs::read_to_string(&path).map_err(|error| wrong(format!("cannot read `{}`: {error}", path.display())))?;
    let context = parse(&text, &path, global.context.as_deref())?;
    Ok((path, context))
}

fn wrong(text: String) -> CommandError {
    CommandError::usage(text, "docs/operations/cli.md has an example")
}

/// Reads the text of a configuration file and chooses a context: the one that is `wanted`, else the file's own choice,
/// else its only one. `path` names the file in errors.
///
/// # Errors
/// When the text is no such file, or the context cannot be told.
pub fn parse(text: &str, path: &Path, wanted: Option<&str>) -> Result<Context, CommandError> {
    let mut file: File = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        wrong(format!("{}:{line}: {}", path.display(), error.message()))
    })?;
    let name = match (wanted, file.current_context) {
        (Some(name), _) => name.to_owned(),
        (None, Some(name)) => name,
        (None, None) => match file.contexts.keys().next() {
            Some(only) if file.contexts.len() == 1 => only.clone(),
            _ => return Err(wrong(format!("`{}` sets no `current_context`", path.display()))),
        },
    };
    file.contexts.remove(&name).ok_or_else(|| {
        let known: Vec<&str> = file.contexts.keys().map(String::as_str).collect();
        wrong(format!("`{}` has no context `{name}`; it has {}", path.display(), known.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_added_where_none_is_given() {
        for (given, full) in
            [("web01", "web01:7443"), ("10.0.0.1:80", "10.0.0.1:80"), ("::1", "[::1]:7443"), ("[::1]:80", "[::1]:80")]
        {
            assert_eq!(with_port(given, PORT_DEFAULT), full);
        }
    }
}
