//! What can be left out: one protection a line, with what the refusal then says.

use serde_json::{Value, json};

/// The variable of the container by which a run says what is to be left out.
pub const WORD: &str = "CES_LOSS";

/// One protection, left out.
pub struct Loss {
    pub name: &'static str,
    /// What the refusal says.
    pub said: &'static str,
    pub image: &'static str,
    pub options: &'static [&'static str],
    /// Changes what the stage is asked for.
    pub change: fn(&mut Value),
}

const fn loss(name: &'static str, said: &'static str, change: fn(&mut Value)) -> Loss {
    Loss { name, said, image: "localhost/root", options: &[], change }
}

const fn with(options: &'static [&'static str], loss: Loss) -> Loss {
    Loss { options, ..loss }
}

fn nothing(_: &mut Value) {}

/// All losses. Those whose change is `nothing` are lies, told below by their names.
pub static LOSSES: [Loss; 55] = [
    loss("the_user", "the user is", |r| r["spec"]["process"]["user"]["uid"] = json!(1)),
    loss("the_group", "the group is", |r| r["spec"]["process"]["user"]["gid"] = json!(1)),
    loss("the_groups", "supplementary groups", nothing),
    loss("an_empty_bounding_set", "capability set CapBnd", |r| capable(r, &["bounding"])),
    loss("an_empty_permitted_set", "capability set CapPrm", |r| capable(r, &["bounding", "permitted"])),
    loss("an_empty_effective_set", "capability set CapEff", |r| capable(r, &["bounding", "permitted", "effective"])),
    loss("an_empty_inheritable_set", "capability set CapInh", |r| {
        capable(r, &["bounding", "permitted", "inheritable"]);
    }),
    loss("an_empty_ambient_set", "capability set CapAmb", |r| {
        capable(r, &["bounding", "permitted", "inheritable", "ambient"]);
    }),
    with(
        &["--profile", "service"],
        loss("the_limits_of_service", "capability set CapEff", |r| {
            capable(r, &["bounding", "permitted", "effective"]);
        }),
    ),
    loss("no_new_privs", "no_new_privs is false", |r| {
        // Or the filters could not be installed, and the engine would fail first.
        capable(r, &["bounding", "permitted", "effective"]);
    }),
    loss("seccomp", "the seccomp mode is 0", nothing),
    loss("the_user_namespace", "of a new user namespace", nothing),
    loss("the_ipc_namespace", "the ipc namespace", |r| unmount(r, "/dev/mqueue")),
    loss("the_uts_namespace", "the uts namespace", |r| {
        share(r, "uts");
        r["spec"]["hostname"] = Value::Null;
    }),
    loss("the_pid_namespace", "the pid namespace", |r| share(r, "pid")),
    loss("the_network_namespace", "the net namespace", |r| unmount(r, "/sys")),
    loss("the_cgroup_namespace", "the cgroup namespace", nothing),
    loss("the_uid_map", "the uid map", |r| option(r, "/dev/pts", "gid=5")),
    loss("the_gid_map", "the gid map", |r| option(r, "/dev/pts", "gid=5")),
    with(&["--read-only"], loss("a_read_only_root", "the mount / ", |r| r["spec"]["root"]["readonly"] = json!(false))),
    loss("nosuid_on_the_root", "the mount / ", nothing),
    loss("nodev_on_the_root", "the mount / ", nothing),
    loss("nosuid_on_the_data", "the mount /safe_data ", nothing),
    loss("nodev_on_the_outputs", "the mount /safe_outputs ", nothing),
    with(
        &["--data-ro"],
        loss("read_only_data", "the mount /safe_data ", |r| {
            for bind in r["plan"]["binds"].as_array_mut().unwrap() {
                bind["read_only"] = json!(false);
            }
        }),
    ),
    with(&["--data-ro"], loss("read_only_data_to_its_depth", "the mount /safe_data/below ", nothing)),
    loss("noexec_on_hosts", "the mount /etc/hosts ", |r| {
        for bind in r["plan"]["binds"].as_array_mut().unwrap() {
            bind["no_exec"] = json!(false);
        }
    }),
    loss("nosuid_on_proc", "the mount /proc ", |r| option(r, "/proc", "nosuid")),
    loss("nodev_on_proc", "the mount /proc ", |r| option(r, "/proc", "nodev")),
    loss("noexec_on_proc", "the mount /proc ", |r| option(r, "/proc", "noexec")),
    loss("noexec_on_shared_memory", "the mount /dev/shm ", |r| option(r, "/dev/shm", "noexec")),
    loss("nosuid_on_dev", "the mount /dev ", |r| option(r, "/dev", "nosuid")),
    loss("read_only_sys", "the mount /sys ", |r| option(r, "/sys", "ro")),
    with(&["--tmpfs", "/work:noexec"], loss("noexec_on_a_tmpfs", "the mount /work ", |r| option(r, "/work", "noexec"))),
    loss("shared_memory_of_its_own", "the mount /dev/shm ", |r| unmount(r, "/dev/shm")),
    loss("proc_of_its_own", "the mount /proc is \"the host's\"", nothing),
    loss("a_list_of_mounts_that_ends", "an unexpected mount is \"/extra\"", |r| {
        let mounts = r["spec"]["mounts"].as_array_mut().unwrap();
        mounts.push(json!({"destination": "/extra", "type": "tmpfs", "source": "tmpfs", "options": []}));
    }),
    loss("private_mounts", "must be \"private\"", |r| r["spec"]["linux"]["rootfsPropagation"] = json!("shared")),
    loss("a_masked_file", "a masked path is \"/proc/kallsyms\"", |r| uncover(r, "maskedPaths", "/proc/kallsyms")),
    loss("a_masked_directory", "a masked path is \"/sys/firmware\"", |r| uncover(r, "maskedPaths", "/sys/firmware")),
    loss("every_mask", "a masked path is \"/proc/keys\"", |r| r["spec"]["linux"]["maskedPaths"] = json!([])),
    loss("a_read_only_path", "the mount /proc/sys ", |r| uncover(r, "readonlyPaths", "/proc/sys")),
    loss("every_read_only_path", "the mount /proc/bus ", |r| {
        r["spec"]["linux"]["readonlyPaths"] = json!([]);
    }),
    loss("seven_devices", "an unexpected mount is \"/dev/kmsg\"", |r| {
        r["spec"]["linux"]["devices"] = json!([{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}]);
    }),
    loss("the_right_devices", "the device /dev/full is \"c 1:11\"", nothing),
    loss("closed_descriptors", "an open descriptor", nothing),
    loss("descriptors_that_close_on_exec", "kept open", nothing),
    loss("loopback_alone", "a network interface is \"eth0\"", nothing),
    loss("no_route", "a network route", nothing),
    loss("no_core_dumps", "the process limit core", |r| limit(r, "RLIMIT_CORE")),
    with(
        &["--ulimit", "nofile=100:200"],
        loss("a_limit_of_open_files", "the process limit nofile", |r| limit(r, "RLIMIT_NOFILE")),
    ),
    loss("the_control_group", "the control group", nothing),
    loss("the_memory_limit", "a limit is", nothing),
    loss("the_limit_of_processes", "a limit is", nothing),
    loss("the_processor_limit", "the processor limit", nothing),
];

/// What the engine cannot do, from its first steps to its last: the run fails in its middle.
pub static FAILURES: [Loss; 5] = [
    loss("a_mount_that_exists", "no-such-file-system", |r| {
        let mounts = r["spec"]["mounts"].as_array_mut().unwrap();
        mounts.push(json!({"destination": "/extra", "type": "no-such-file-system", "source": "x", "options": []}));
    }),
    loss("a_device_that_may_be_made", "create the container", |r| {
        r["spec"]["linux"]["devices"] = json!([{"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}]);
    }),
    loss("a_directory_to_work_in", "working directory", |r| r["spec"]["process"]["cwd"] = json!("/etc/passwd/x")),
    loss("a_limit_that_may_be_set", "create the container", |r| {
        r["spec"]["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 1_u64 << 40, "hard": 1_u64 << 40}]);
    }),
    loss("seccomp_filters_that_load", "install the seccomp filter", nothing),
];

/// Gives a capability that no profile has to these sets.
fn capable(request: &mut Value, sets: &[&str]) {
    for set in sets {
        let list = request["spec"]["process"]["capabilities"][set].as_array_mut().unwrap();
        list.push(json!("CAP_SYS_ADMIN"));
    }
}

fn share(request: &mut Value, namespace: &str) {
    request["spec"]["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != namespace);
}

fn unmount(request: &mut Value, at: &str) {
    request["spec"]["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != at);
}

fn option(request: &mut Value, at: &str, option: &str) {
    for mount in request["spec"]["mounts"].as_array_mut().unwrap().iter_mut().filter(|m| m["destination"] == at) {
        mount["options"].as_array_mut().unwrap().retain(|o| o != option);
    }
}

fn uncover(request: &mut Value, list: &str, path: &str) {
    request["spec"]["linux"][list].as_array_mut().unwrap().retain(|p| p != path);
}

/// As much as this very process may have.
fn limit(request: &mut Value, name: &str) {
    let resource = if name == "RLIMIT_CORE" {
        nix::sys::resource::Resource::RLIMIT_CORE
    } else {
        nix::sys::resource::Resource::RLIMIT_NOFILE
    };
    let (_, hard) = nix::sys::resource::getrlimit(resource).unwrap();
    for one in request["spec"]["process"]["rlimits"].as_array_mut().unwrap().iter_mut().filter(|l| l["type"] == name) {
        (one["soft"], one["hard"]) = (json!(hard), json!(hard));
    }
}
