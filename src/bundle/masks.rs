//! What of /proc and /sys a payload can neither read nor change.
//!
//! Takes `bundles/paths.toml`, compiled in, and the CPUs of this host; gives two lists of paths; trusts that file; refuses
//! to be without it.

use std::fs;

use crate::error::{Error, Kind, Result, Stage};
use crate::policy::reader::Table;

const FILE: &str = "bundles/paths.toml";
const TEXT: &str = include_str!("../../bundles/paths.toml");

/// Paths by what happens to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masks {
    /// Read as nothing.
    pub masked: Vec<String>,
    /// Cannot be written.
    pub readonly: Vec<String>,
}

impl Masks {
    /// The lists every run has.
    ///
    /// # Errors
    /// Never, once tested.
    pub fn load() -> Result<Self> {
        let mut top = Table::parse(TEXT, FILE)?;
        let masked = read(&mut top, "masked")?;
        let readonly = read(&mut top, "readonly")?;
        top.finish()?;
        Ok(Self { masked, readonly })
    }
}

fn read(top: &mut Table<'_>, key: &'static str) -> Result<Vec<String>> {
    let missing = |key: &str| Error::new(Stage::Bundle, Kind::Failed, format!("{FILE} lacks {key}"));
    let mut paths = Vec::new();
    for mut group in top.tables(key)?.ok_or_else(|| missing(key))?.value {
        group.string("reason")?.ok_or_else(|| missing("reason"))?;
        paths.extend(group.strings("paths")?.ok_or_else(|| missing("paths"))?.value);
        group.finish()?;
    }
    Ok(paths)
}

/// Sensors of single CPUs, which no fixed list can name: their temperature tells what others compute.
pub fn of_this_host() -> Vec<String> {
    let Ok(cpus) = fs::read_dir("/sys/devices/system/cpu") else { return Vec::new() };
    let mut paths: Vec<String> = cpus
        .flatten()
        .filter(|entry| entry.file_name().to_str().and_then(|name| name.strip_prefix("cpu")).is_some_and(is_number))
        .map(|cpu| cpu.path().join("thermal_throttle"))
        .filter(|path| path.is_dir())
        .map(|path| path.display().to_string())
        .collect();
    paths.sort();
    paths
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_least_what_docker_masks_is_masked() {
        let masks = Masks::load().unwrap();
        for path in [
            "/proc/acpi",
            "/proc/asound",
            "/proc/interrupts",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/sched_debug",
            "/proc/scsi",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/sys/devices/virtual/powercap",
            "/sys/firmware",
        ] {
            assert!(masks.masked.iter().any(|p| p == path), "{path}");
        }
        for path in ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"] {
            assert!(masks.readonly.iter().any(|p| p == path), "{path}");
        }
    }

    #[test]
    fn no_path_is_listed_twice_or_below_another() {
        let masks = Masks::load().unwrap();
        let all: Vec<&String> = masks.masked.iter().chain(&masks.readonly).collect();
        for (at, one) in all.iter().enumerate() {
            assert!(one.starts_with("/proc/") || one.starts_with("/sys/"));
            for other in all.iter().skip(at + 1) {
                let (one, other) = (std::path::Path::new(one), std::path::Path::new(other));
                assert!(!one.starts_with(other) && !other.starts_with(one), "{one:?} {other:?}");
            }
        }
    }
}
