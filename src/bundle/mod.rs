//! From image, policy and identity to an OCI bundle.

/// Who is who: the caller, the container's user, and the id maps between them.
pub mod identity;
/// The init layer: mount points laid over the image.
pub mod init_layer;
/// The root file system: overlay, and the init layer over the image.
pub mod rootfs;
/// The project's data on the host.
pub mod safe_data;
/// x
pub mod seccomp;
