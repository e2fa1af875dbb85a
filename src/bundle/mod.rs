//! From image, policy and identity to an OCI bundle.

/// The project's data on the host.
pub mod safe_data;
/// Small files of the image, read from its layers.
pub mod image_files;
/// The image's user: from names to numbers.
pub mod image_user;
/// Who is who: the caller, the container's user, and the id maps between them.
pub mod identity;
/// The root file system: the overlay, and what is bound into it.
pub mod rootfs;
/// File systems of the container's own.
pub mod own_mounts;
/// A copy of the merged tree, for portable bundles.
pub mod flatten;
/// The init layer: mount points laid over the image.
pub mod init_layer;
/// Entries of users and groups that the image lacks.
pub mod accounts;
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
