//! The spec, by tables, and against the golden `bundles/<profile>/config.json`.
//!
//! `CES_BLESS=1 cargo nextest run golden` writes the golden files anew; read the difference before you commit it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde_json::{Value, json};

use super::image_user::{self, ResolvedUser};
use super::{process, seccomp, spec};
use crate::error::{Kind, Result};
use crate::host::disks::Disk;
use crate::host::idmap::{Extent, FOREIGN_BASE, IdMap, RANGE};
use crate::policy::grant::{Grant, GrantFacts};
use crate::policy::request::{RunRequest, places};
use crate::policy::{HostFacts, Policy};
use spec::{HostPaths, SpecInput};

const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\njovyan:x:1000:100::/home/jovyan:/bin/sh\n";

fn image(config: Value) -> ImageConfiguration {
    let document = json!({
        "architecture": "amd64",
        "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [] },
        "config": config,
    });
    serde_json::from_value(document).unwrap()
}

fn grant(request: &RunRequest) -> Grant {
    let facts = HostFacts { memory_bytes: 16 << 30, cpus: 4.0, privileged: true };
    let mut grant_facts = GrantFacts { home: "/home/ann".into(), ..GrantFacts::default() };
    for bind in &request.binds {
        grant_facts
            .sources
            .insert(bind.source.clone(), PathBuf::from("/home/ann").join(bind.source.trim_start_matches("./")));
    }
    Policy::builtin(&facts).grant(request, &grant_facts).unwrap()
}

fn ids() -> IdMap {
    let map = |researcher| {
        vec![
            Extent { inside: 0, outside: researcher, count: 1 },
            Extent { inside: 1, outside: FOREIGN_BASE + 1, count: RANGE - 1 },
        ]
    };
    IdMap { uids: map(1001), gids: map(1001) }
}

fn paths() -> HostPaths {
    HostPaths {
        data: Some("/safe_data/projx".into()),
        outputs: "/home/ann/outputs_20261122T143015-7f3a9c".into(),
        scratch: "/home/ann/scratch_20261122T143015-7f3a9c".into(),
        hosts: "/run/ces/20261122T143015-7f3a9c/hosts".into(),
        hostname: "/run/ces/20261122T143015-7f3a9c/hostname".into(),
        resolv_conf: "/run/ces/20261122T143015-7f3a9c/resolv.conf".into(),
    }
}

fn build_for(image: &ImageConfiguration, grant: &Grant, user: &ResolvedUser, ids: &IdMap) -> Result<Spec> {
    spec::build(&SpecInput {
        groups: &[],
        grant,
        image,
        user,
        ids,
        paths: &paths(),
        rootfs: Path::new("rootfs"),
        job: "20261122T143015-7f3a9c",
        cgroups_path: None,
        term: Some("xterm-256color"),
        masks: &[],
        disks: &BTreeSet::from([Disk { major: 8, minor: 16 }]),
        portable: true,
    })
}

fn build(config: Value, request: &RunRequest) -> Result<Spec> {
    let image = image(config);
    let stated = image.config().as_ref().and_then(|c| c.user().clone());
    let user = image_user::resolve(request.user.as_deref().or(stated.as_deref()), Some(PASSWD), None)?;
    build_for(&image, &grant(request), &user, &ids())
}

fn as_json(spec: &Spec) -> Value {
    serde_json::from_slice(&spec::to_json(spec).unwrap()).unwrap()
}

fn env_of(config: Value, request: &RunRequest) -> Vec<String> {
    build(config, request).unwrap().process().as_ref().unwrap().env().clone().unwrap()
}

fn args_of(config: Value, request: &RunRequest) -> Result<Vec<String>> {
    Ok(build(config, request)?.process().as_ref().unwrap().args().clone().unwrap())
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn golden_config_json_of_each_profile() {
    let config = json!({
        "Entrypoint": ["python3"],
        "Cmd": ["-c", "print('hello')"],
        "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"],
        "WorkingDir": "/app",
        "Labels": { "org.example.hook": "/bin/sh -c reboot" },
        "Volumes": { "/../../etc": {} },
    });
    for profile in ["batch", "service"] {
        let request = RunRequest { profile: Some(profile.to_owned()), ..RunRequest::default() };
        let mut built = build(config.clone(), &request).unwrap();
        let linux = built.linux_mut().as_mut().unwrap();
        linux.set_seccomp(Some(seccomp::to_oci(seccomp::Arch::X86_64).unwrap()));
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles").join(profile).join("config.json");
        let bytes = spec::to_json(&built).unwrap();
        if std::env::var_os("CES_BLESS").is_some() {
            std::fs::write(&file, &bytes).unwrap();
        }
        let golden = std::fs::read(&file).unwrap();
        assert!(golden == bytes, "{} differs from what a run gets; see the module's introduction", file.display());
    }
}

#[test]
fn entrypoint_cmd_and_arguments_merge_as_docker_does() {
    let both = || json!({ "Entrypoint": ["/e"], "Cmd": ["c"] });
    let ask = |args: &[&str], entrypoint: Option<&[&str]>| RunRequest {
        args: words(args),
        entrypoint: entrypoint.map(words),
        ..RunRequest::default()
    };
    for (config, request, want) in [
        (both(), ask(&[], None), &["/e", "c"][..]),
        (both(), ask(&["a", "b"], None), &["/e", "a", "b"]),
        (both(), ask(&[], Some(&["/x"])), &["/x"]),
        (both(), ask(&["a"], Some(&["/x", "-y"])), &["/x", "-y", "a"]),
        (both(), ask(&[], Some(&[])), &["c"]),
        (json!({ "Cmd": ["sh"] }), ask(&[], None), &["sh"]),
        (json!({ "Cmd": ["sh"] }), ask(&["ls"], None), &["ls"]),
        (json!({ "Entrypoint": ["/e"] }), ask(&[], None), &["/e"]),
    ] {
        assert_eq!(args_of(config, &request).unwrap(), words(want));
    }
}

#[test]
fn a_command_that_cannot_be_executed_is_one_clear_error() {
    for config in [
        json!({}),
        json!({ "Entrypoint": [], "Cmd": [] }),
        json!({ "Entrypoint": [""] }),
        json!({ "Cmd": ["sh", "a\u{0}b"] }),
        json!({ "Cmd": ["x".repeat(200_000)] }),
    ] {
        let error = args_of(config, &RunRequest::default()).unwrap_err();
        assert_eq!(error.kind(), Kind::Hostile);
        assert!(error.report().contains("hint:"), "{}", error.report());
    }
}

#[test]
fn the_environment_is_the_images_then_ours_then_the_users() {
    let config = json!({ "Cmd": ["x"], "Env": ["A=1", "B=2", "TMPDIR=/image", "A=3", "HOSTNAME=image"] });
    let request = RunRequest {
        env: vec![("B".into(), "user".into()), ("HOSTNAME".into(), "user".into())],
        ..RunRequest::default()
    };
    let want = [
        "A=3",
        "B=user",
        "TMPDIR=/scratch",
        "HOSTNAME=20261122T143015-7f3a9c",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME=/root",
    ];
    assert_eq!(env_of(config, &request), want);
    let own = RunRequest {
        env: vec![("TMPDIR".into(), "/tmp".into()), ("HOME".into(), "/x".into())],
        tty: true,
        ..RunRequest::default()
    };
    let env = env_of(json!({ "Cmd": ["x"] }), &own);
    for variable in ["TMPDIR=/tmp", "HOME=/x", "TERM=xterm-256color"] {
        assert!(env.contains(&variable.to_owned()), "{env:?}");
    }
}

#[test]
fn home_and_path_are_always_set() {
    for (config, home) in [
        (json!({ "Cmd": ["x"], "User": "jovyan" }), "HOME=/home/jovyan"),
        (json!({ "Cmd": ["x"], "User": "4242" }), "HOME=/"),
        (json!({ "Cmd": ["x"], "User": "jovyan", "Env": ["HOME=/data"] }), "HOME=/data"),
        (json!({ "Cmd": ["x"], "Env": ["HOME=", "PATH="] }), "HOME=/root"),
    ] {
        let env = env_of(config, &RunRequest::default());
        assert!(env.contains(&home.to_owned()), "{env:?}");
        assert!(env.iter().any(|v| v.starts_with("PATH=/")), "{env:?}");
    }
}

#[test]
fn malformed_variables_of_an_image_are_left_out_and_told() {
    let config =
        json!({ "Cmd": ["x"], "Env": ["NOVALUE", "=x", "", "A=b\u{0}c", "LISTEN_FDS=7", "NOTIFY_SOCKET=/x", "OK=1"] });
    let image = image(config);
    let user = image_user::resolve(None, None, None).unwrap();
    let (env, notes) = process::environment(&image, &grant(&RunRequest::default()), &user, "h", None).unwrap();
    assert!(env.contains(&"OK=1".to_owned()));
    assert_eq!(notes.len(), 6);
    assert!(env.iter().all(|v| !v.contains('\0') && !v.starts_with('=') && !v.starts_with("LISTEN")));
}

#[test]
fn a_working_directory_cannot_lead_out() {
    let dir = |text: &str| build(json!({ "Cmd": ["x"], "WorkingDir": text }), &RunRequest::default());
    for text in [
        "/proc/self/fd/8",
        "/proc",
        "/sys/x",
        "/dev/fd",
        "relative",
        "../x",
        "/a/../proc/1",
        "//proc/1/root",
        "/x\u{0}",
    ] {
        let error = dir(text).unwrap_err();
        assert_eq!(error.kind(), Kind::Hostile, "{text}");
        assert!(error.report().contains("--workdir"));
    }
    for (text, want) in [("", "/"), ("/app", "/app"), ("/app/./x//", "/app/x"), ("/procs", "/procs")] {
        assert_eq!(dir(text).unwrap().process().as_ref().unwrap().cwd(), Path::new(want));
    }
    let own = RunRequest { workdir: Some("/safe_outputs".to_owned()), ..RunRequest::default() };
    assert!(build(json!({ "Cmd": ["x"], "WorkingDir": "/proc" }), &own).is_ok());
}

#[test]
fn a_user_without_an_id_on_this_host_is_refused() {
    let single = IdMap {
        uids: vec![Extent { inside: 0, outside: 1001, count: 1 }],
        gids: vec![Extent { inside: 0, outside: 1001, count: 1 }],
    };
    let image = image(json!({ "Cmd": ["x"] }));
    let grant = grant(&RunRequest::default());
    for (user, ok) in [("0", true), ("1", false), ("0:1", false), ("65536", false)] {
        let user = image_user::resolve(Some(user), None, None).unwrap();
        assert_eq!(build_for(&image, &grant, &user, &single).is_ok(), ok, "{user:?}");
    }
}

#[test]
fn batch_has_no_capability_and_service_has_seven_in_three_sets() {
    let sets = |profile: &str| {
        let request = RunRequest { profile: Some(profile.to_owned()), ..RunRequest::default() };
        as_json(&build(json!({ "Cmd": ["x"] }), &request).unwrap()).pointer("/process/capabilities").unwrap().clone()
    };
    let none = json!([]);
    let batch = sets("batch");
    for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
        assert_eq!(batch[set], none, "{set}");
    }
    let service = sets("service");
    let seven =
        json!(["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"]);
    for (set, want) in
        [("bounding", &seven), ("effective", &seven), ("permitted", &seven), ("inheritable", &none), ("ambient", &none)]
    {
        assert_eq!(service[set], *want, "{set}");
    }
}

#[test]
fn nothing_of_the_image_steers_the_runtime() {
    let config = json!({
        "Cmd": ["x"],
        "Labels": { "run.oci.hooks.stdout": "/tmp/x", "io.katacontainers.x": "y" },
        "Volumes": { "/../../etc": {}, "/data": {} },
        "ExposedPorts": { "80/tcp": {} },
        "StopSignal": "SIGKILL",
    });
    let value = as_json(&build(config, &RunRequest::default()).unwrap());
    assert!(value.get("annotations").is_none() && value.get("hooks").is_none());
    assert!(!value.to_string().contains("katacontainers") && !value.to_string().contains("../../etc"));
    assert_eq!(value.pointer("/process/noNewPrivileges"), Some(&json!(true)));
    assert!(value.pointer("/linux/devices").is_none());
}

#[test]
fn every_mount_is_nosuid_and_data_is_read_only_to_its_depth() {
    let request = RunRequest {
        data_ro: true,
        read_only: true,
        binds: vec![places::volume("./b:/x/y:ro").unwrap(), places::volume("./a:/x").unwrap()],
        ..RunRequest::default()
    };
    let value = as_json(&build(json!({ "Cmd": ["x"] }), &request).unwrap());
    let mounts = value["mounts"].as_array().unwrap();
    let options = |at: &str| mounts.iter().find(|m| m["destination"] == at).unwrap()["options"].to_string();
    for mount in mounts {
        let destination = mount["destination"].as_str().unwrap();
        assert!(options(destination).contains("nosuid"), "{mount}");
        // Device nodes are what /dev and /dev/pts are for.
        assert!(options(destination).contains("nodev") || ["/dev", "/dev/pts"].contains(&destination), "{mount}");
    }
    assert!(options("/safe_data").contains("\"rro\""));
    assert!(options("/safe_outputs").contains("\"rw\"") && options("/x/y").contains("\"rro\""));
    assert!(options("/dev/shm").contains(&format!("size={}", 4_u64 << 30)));
    assert_eq!(value.pointer("/root/readonly"), Some(&json!(true)));
    let order: Vec<&str> = mounts.iter().map(|m| m["destination"].as_str().unwrap()).collect();
    let at = |destination: &str| order.iter().position(|d| *d == destination).unwrap();
    assert!(at("/x") < at("/x/y") && at("/dev") < at("/dev/shm") && at("/etc/hosts") > at("/x/y"));
}

#[test]
fn limits_become_resources_without_swap() {
    let request = RunRequest { memory: Some(1 << 30), cpus: Some(2.5), pids: Some(100), ..RunRequest::default() };
    let value = as_json(&build(json!({ "Cmd": ["x"] }), &request).unwrap());
    let at = |pointer: &str| value.pointer(&format!("/linux/resources{pointer}")).unwrap().clone();
    assert_eq!((at("/memory/limit"), at("/memory/swap")), (json!(1 << 30), json!(1 << 30)));
    assert_eq!((at("/cpu/quota"), at("/cpu/period")), (json!(250_000), json!(100_000)));
    assert_eq!(at("/pids/limit"), json!(100));
    assert_eq!(at("/devices/0"), json!({ "allow": false, "access": "rwm" }));
    assert_eq!(at("/devices").as_array().unwrap().len(), 9);
    let core = json!({ "type": "RLIMIT_CORE", "hard": 0, "soft": 0 });
    assert!(value.pointer("/process/rlimits").unwrap().as_array().unwrap().contains(&core));
}

#[test]
fn the_engine_gets_what_ces_has_not_done_itself() {
    let whole = build(json!({ "Cmd": ["x"] }), &RunRequest::default()).unwrap();
    let engine = spec::engine_spec(&whole, false);
    let linux = engine.linux().as_ref().unwrap();
    assert!(linux.uid_mappings().is_none() && linux.gid_mappings().is_none() && linux.resources().is_none());
    assert!(linux.seccomp().is_none() && linux.cgroups_path().is_none());
    let kinds: Vec<LinuxNamespaceType> = linux.namespaces().as_ref().unwrap().iter().map(|n| n.typ()).collect();
    let want = [LinuxNamespaceType::Mount, LinuxNamespaceType::Pid, LinuxNamespaceType::Uts];
    assert_eq!(kinds, want);
    assert_eq!(engine.mounts(), whole.mounts());
    let mut process = whole.process().clone().unwrap();
    assert!(process.oom_score_adj().is_some());
    process.set_oom_score_adj(None);
    assert_eq!(engine.process(), &Some(process));
    assert_eq!(linux.masked_paths(), whole.linux().as_ref().unwrap().masked_paths());
    assert_eq!(whole.linux().as_ref().unwrap().namespaces().as_ref().unwrap().len(), 7);
}

#[test]
fn the_same_spec_is_written_in_the_same_bytes() {
    let request = RunRequest { profile: Some("service".to_owned()), ..RunRequest::default() };
    let first = spec::to_json(&build(json!({ "Cmd": ["x"] }), &request).unwrap()).unwrap();
    for _ in 0..8 {
        assert!(first == spec::to_json(&build(json!({ "Cmd": ["x"] }), &request).unwrap()).unwrap());
    }
}
