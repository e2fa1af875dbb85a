//! Limits, as control groups know them.
//!
//! Takes the granted limits; gives `LinuxResources`; trusts the grant; refuses nothing.

use std::collections::BTreeSet;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxBlockIoBuilder, LinuxCpuBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
    LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder, LinuxThrottleDevice,
    LinuxThrottleDeviceBuilder,
};

use super::internal;
use crate::error::Result;
use crate::host::disks::Disk;
use crate::policy::grant::Granted;

/// The period of CPU bandwidth, in microseconds: the kernel's own choice.
const CPU_PERIOD: u64 = 100_000;
/// The kernel refuses less than a millisecond a period.
const LEAST_QUOTA: i64 = 1_000;

/// null, zero, full, random, urandom, tty and ptmx; then every terminal of the container's own devpts.
const DEVICES: [(i64, Option<i64>); 8] =
    [(1, Some(3)), (1, Some(5)), (1, Some(7)), (1, Some(8)), (1, Some(9)), (5, Some(0)), (5, Some(2)), (136, None)];

/// The resources of a run that uses `disks`.
pub(super) fn build(limits: &Granted, disks: &BTreeSet<Disk>) -> Result<LinuxResources> {
    let memory = i64::try_from(limits.memory_bytes).unwrap_or(i64::MAX);
    // Here `swap` is memory and swap together: equal to the memory's limit, it is no swap at all.
    let swap = memory.saturating_add(i64::try_from(limits.swap_bytes).unwrap_or(i64::MAX));
    let mut resources = LinuxResourcesBuilder::default()
        .devices(devices()?)
        .memory(LinuxMemoryBuilder::default().limit(memory).swap(swap).build().map_err(internal)?)
        .cpu(LinuxCpuBuilder::default().quota(quota(limits.cpus)).period(CPU_PERIOD).build().map_err(internal)?)
        .pids(
            LinuxPidsBuilder::default()
                .limit(i64::try_from(limits.pids).unwrap_or(i64::MAX))
                .build()
                .map_err(internal)?,
        );
    if let Some(rate) = limits.io_bytes_per_second.filter(|_| !disks.is_empty()) {
        resources = resources.block_io(block_io(rate, disks)?);
    }
    resources.build().map_err(internal)
}

/// The same rate, in bytes a second, for reading and for writing, of each disk.
///
/// # Errors
/// When the builders refuse.
pub fn block_io(rate: u64, disks: &BTreeSet<Disk>) -> Result<LinuxBlockIo> {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let throttle = |disk: &Disk| {
        let (major, minor) = (number(disk.major), number(disk.minor));
        LinuxThrottleDeviceBuilder::default().major(major).minor(minor).rate(rate).build().map_err(internal)
    };
    let each = disks.iter().map(throttle).collect::<Result<Vec<LinuxThrottleDevice>>>()?;
    LinuxBlockIoBuilder::default()
        .throttle_read_bps_device(each.clone())
        .throttle_write_bps_device(each)
        .build()
        .map_err(internal)
}

fn quota(cpus: f64) -> i64 {
    // 100,000 µs a CPU: whole numbers come out exact, and no host has 10^9 CPUs.
    #[allow(clippy::cast_possible_truncation, reason = "the value is between 0 and 10^14, and is rounded")]
    let quota = (cpus.clamp(0.0, 1e9) * 100_000.0).round() as i64;
    quota.max(LEAST_QUOTA)
}

fn devices() -> Result<Vec<LinuxDeviceCgroup>> {
    let none = LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build().map_err(internal)?;
    let mut rules = vec![none];
    for (major, minor) in DEVICES {
        let mut rule =
            LinuxDeviceCgroupBuilder::default().allow(true).typ(LinuxDeviceType::C).major(major).access("rwm");
        if let Some(minor) = minor {
            rule = rule.minor(minor);
        }
        rules.push(rule.build().map_err(internal)?);
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_the_share_of_each_period() {
        assert_eq!(quota(2.5), 250_000);
        assert_eq!(quota(1.0), 100_000);
        assert_eq!(quota(0.001), LEAST_QUOTA);
        assert_eq!(quota(192.0), 19_200_000);
    }
}
