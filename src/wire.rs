//! The generated bindings of `proto/rollback/v1`; nothing else.
