"""A hardened bundle for the peers while `ces bundle` cannot make one: no capabilities, user namespace, seccomp, masks."""

import json
import os
import pathlib

MASKED = ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
          "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"]
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def seccomp():
    """The distribution's own default list for containers, less what it grants to capabilities; None if it is not there."""
    path = pathlib.Path("/usr/share/containers/seccomp.json")
    if not path.exists():
        return None
    native, others = {"x86_64": ("SCMP_ARCH_X86_64", {"amd64", "x86_64"}),
                      "aarch64": ("SCMP_ARCH_AARCH64", {"arm64", "aarch64"})}[os.uname().machine]

    def applies(rule):
        includes = rule.get("includes") or {}
        return not includes.get("caps") and (not includes.get("arches") or others & set(includes["arches"]))

    keep = [{key: rule[key] for key in ("names", "action", "args", "errnoRet") if rule.get(key)}
            for rule in json.loads(path.read_text())["syscalls"] if applies(rule)]
    return {"defaultAction": "SCMP_ACT_ERRNO", "architectures": [native], "syscalls": keep}


def write(directory, user):
    """Writes config.json into the bundle `directory`, whose rootfs is there already; `user`: (uid, gid), or None for root."""
    host, size = (user, 1) if user else ((2147352576, 2147352576), 65536)
    uids, gids = ([{"containerID": 0, "hostID": first, "size": size}] for first in host)
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev"]},
    ]
    process = {"user": {"uid": 0, "gid": 0}, "args": ["/bin/true"], "env": ["PATH=/bin"], "cwd": "/",
               "noNewPrivileges": True, "capabilities": {}, "rlimits": [{"type": "RLIMIT_CORE", "hard": 0, "soft": 0}]}
    spaces = [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "user")]
    linux = {"namespaces": spaces, "uidMappings": uids, "gidMappings": gids, "maskedPaths": MASKED,
             "readonlyPaths": READ_ONLY}
    if filters := seccomp():
        linux["seccomp"] = filters
    if not user:
        linux["resources"] = {"pids": {"limit": 1024}, "memory": {"limit": 1 << 30}}
    spec = {"ociVersion": "1.0.2", "process": process, "root": {"path": "rootfs"}, "hostname": "bench", "mounts": mounts,
            "linux": linux}
    (directory / "config.json").write_text(json.dumps(spec, indent=1))
