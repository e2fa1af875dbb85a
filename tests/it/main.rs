//! Tests that need no privileges.

/// The fences of the house.
mod architecture;
/// The command line, by the binary itself.
mod command_line;
/// `ces policy`, by the binary itself.
mod policy;
