//! The agent's own log: journald when systemd has started it, stderr otherwise. The audit goes another way.

use std::env;
use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Starts the log; `RUST_LOG` chooses what is logged, `info` by default.
///
/// A journal that cannot be reached is no reason not to start: stderr serves then, which systemd catches too.
pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    let journald = env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    match journald {
        Some(layer) => {
            let layer = layer.with_field_prefix(None).with_syslog_identifier("rb-agent".to_owned());
            registry.with(layer).init();
        }
        None => registry.with(tracing_subscriber::fmt::layer().with_writer(io::stderr)).init(),
    }
}
