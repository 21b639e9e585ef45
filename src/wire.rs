//! The generated bindings of `proto/rollback/v1`; nothing else.

/// Version 1 of the contract.
pub mod v1 {
    #![expect(
        missing_docs,
        clippy::too_many_lines,
        clippy::large_enum_variant,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        reason = "generated; the contract has the comments"
    )]
    tonic::include_proto!("rollback.v1");
}

/// The contract's descriptor, encoded, for reflection and for tests over every method.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("rollback_descriptor");
