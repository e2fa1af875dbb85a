//! Tests that need no privileges.

mod document;
mod plan;
mod reference;
