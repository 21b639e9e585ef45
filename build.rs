//! Compiles the contract without `protoc`.

#![expect(clippy::disallowed_methods, reason = "a build script writes to OUT_DIR")]

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/rollback/v1/agent.proto"], ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("rollback_descriptor.bin"), descriptors.encode_to_vec())?;
    // Neither transport: the library has no async runtime; agent and client bring their own.
    tonic_prost_build::configure().build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
