//! Every field of an image's configuration: images with it are run, and do what `docs/images.md` says.

use std::fs;

use serde_json::{Value, json};

use crate::support::layout::with_config;
use crate::support::{Host, Ran, wait_until};

/// Pulls an image with this configuration under a name of its own; gives the name and what the pull said.
fn pull(host: &Host, number: usize, config: &Value) -> (String, Ran) {
    let name = format!("config{number}");
    let layout = with_config(host.tmp(), &name, config);
    let pulled = Ran::from(host.ces().args(["pull", &format!("oci:{}:{name}", layout.display())]).output());
    (name, pulled)
}

/// An image's configuration, the words of a run of it, and what that says.
type Case = (Value, &'static [&'static str], &'static str);

#[test]
fn fields_that_are_honoured_do_what_they_do_with_docker() {
    let Some(host) = Host::new() else { return };
    let ids: &[&str] = &["/bin/sh", "-c", "echo $(id -u):$(id -g)"];
    let cases: Vec<Case> = vec![
        // Entrypoint and Cmd in every form.
        (json!({"Env": ["PATH=/bin"], "Entrypoint": null, "Cmd": ["echo", "cmd"]}), &[], "cmd"),
        (json!({"Env": ["PATH=/bin"], "Entrypoint": [], "Cmd": ["echo", "cmd"]}), &[], "cmd"),
        (json!({"Env": ["PATH=/bin"], "Entrypoint": "", "Cmd": ["echo", "cmd"]}), &[], "cmd"),
        (json!({"Env": ["PATH=/bin"], "Entrypoint": "echo", "Cmd": ["cmd"]}), &[], "cmd"),
        (json!({"Env": ["PATH=/bin"], "Entrypoint": ["echo", "entry"], "Cmd": null}), &[], "entry"),
        (json!({"Env": ["PATH=/bin"], "Entrypoint": ["echo"], "Cmd": "one word"}), &[], "one word"),
        (json!({"Env": ["PATH=/bin"], "Entrypoint": ["echo", null, "x"]}), &[], " x"),
        (json!({"Env": ["PATH=/bin"], "Entrypoint": ["echo"], "Cmd": ["lost"]}), &["given"], "given"),
        (json!({"Env": ["PATH=/bin"], "entrypoint": ["echo"], "CMD": ["cases"]}), &[], "cases"),
        // Env: the last of several holds; what is no variable is none.
        (
            json!({"Env": ["PATH=/bin", "A=1", "B=", "A=2"], "Cmd": ["sh", "-c", "echo $A-$B; env | grep -c ^A="]}),
            &[],
            "2-\n1",
        ),
        (
            json!({"Env": ["PATH=/bin", "=x", "NOVALUE", null, "A=b=c"], "Cmd": ["sh", "-c", "echo $A; env | grep -c NOVALUE || true"]}),
            &[],
            "b=c\n0",
        ),
        (
            json!({"Env": null, "Cmd": ["/bin/sh", "-c", "echo $PATH"]}),
            &[],
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ),
        (
            json!({"Env": ["PATH="], "Cmd": ["/bin/sh", "-c", "echo $PATH"]}),
            &[],
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ),
        // User in every form.
        (json!({"User": null}), ids, "0:0"),
        (json!({"User": ""}), ids, "0:0"),
        (json!({"User": "analyst"}), ids, "1000:1000"),
        (json!({"User": "1000"}), ids, "1000:1000"),
        (json!({"User": 1000}), ids, "1000:1000"),
        (json!({"User": "analyst:readers"}), ids, "1000:2000"),
        (json!({"User": "1000:readers"}), ids, "1000:2000"),
        (json!({"User": "analyst:7"}), ids, "1000:7"),
        (json!({"User": "77:88"}), ids, "77:88"),
        (json!({"User": "analyst:"}), ids, "1000:1000"),
        (json!({"User": ":readers"}), ids, "0:2000"),
        // WorkingDir: made where it is missing, for the user; cleaned.
        (json!({"WorkingDir": ""}), &["/bin/pwd"], "/"),
        (json!({"WorkingDir": null}), &["/bin/pwd"], "/"),
        (
            json!({"User": "1000", "WorkingDir": "/not/there"}),
            &["/bin/sh", "-c", "pwd; echo x > f; cat f"],
            "/not/there\nx",
        ),
        (json!({"WorkingDir": "/bin/../etc/"}), &["/bin/pwd"], "/etc"),
        // Volumes: directories of the run's own.
        (
            json!({"Volumes": {"/vol/a": null, "/vol/b": {}}}),
            &["/bin/sh", "-c", "echo x > /vol/a/f; ls /vol; cat /vol/a/f"],
            "a\nb\nx",
        ),
        (json!({"Volumes": null}), &["/bin/echo", "none"], "none"),
    ];
    for (number, (config, words, said)) in cases.iter().enumerate() {
        let (name, pulled) = pull(&host, number, config);
        pulled.exits(0);
        let ran = host.run(&[&[name.as_str()], *words].concat());
        assert_eq!(ran.exits(0), format!("{said}\n"), "{config}");
    }
}

#[test]
fn fields_that_are_not_used_change_nothing_whatever_they_hold() {
    let Some(host) = Host::new() else { return };
    let say = json!([
        "/bin/sh",
        "-c",
        "id -u; pwd; env | grep -v -e ^HOSTNAME= -e ^CES_TEST= | sort; wc -l < /proc/self/mountinfo"
    ]);
    let mut seen = Vec::new();
    for (number, more) in [
        json!({}),
        json!({
            "Hostname": "evil", "Domainname": "evil.example", "Tty": true, "OpenStdin": true, "StdinOnce": true,
            "AttachStdout": true, "Image": "sha256:0", "NetworkDisabled": false, "MacAddress": "02:42:ac:11:00:02",
            "OnBuild": ["RUN /bin/false"], "ArgsEscaped": true, "Shell": ["/bin/false", "-c"], "StopTimeout": 1,
            "Memory": 1, "MemorySwap": 1, "CpuShares": 1, "Labels": {"run.oci.hooks": "/bin/false", "x": null},
            "ExposedPorts": {"80/tcp": {}, "nonsense": null}, "Unknown": {"a": [1]}, "Privileged": true,
        }),
        json!({"Hostname": 7, "OnBuild": "x", "Shell": {}, "Healthcheck": "x", "Labels": ["x"], "Tty": null, "StopTimeout": "x"}),
    ]
    .into_iter()
    .enumerate()
    {
        let mut config = more;
        config["Cmd"] = say.clone();
        let (name, pulled) = pull(&host, number, &config);
        pulled.exits(0);
        let ran = host.run(&[name.as_str()]);
        seen.push(ran.exits(0).to_owned());
        assert!(!ran.stderr.contains("warning") && !ran.stderr.contains("left out"), "{ran:?}");
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0], seen[2]);
}

#[test]
fn what_an_image_asks_for_and_does_not_get_is_said() {
    let Some(host) = Host::new() else { return };
    let check =
        json!({"Healthcheck": {"Test": ["CMD", "/bin/false"], "Interval": 1_000_000_000}, "Cmd": ["/bin/true"]});
    let (name, pulled) = pull(&host, 0, &check);
    pulled.exits(0);
    assert!(pulled.stderr.contains("note: the image's HEALTHCHECK is not run"), "{pulled:?}");
    host.run(&[name.as_str()]).exits(0);
    let (name, _) = pull(&host, 1, &json!({"Env": ["NOVALUE"], "StopSignal": "SIGNONE", "Cmd": ["/bin/true"]}));
    let ran = host.run(&[name.as_str()]);
    ran.exits(0);
    assert!(
        ran.stderr.contains("\"NOVALUE\" is left out") && ran.stderr.contains("\"SIGNONE\" is no signal"),
        "{ran:?}"
    );
}

#[test]
fn what_cannot_be_honoured_is_refused_with_its_reason() {
    let Some(host) = Host::new() else { return };
    // While it is pulled: the configuration is malformed.
    for (number, (config, why)) in [
        (json!({"Env": "A=1"}), "its Env is no list of words"),
        (json!({"Cmd": {"a": 1}}), "its Cmd is no list of words"),
        (json!({"User": ["root"]}), "its User is no text"),
        (json!({"Volumes": ["/x"]}), "its Volumes is no object"),
        (json!({"Entrypoint": ["/bin/true"], "entrypoint": ["/bin/false"]}), "which programs read differently"),
        (json!("text"), "\"config\" is no object"),
    ]
    .into_iter()
    .enumerate()
    {
        let (_, pulled) = pull(&host, number, &config);
        assert!(pulled.code == Some(1) && pulled.stderr.contains(why), "{config}: {pulled:?}");
    }
    // When it is run: it can be corrected with an option.
    for (number, (config, option, why)) in [
        (json!({"User": "nobody-there"}), ["--user", "0"], "there is no user \"nobody-there\""),
        (json!({"User": "0:no-group"}), ["--user", "0"], "there is no group \"no-group\""),
        (json!({"User": "4294967295"}), ["--user", "0"], "is not a plain number"),
        (json!({"User": "-1"}), ["--user", "0"], "is not a plain number"),
        (json!({"User": "1001230000"}), ["--user", "0"], "has no id on this host"),
        (json!({"WorkingDir": "relative"}), ["--workdir", "/"], "it is not absolute"),
        (json!({"WorkingDir": "/proc/self/fd/8/.."}), ["--workdir", "/"], "nothing can start in /proc"),
        (json!({"Entrypoint": [""]}), ["--entrypoint", "/bin/true"], "the command is an empty word"),
        (json!({"Entrypoint": null, "Cmd": null}), ["--entrypoint", "/bin/true"], "names no command"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut config = config;
        if config.get("Entrypoint").is_none() {
            config["Cmd"] = json!(["/bin/true"]);
        }
        let (name, pulled) = pull(&host, 100 + number, &config);
        pulled.exits(0);
        host.run(&[name.as_str()]).refuses(125, &[why]);
        host.run(&[option[0], option[1], name.as_str()]).exits(0);
    }
}

#[test]
fn the_images_stop_signal_is_what_stop_a_deadline_and_sigterm_send() {
    let Some(host) = Host::new() else { return };
    for (number, (stated, signal)) in [
        (json!("SIGQUIT"), "3"),
        (json!("usr1"), "10"),
        (json!(2), "2"),
        (json!("SIGRTMIN+3"), "37"),
        (json!(null), "15"),
        (json!("nonsense"), "15"),
    ]
    .into_iter()
    .enumerate()
    {
        let script = format!(
            "trap 'echo asked > /safe_outputs/said; exit 7' {signal}; : > /safe_outputs/ready; while :; do sleep 0.05; done"
        );
        let config = json!({"Env": ["PATH=/bin"], "StopSignal": stated, "Cmd": ["/bin/sh", "-c", script]});
        let (name, pulled) = pull(&host, number, &config);
        pulled.exits(0);
        let started = host.run(&["-d", &name]);
        let id = started.exits(0).trim().to_owned();
        let outputs = host.home().join(format!("outputs_{id}"));
        wait_until("the payload has set its trap", || outputs.join("ready").exists());
        Ran::from(host.ces().args(["stop", &id]).output()).exits(0);
        assert_eq!(fs::read_to_string(outputs.join("said")).ok().as_deref(), Some("asked\n"), "ces stop, {stated}");
        let ran = host.run(&["--timeout", "1", &name]);
        assert_eq!(ran.code, Some(124), "{ran:?}");
        assert_eq!(host.output("said"), "asked\n", "a deadline, {stated}");
    }
}
