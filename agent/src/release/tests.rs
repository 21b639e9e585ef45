//! Tests of the store on real directories.
