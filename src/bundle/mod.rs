//! See the crate's map.

/// The image's user: from names to numbers.
pub mod image_user;
/// What the payload is started with.
pub mod process;
/// What of /proc and /sys is out of reach.
pub mod masks;
/// The runtime spec: config.json.
pub mod spec;
/// Which system calls the payload may make.
pub mod seccomp;

#[cfg(test)]
mod tests;
