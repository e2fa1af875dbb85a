//! Tests that need no privileges.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics is a test that fails")]

mod document;
/// Version orders against published pairs.
mod versions;
/// Documents of a stack against their official schemas.
mod stack_documents;
mod plan;
mod reference;

/// Bytes from outside, changed at random.
mod fuzz;
/// The fences of the house.
mod architecture;
/// Root's power: which files name it, what for, and in which functions.
mod powers;
/// The command line, by the binary itself.
mod command_line;
/// Help, word for word.
mod golden;
#[path = "../support/golden.rs"]
mod expected;
/// `ces policy`, by the binary itself.
mod policy;
/// Documents and the tests they name.
mod promises;
/// The golden specs and the runtime specification's schema.
mod schema;
/// The seccomp filter, by the kernel itself.
mod system_calls;
