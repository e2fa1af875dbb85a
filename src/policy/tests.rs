//! The rules, by tables.

use std::path::PathBuf;
use std::time::Duration;

use super::grant::{Grant, GrantFacts};
use super::request::{RunRequest, Ulimit, places};
use super::{Access, HostFacts, Policy};
use crate::error::{Error, Kind};

const FACTS: HostFacts = HostFacts { memory_bytes: 64 << 30, cpus: 8.0, privileged: true };

/// The annotated example for sites: every key.
const FULL: &str = include_str!("../../docs/policy.toml");

/// The line of the ceiling on memory in it.
fn memory_line() -> usize {
    let limits = FULL.lines().position(|line| line == "[limits]").unwrap();
    limits + FULL.lines().skip(limits).position(|line| line.starts_with("memory")).unwrap() + 1
}

fn parse(text: &str) -> Result<Policy, Error> {
    Policy::parse(text, "policy.toml", &FACTS)
}

fn full() -> Policy {
    parse(FULL).unwrap()
}

fn facts() -> GrantFacts {
    GrantFacts {
        home: "/home/ann".into(),
        registry: "ghcr.io".to_owned(),
        digest: format!("sha256:{}", "a".repeat(64)),
        ..GrantFacts::default()
    }
}

fn refusal(policy: &Policy, request: &RunRequest, facts: &GrantFacts) -> String {
    let error = policy.grant(request, facts).unwrap_err();
    assert_eq!(error.kind(), Kind::Policy, "{error}");
    error.report()
}

fn bind(text: &str, resolved: &str) -> (RunRequest, GrantFacts) {
    let bind = places::volume(text).unwrap();
    let mut facts = facts();
    facts.sources.insert(bind.source.clone(), PathBuf::from(resolved));
    (RunRequest { binds: vec![bind], ..RunRequest::default() }, facts)
}

#[test]
fn every_key_of_the_documentation_is_read() {
    let policy = full();
    assert_eq!(policy.contact(), Some("Information Governance, ext. 1234"));
    let registries = policy.registries();
    assert_eq!(registries.allow.as_ref().unwrap().value, ["ghcr.io"]);
    let mirror = registries.mirrors.get("ghcr.io").unwrap();
    assert_eq!(mirror.url.as_deref(), Some("https://pull-proxy.safehaven:5000"));
    assert_eq!(mirror.ca.as_deref(), Some(std::path::Path::new("/etc/ces/pull-proxy.pem")));
    assert_eq!(mirror.token.as_deref(), Some("https://auth.safehaven"));
    let most = &policy.images().limits;
    let value = |rule: &Option<super::reader::Rule<u64>>| rule.as_ref().unwrap().value;
    assert_eq!((value(&most.layer), value(&most.image)), (20 << 30, 60 << 30));
    assert!(!policy.images().shared.value && policy.images().unmapped_ids.value);
    assert_eq!(policy.images().rehearsed.value, super::Rehearsing::Advice);
    assert_eq!((value(&most.entries), value(&most.layers)), (2_000_000, 500));
    let limits = policy.limits();
    assert_eq!(limits.memory.max.as_ref().unwrap().value, 64 << 30);
    assert_eq!(limits.io.default.as_ref().unwrap().value, 200 << 20);
    assert_eq!(limits.time.default.as_ref().unwrap().value, Duration::from_secs(21_600));
    assert_eq!(limits.output_files.max.as_ref().unwrap().value, 100_000);
    assert_eq!(
        limits.memory.max.as_ref().unwrap().origin.to_string(),
        format!("policy.toml line {}: limits.memory.max", memory_line())
    );
    assert_eq!(policy.rules().iter().filter(|rule| rule.because.contains("policy.toml")).count(), 68);
    assert!(policy.is_enforced());
    let site = policy.identity();
    assert_eq!(site.url.as_ref().unwrap().value, "https://safehaven.example.ac.uk/");
    assert_eq!(site.person("A. Researcher"), site.person("ann"));
    assert_eq!(site.person("ann").unwrap().affiliation.as_deref(), Some("uni"));
    assert_eq!(site.projects.get("projx").unwrap().members.as_ref().unwrap().value, ["uni"]);
}

#[test]
fn what_exports_say_has_addresses_and_names_organisations_that_are_there() {
    let uni = "[organisations.uni]\nname = \"U\"\nid = \"https://ror.org/0\"\n";
    for (text, why) in [
        ("[site]\nurl = \"https://tre.example\"", "ends in a slash"),
        ("[site]\nlicence = \"none\"", "an address such as"),
        ("[site]\nname = \" \"", "not empty"),
        ("[organisations.uni]\nname = \"U\"", "lacks one of: id, name"),
        ("[people.ann]\nid = \"https://orcid.org/0\"", "lacks one of: id, name"),
        ("[people.ann]\nname = \"A\"\nid = \"https://orcid.org/0\"\naffiliation = \"x\"", "no [organisations.x]"),
        ("[projects.p]\nmembers = [\"x\"]", "no [organisations.x]"),
        ("[projects.p]\nmembers = []", "at least one organisation"),
        ("[projects.p]\ngrants = \"https://a/\"", "is not a key"),
    ] {
        let error = parse(&format!("{uni}{text}\n").replacen(uni, if text.starts_with("[org") { "" } else { uni }, 1));
        let shown = error.unwrap_err().report();
        assert!(shown.contains(why), "{text}: {shown}");
    }
}

#[test]
fn an_absent_key_is_the_strict_builtin_rule() {
    assert_eq!(parse("").unwrap().rules(), Policy::builtin(&FACTS).rules());
    let policy = Policy::builtin(&FACTS);
    let grant = policy.grant(&RunRequest::default(), &facts()).unwrap();
    assert_eq!((grant.limits.memory_bytes, grant.limits.cpus), (32 << 30, 8.0));
    assert!(grant.limits.required && grant.limits.swap_bytes == 0);
    assert_eq!(grant.profile.name, "batch");
    let user = Policy::builtin(&HostFacts { privileged: false, ..FACTS });
    assert!(!user.grant(&RunRequest::default(), &facts()).unwrap().limits.required);
}

#[test]
fn whatever_is_not_exactly_right_is_refused_with_file_line_and_key() {
    for (text, line, key) in [
        ("nonsense = 1", 1, "nonsense"),
        ("\n[limits]\nmemroy = { max = \"1G\" }", 3, "limits.memroy"),
        ("[limits]\nmemory = { max = 64 }", 2, "limits.memory.max"),
        ("[limits]\nmemory = { max = \"64X\" }", 2, "limits.memory.max"),
        ("[limits]\nmemory = { max = \"0\" }", 2, "limits.memory.max"),
        ("[limits]\nmemory = { max = \"1G\", default = \"2G\" }", 2, "limits.memory.default"),
        ("[limits]\ncpus = { max = 0 }", 2, "limits.cpus.max"),
        ("[limits]\ncpus = { max = \"2\" }", 2, "limits.cpus.max"),
        ("[limits]\ncpus = { max = inf }", 2, "limits.cpus.max"),
        ("[limits]\npids = { max = -1 }", 2, "limits.pids.max"),
        ("[limits]\npids = { max = 1.5 }", 2, "limits.pids.max"),
        ("[limits]\nio = { max = \"0\" }", 2, "limits.io.max"),
        ("[limits]\ntime = { max = \"soon\" }", 2, "limits.time.max"),
        ("[limits]\nrequired = \"yes\"", 2, "limits.required"),
        ("[limits]\noutputs = { files = \"many\" }", 2, "limits.outputs.files"),
        ("[limits]\nscratch = { files = -1 }", 2, "limits.scratch.files"),
        ("[images.limits]\nlayer = 20", 2, "images.limits.layer"),
        ("[images.limits]\nimage = \"0\"", 2, "images.limits.image"),
        ("[images.limits]\nentries = 0", 2, "images.limits.entries"),
        ("[images.limits]\nlayers = \"500\"", 2, "images.limits.layers"),
        ("[images.limits]\nblobs = 1", 2, "images.limits.blobs"),
        ("[data]\naccess = \"RO\"", 2, "data.access"),
        ("[data]\nroot = \"safe_data\"", 2, "data.root"),
        ("[data]\nroot = \"/a/../b\"", 2, "data.root"),
        ("[projects]\nx = 1", 2, "projects.x"),
        ("[projects.x]\nlimits = {}", 2, "projects.x.limits"),
        ("[projects.\"../x\"]\naccess = \"ro\"", 1, "projects.../x"),
        ("[profiles]\nallow = [\"root\"]", 2, "profiles.allow"),
        ("[profiles]\nallow = []", 2, "profiles.allow"),
        ("[profiles]\ndefault = \"service\"\nallow = [\"batch\"]", 2, "profiles.default"),
        ("[profiles]\nallow = [\"batch\"]\n[projects.x]\nprofiles = [\"service\"]", 4, "projects.x.profiles"),
        ("[registries]\nallow = \"ghcr.io\"", 2, "registries.allow"),
        ("[registries]\nallow = [\"https://ghcr.io\"]", 2, "registries.allow"),
        ("[registries.\"ghcr.io\"]\nmirror = \"http://proxy\"", 2, "registries.ghcr.io.mirror"),
        ("[registries.\"ghcr.io\"]\nmirror = \"ftp://proxy\"", 2, "registries.ghcr.io.mirror"),
        ("[registries.\"ghcr.io\"]\ntoken = \"http://auth\"", 2, "registries.ghcr.io.token"),
        ("[registries.\"ghcr.io\"]\ntoken = \"https://auth/token\"", 2, "registries.ghcr.io.token"),
        ("[registries.\"ghcr.io\"]\ninsecure = true", 2, "registries.ghcr.io.insecure"),
        ("[mounts]\nallow = [\"~\"]", 2, "mounts.allow"),
        ("[mounts]\nallow = [{ host = \"/\" }]", 2, "mounts.allow.host"),
        ("[mounts]\nallow = [{ host = \"/etc/x\" }]", 2, "mounts.allow.host"),
        ("[mounts]\nallow = [{ host = \"home\" }]", 2, "mounts.allow.host"),
        ("[mounts]\nallow = [{ host = \"~/../x\" }]", 2, "mounts.allow.host"),
        ("[mounts]\nallow = [{ access = \"ro\" }]", 2, "mounts.allow"),
        ("[ports]\nallow = 1", 2, "ports.allow"),
        ("[interactive]\nexec = 0", 2, "interactive.exec"),
        ("contact = \"x\"\ncontact = \"y\"", 2, ""),
        ("[limits", 1, ""),
    ] {
        let error = parse(text).unwrap_err();
        let shown = error.to_string();
        assert_eq!(error.kind(), Kind::Policy, "{text}");
        assert!(shown.contains(&format!("policy.toml line {line}")) && shown.contains(key), "{text}: {shown}");
    }
    let shown = parse("[limits]\nmemroy = 1").unwrap_err().to_string();
    assert!(shown.contains("allowed in [limits]: memory, cpus, pids, io, time, scratch, outputs, required"), "{shown}");
}

#[test]
fn a_ceiling_is_refused_with_its_figure_its_line_and_the_contact() {
    let policy = full();
    let ask = RunRequest::default;
    for (request, figure, key) in [
        (RunRequest { memory: Some(65 << 30), ..ask() }, "64 GiB", "limits.memory.max"),
        (RunRequest { cpus: Some(16.5), ..ask() }, "16", "limits.cpus.max"),
        (RunRequest { pids: Some(4097), ..ask() }, "4096", "limits.pids.max"),
        (RunRequest { timeout: Some(Duration::from_secs(21_601)), ..ask() }, "6h", "limits.time.max"),
    ] {
        let report = refusal(&policy, &request, &facts());
        for part in [figure, key, "policy.toml line", "Information Governance, ext. 1234"] {
            assert!(report.contains(part), "{part}: {report}");
        }
    }
}

#[test]
fn within_the_ceiling_a_request_gets_what_it_asks_and_no_more() {
    let policy = full();
    let request = RunRequest {
        memory: Some(16 << 30),
        cpus: Some(0.5),
        pids: Some(u64::MAX),
        timeout: Some(Duration::from_secs(60)),
        shm_size: Some(1 << 30),
        ..RunRequest::default()
    };
    let grant = policy.grant(&request, &facts()).unwrap();
    assert_eq!((grant.limits.memory_bytes, grant.limits.cpus, grant.limits.pids), (16 << 30, 0.5, 4096));
    assert_eq!((grant.limits.time, grant.shm_bytes), (Some(Duration::from_secs(60)), 1 << 30));
    let grant = policy.grant(&RunRequest::default(), &facts()).unwrap();
    assert_eq!((grant.limits.memory_bytes, grant.limits.cpus, grant.limits.pids), (8 << 30, 4.0, 1024));
    assert_eq!((grant.limits.time, grant.shm_bytes), (Some(Duration::from_secs(21_600)), 4 << 30));
    assert_eq!((grant.limits.scratch_bytes, grant.limits.outputs_files), (Some(100 << 30), Some(100_000)));
}

#[test]
fn a_project_narrows_further() {
    let policy = full();
    let facts = GrantFacts { project: Some("projx".to_owned()), ..facts() };
    let grant = policy.grant(&RunRequest::default(), &facts).unwrap();
    assert_eq!(grant.data, Access::Ro);
    let service = RunRequest { profile: Some("service".to_owned()), ..RunRequest::default() };
    assert!(refusal(&policy, &service, &facts).contains("projects.projx.profiles allows batch"));
    let grant = policy.grant(&service, &self::facts()).unwrap();
    assert_eq!((grant.data, grant.profile.capabilities.len()), (Access::Rw, 7));
    // A project cannot widen what the site closed.
    let policy = parse("[data]\naccess = \"ro\"\n[projects.x]\naccess = \"rw\"").unwrap();
    let facts = GrantFacts { project: Some("x".to_owned()), ..facts };
    assert_eq!(policy.grant(&RunRequest::default(), &facts).unwrap().data, Access::Ro);
    let ro = RunRequest { data_ro: true, ..RunRequest::default() };
    assert_eq!(full().grant(&ro, &self::facts()).unwrap().data, Access::Ro);
}

#[test]
fn images_come_from_where_the_site_says_by_digest_and_approved() {
    let other = GrantFacts { registry: "docker.io".to_owned(), ..facts() };
    assert!(refusal(&full(), &RunRequest::default(), &other).contains("registries.allow allows ghcr.io"));
    assert_eq!(parse("mode = \"strict\"").unwrap_err().kind(), crate::error::Kind::Policy);
    assert!(!parse("mode = \"advisory\"").unwrap().is_enforced());
    assert!(parse("[images]\nshared = true").unwrap().images().shared.value);
    let policy = parse("[images]\nrequire_digest = true").unwrap();
    assert!(refusal(&policy, &RunRequest::default(), &facts()).contains("@sha256:aaaa"));
    assert!(policy.grant(&RunRequest::default(), &GrantFacts { named_by_digest: true, ..facts() }).is_ok());
    // A list that was not read is not an empty list: nothing runs.
    let policy = parse("[images]\napproved = \"/etc/ces/approved.toml\"").unwrap();
    assert!(refusal(&policy, &RunRequest::default(), &facts()).contains("was not read"));
}

#[test]
fn a_mount_is_compared_by_component_after_resolution() {
    let policy = full();
    for (text, resolved, access) in [
        ("./data:/work", "/home/ann/data", Access::Rw),
        ("./data:/work:ro", "/home/ann/data", Access::Ro),
        ("/shared/refs/hg38:/refs:ro", "/shared/refs/hg38", Access::Ro),
    ] {
        let (request, facts) = bind(text, resolved);
        let grant: Grant = policy.grant(&request, &facts).unwrap();
        assert_eq!(grant.binds.first().unwrap().access, access, "{text}");
    }
    for (text, resolved, why) in [
        ("./link:/work", "/etc", "the host's own directories"),
        ("./link:/work", "/", "the host's own directories"),
        ("./data:/work", "/home/anna/data", "mounts.allow opens ~ (rw)"),
        ("./data:/work", "/home", "mounts.allow opens ~ (rw)"),
        ("/shared/refs:/refs", "/shared/refs", "read-only"),
        ("./safe:/x", "/safe_data/other", "one project a run"),
        ("./up:/x", "/safe_data", "one project a run"),
    ] {
        let (request, facts) = bind(text, resolved);
        let report = refusal(&policy, &request, &facts);
        assert!(report.contains(why), "{text} {resolved}: {report}");
    }
    let (request, mut facts) = bind("./gone:/x", "/home/ann/gone");
    facts.sources.clear();
    assert_eq!(policy.grant(&request, &facts).unwrap_err().kind(), Kind::Usage);
}

#[test]
fn a_destination_cannot_cover_what_ces_mounts() {
    for destination in [
        "/",
        "/proc",
        "/proc/self",
        "/sys",
        "/dev",
        "/dev/shm",
        "/safe_data",
        "/safe_data/x",
        "/safe_outputs",
        "/scratch/x",
        "/etc",
        "/etc/hosts",
        "/etc/resolv.conf",
        "work",
        "/a/../proc",
        "//proc",
        "/./dev",
        "/proc/",
    ] {
        let (request, facts) = bind(&format!("./d:{destination}"), "/home/ann/d");
        assert_eq!(full().grant(&request, &facts).unwrap_err().kind(), Kind::Usage, "{destination}");
        let tmpfs = places::tmpfs(destination).unwrap();
        let request = RunRequest { tmpfs: vec![tmpfs], ..RunRequest::default() };
        assert_eq!(full().grant(&request, &facts).unwrap_err().kind(), Kind::Usage, "{destination}");
    }
    for destination in ["/etc/app", "/var/lib/postgresql", "/safe_data2", "/home/x"] {
        let (request, facts) = bind(&format!("./d:{destination}"), "/home/ann/d");
        assert!(full().grant(&request, &facts).is_ok(), "{destination}");
    }
}

#[test]
fn a_read_only_root_keeps_places_for_temporary_files() {
    let request =
        RunRequest { read_only: true, tmpfs: vec![places::tmpfs("/run:size=1m").unwrap()], ..RunRequest::default() };
    let grant = full().grant(&request, &facts()).unwrap();
    let sizes: Vec<(&str, u64)> = grant.tmpfs.iter().map(|t| (t.destination.to_str().unwrap(), t.size)).collect();
    assert_eq!(sizes, [("/run", 1 << 20), ("/tmp", 8 << 30), ("/var/tmp", 8 << 30)]);
    let large = RunRequest { tmpfs: vec![places::tmpfs("/x:size=9g").unwrap()], ..RunRequest::default() };
    assert_eq!(full().grant(&large, &facts()).unwrap_err().kind(), Kind::Usage);
}

#[test]
fn limits_of_the_process_only_narrow() {
    let mut facts = facts();
    facts.hard_limits.insert("nofile".to_owned(), 4096);
    let grant = full().grant(&RunRequest::default(), &facts).unwrap();
    let want = |name: &str, value| Ulimit { name: name.to_owned(), soft: value, hard: value };
    assert_eq!(grant.ulimits, [want("core", 0), want("nofile", 4096)]);
    let ask = |text: &str| RunRequest { ulimits: vec![Ulimit::parse(text).unwrap()], ..RunRequest::default() };
    assert_eq!(full().grant(&ask("nofile=10"), &facts).unwrap().ulimits, [want("core", 0), want("nofile", 10)]);
    assert_eq!(full().grant(&ask("nofile=8192"), &facts).unwrap_err().kind(), Kind::Usage);
    assert!(refusal(&full(), &ask("core=-1"), &facts).contains("core dumps"));
    assert!(full().grant(&ask("core=0"), &facts).is_ok());
}

#[test]
fn ports_terminals_and_variables_follow_the_rules() {
    let closed = parse("[ports]\nallow = false\n[interactive]\nallow = false").unwrap();
    let port = RunRequest { ports: vec![places::port("8787:8787").unwrap()], ..RunRequest::default() };
    assert!(refusal(&closed, &port, &facts()).contains("ports.allow"));
    assert!(
        refusal(&closed, &RunRequest { tty: true, ..RunRequest::default() }, &facts()).contains("interactive.allow")
    );
    let twice = RunRequest { ports: [&port.ports[..], &port.ports].concat(), ..RunRequest::default() };
    assert_eq!(full().grant(&twice, &facts()).unwrap_err().kind(), Kind::Usage);
    for name in ["LISTEN_FDS", "NOTIFY_SOCKET", "", "a=b", "a\0b"] {
        let request = RunRequest { env: vec![(name.to_owned(), "1".to_owned())], ..RunRequest::default() };
        assert_eq!(full().grant(&request, &facts()).unwrap_err().kind(), Kind::Usage, "{name}");
    }
}

#[test]
fn a_profile_that_changes_users_needs_more_than_one_id() {
    let request = RunRequest { profile: Some("service".to_owned()), ..RunRequest::default() };
    let facts = GrantFacts { single_id: true, ..facts() };
    assert_eq!(full().grant(&request, &facts).unwrap_err().kind(), Kind::Host);
    assert!(full().grant(&RunRequest::default(), &facts).is_ok());
}

#[test]
fn what_would_widen_is_refused_whatever_the_policy_says() {
    for (name, value) in
        [("privileged", None), ("network", Some("host")), ("cap-add", Some("ALL")), ("pid", Some("host"))]
    {
        let podman = vec![(name.to_owned(), value.map(str::to_owned))];
        let report = refusal(&full(), &RunRequest { podman, ..RunRequest::default() }, &facts());
        assert!(report.contains(&format!("--{name}")) && report.contains("ext. 1234"), "{report}");
    }
    let gpu = RunRequest { gpu: true, ..RunRequest::default() };
    assert_eq!(full().grant(&gpu, &facts()).unwrap_err().kind(), Kind::Usage);
}

#[test]
fn every_decision_has_a_reason() {
    let grant = full().grant(&RunRequest { memory: Some(1 << 30), ..RunRequest::default() }, &facts()).unwrap();
    assert!(grant.decisions.len() > 8);
    assert!(grant.decisions.iter().all(|d| !d.because.is_empty() && !d.value.is_empty()));
    let memory = grant.decisions.iter().find(|d| d.what == "memory").unwrap();
    assert_eq!(memory.because, format!("--memory, within policy.toml line {}: limits.memory.max", memory_line()));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}|[a-z\\[\\]={}\"\\n .0-9]{0,200}") {
        let result = parse(&text);
        proptest::prop_assert!(result.is_ok() || result.is_err_and(|e| e.kind() == Kind::Policy));
    }

    #[test]
    fn nothing_granted_is_above_its_ceiling(memory in 0_u64..1 << 40, cpus in 0.0_f64..64.0, pids in proptest::num::u64::ANY) {
        let request = RunRequest { memory: Some(memory), cpus: Some(cpus), pids: Some(pids), ..RunRequest::default() };
        if let Ok(grant) = full().grant(&request, &facts()) {
            proptest::prop_assert!(grant.limits.memory_bytes <= 64 << 30);
            proptest::prop_assert!(grant.limits.cpus <= 16.0);
            proptest::prop_assert!(grant.limits.pids <= 4096);
        }
    }
}
