//! Configuration in three stages: what the files say, what they say together, what is valid; only [`Settings`] leaves.

mod settings;

pub use settings::{
    Backend, Component, ConfigurationFile, ExecProbe, HttpProbe, KeptConfiguration, Paths, Probe, ProbeKind,
    ReleasesLayout, Settings, TcpProbe, Tls,
};
