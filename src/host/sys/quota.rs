//! Projects and their quotas (quotactl_fd(2), `FS_IOC_FSSETXATTR`; structures: the kernel's `uapi/linux/fs.h`, `quota.h` and
//! `dqblk_xfs.h`).

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd as _};

use super::check;

/// `_IOR('X', 31, struct fsxattr)`, `_IOW('X', 32, struct fsxattr)`.
const FS_IOC_FSGETXATTR: libc::Ioctl = 0x801c_581f_u32 as libc::Ioctl;
const FS_IOC_FSSETXATTR: libc::Ioctl = 0x401c_5820;
/// What is made in the directory belongs to its project.
const FS_XFLAG_PROJINHERIT: u32 = 0x200;

const PRJQUOTA: u32 = 2;
const Q_GETQUOTA: u32 = 0x80_0007;
const Q_SETQUOTA: u32 = 0x80_0008;
const Q_XGETQSTATV: u32 = 0x5808;
const FS_QSTATV_VERSION1: u8 = 1;
/// Limits of projects are kept, not only counted.
const FS_QUOTA_PDQ_ENFD: u16 = 1 << 5;
const QIF_BLIMITS: u32 = 1;
const QIF_ILIMITS: u32 = 4;
/// `dqb_bhardlimit` counts these.
const QIF_DQBLKSIZE: u64 = 1024;

#[repr(C)]
#[derive(Default)]
struct Fsxattr {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    pad: [u8; 8],
}

#[repr(C)]
#[derive(Default)]
struct FsQuotaStatv {
    version: u8,
    pad1: u8,
    flags: u16,
    incoredqs: u32,
    /// `struct fs_qfilestatv` of users, groups and projects.
    files: [[u64; 3]; 3],
    time_limits: [i32; 3],
    warn_limits: [u16; 3],
    pad3: u16,
    pad4: u32,
    pad2: [u64; 7],
}

#[repr(C)]
#[derive(Default)]
struct IfDqblk {
    bhardlimit: u64,
    bsoftlimit: u64,
    curspace: u64,
    ihardlimit: u64,
    isoftlimit: u64,
    curinodes: u64,
    btime: u64,
    itime: u64,
    valid: u32,
}

/// What is counted of a project, and the most that there may be; 0: without a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Bytes on disk.
    pub bytes: u64,
    /// Inodes.
    pub files: u64,
    /// The most bytes, in whole KiB.
    pub max_bytes: u64,
    /// The most inodes.
    pub max_files: u64,
}

/// The project of a file or directory, and whether what is made in it inherits that.
///
/// # Errors
/// The kernel's; `ENOTTY` and `EOPNOTSUPP` where the file system knows no projects.
pub fn project(file: impl AsFd) -> io::Result<(u32, bool)> {
    let found = attributes(file)?;
    Ok((found.projid, found.xflags & FS_XFLAG_PROJINHERIT != 0))
}

/// Makes a file or directory one of `project`, and what will be made in it if `inherited`. For its owner or root.
///
/// # Errors
/// The kernel's.
pub fn set_project(file: impl AsFd, project: u32, inherited: bool) -> io::Result<()> {
    let found = attributes(&file)?;
    let inherits = if inherited { FS_XFLAG_PROJINHERIT } else { 0 };
    let wanted = Fsxattr { projid: project, xflags: found.xflags & !FS_XFLAG_PROJINHERIT | inherits, ..found };
    // SAFETY: the call reads a struct of the size that is part of its number.
    check(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), FS_IOC_FSSETXATTR, &raw const wanted) }.into()).map(drop)
}

fn attributes(file: impl AsFd) -> io::Result<Fsxattr> {
    let mut found = Fsxattr::default();
    // SAFETY: the call fills a struct of the size that is part of its number.
    check(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), FS_IOC_FSGETXATTR, &raw mut found) }.into())?;
    Ok(found)
}

/// Whether the file system of `file` keeps limits of projects.
///
/// # Errors
/// The kernel's; `ENOSYS` where there are no quotas.
pub fn keeps_project_limits(file: impl AsFd) -> io::Result<bool> {
    let mut found = FsQuotaStatv { version: FS_QSTATV_VERSION1, ..FsQuotaStatv::default() };
    quotactl(file, Q_XGETQSTATV, 0, &mut found)?;
    Ok(found.flags & FS_QUOTA_PDQ_ENFD != 0)
}

/// What is counted of a project on the file system of `file`. Needs `CAP_SYS_ADMIN`.
///
/// # Errors
/// The kernel's.
pub fn quota(file: impl AsFd, project: u32) -> io::Result<Quota> {
    let mut found = IfDqblk::default();
    match quotactl(file, Q_GETQUOTA, project, &mut found) {
        // XFS: nothing of it was ever counted.
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(Quota::default()),
        counted => counted?,
    }
    Ok(Quota {
        bytes: found.curspace,
        files: found.curinodes,
        max_bytes: found.bhardlimit.saturating_mul(QIF_DQBLKSIZE),
        max_files: found.ihardlimit,
    })
}

/// Sets the limits of a project on the file system of `file`; 0: none. Needs `CAP_SYS_ADMIN`.
///
/// # Errors
/// The kernel's.
pub fn set_quota(file: impl AsFd, project: u32, max_bytes: u64, max_files: u64) -> io::Result<()> {
    let mut wanted = IfDqblk {
        bhardlimit: max_bytes / QIF_DQBLKSIZE,
        ihardlimit: max_files,
        valid: QIF_BLIMITS | QIF_ILIMITS,
        ..IfDqblk::default()
    };
    quotactl(file, Q_SETQUOTA, project, &mut wanted)
}

/// The structs that `quotactl` fills or reads.
trait Addressed {}
impl Addressed for FsQuotaStatv {}
impl Addressed for IfDqblk {}

fn quotactl<T: Addressed>(file: impl AsFd, command: u32, project: u32, at: &mut T) -> io::Result<()> {
    let command = command << 8 | PRJQUOTA;
    // SAFETY: each caller's command and struct belong together; the kernel keeps to the struct.
    check(unsafe { libc::syscall(libc::SYS_quotactl_fd, file.as_fd().as_raw_fd(), command, project, at) }).map(drop)
}

// The kernel's sizes.
const _: () = assert!(mem::size_of::<Fsxattr>() == 28);
const _: () = assert!(mem::size_of::<FsQuotaStatv>() == 160);
const _: () = assert!(mem::size_of::<IfDqblk>() == 72);
