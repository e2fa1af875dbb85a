//! Programs of a Debian image under the closed system calls, with the profiles `batch` and `service`, as its root: what works,
//! and what is refused in which words. podman's column was recorded once, by podman 4.3.1 with runc as root (its default
//! capabilities and seccomp profile, `--network none`), with the same image and commands.

use crate::support::{Host, Ran, fixtures, skip};

/// What a command is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gets {
    /// It ends with 0, and without a word of a call that is not there or not permitted.
    Works,
    /// It ends with 0, having said this: no error number that `process_vm_readv` can give keeps Open MPI 4 quiet (its
    /// btl_vader_get.c prints all of them); what is passed arrives.
    Says(&'static str),
    /// It ends with another status, and says this.
    Refused(&'static str),
}
use Gets::{Refused, Says, Works};

/// Command, `batch`, `service`, podman 4.3.1.
const TABLE: &[(&str, Gets, Gets, Gets)] = &[
    (r#"useradd --create-home bea && id bea"#, Refused("failure while writing changes to /etc/shadow"), Works, Works),
    (r#"groupadd lab && getent group lab"#, Refused("failure while writing changes to /etc/gshadow"), Works, Works),
    (r#"usermod --comment Ann ann"#, Works, Works, Works),
    (r#"echo ann:secret | chpasswd"#, Refused("Authentication token manipulation error"), Works, Works),
    (r#"su ann -c 'id -un'"#, Refused("cannot set groups: Operation not permitted"), Works, Works),
    (r#"su - ann -c 'id -un'"#, Refused("cannot set groups: Operation not permitted"), Works, Works),
    (r#"runuser -u ann -- id -un"#, Refused("cannot set groups: Operation not permitted"), Works, Works),
    (r#"runuser -l ann -c 'id -un'"#, Refused("cannot set groups: Operation not permitted"), Works, Works),
    (r#"sudo id -un"#, Refused("setresuid(-1, 1, -1): Operation not permitted"), Works, Works),
    (r#"sudo -u ann id -un"#, Refused("setresuid(-1, 1, -1): Operation not permitted"), Works, Works),
    (r#"sudo -i -u ann id -un"#, Refused("setresuid(-1, 1, -1): Operation not permitted"), Works, Works),
    (r#"gosu ann id -un"#, Refused("failed switching to"), Works, Works),
    (
        r#"setpriv --reuid=ann --regid=ann --clear-groups id -un"#,
        Refused("setresuid failed: Operation not permitted"),
        Works,
        Works,
    ),
    (r#"ionice -c 3 true"#, Works, Works, Works),
    (r#"ionice -c 2 -n 7 true"#, Works, Works, Works),
    (r#"nice -n 10 true"#, Works, Works, Works),
    (r#"chrt --batch 0 true"#, Works, Works, Works),
    (r#"chrt --idle 0 true"#, Works, Works, Works),
    (r#"taskset -c 0 true"#, Works, Works, Works),
    (r#"head -c 1000000 /dev/zero | pv -q | wc -c | grep -qx 1000000"#, Works, Works, Works),
    (r#"head -c 1000000 /dev/zero > /tmp/f; pv -q /tmp/f | cat > /tmp/g; cmp /tmp/f /tmp/g"#, Works, Works, Works),
    (r#"cd /tmp && copy-go"#, Works, Works, Works),
    (r#"cd /tmp && copy-rust"#, Works, Works, Works),
    (r#"cp --reflink=auto /bin/ls /tmp/ls && cmp /bin/ls /tmp/ls"#, Works, Works, Works),
    (r#"cp -a /etc/skel /tmp/skel"#, Works, Works, Works),
    (r#"rsync -rlt /etc/skel /tmp/"#, Works, Works, Works),
    (r#"rsync -a /home/ann /tmp/"#, Refused("failed: Operation not permitted"), Works, Works),
    (r#"tar cf /tmp/a.tar /etc/skel 2>/dev/null && tar xf /tmp/a.tar -C /tmp"#, Works, Works, Works),
    (
        r#"tar cf /tmp/a.tar -C /home ann && tar xf /tmp/a.tar -C /tmp"#,
        Refused("Cannot change ownership"),
        Works,
        Works,
    ),
    (r#"tar cf /tmp/a.tar -C /home ann && tar xf /tmp/a.tar -C /tmp --no-same-owner"#, Works, Works, Works),
    (r#"dpkg -i /srv/hello_*.deb && hello"#, Works, Works, Works),
    (r#"apt-get install -y /srv/hello_*.deb && hello"#, Refused("setgroups 65534"), Works, Works),
    (
        r#"git init -q /tmp/r && cd /tmp/r && echo x > f && git add f && git -c user.name=a -c user.email=a@b commit -qm x && git gc -q && git clone -q /tmp/r /tmp/c"#,
        Works,
        Works,
        Works,
    ),
    (r#"ssh-keygen -q -t ed25519 -N '' -f /tmp/key"#, Works, Works, Works),
    (r#"tmux new-session -d 'touch /tmp/in-tmux; sleep 1' && sleep 0.5 && test -e /tmp/in-tmux"#, Works, Works, Works),
    (r#"script -qec 'echo typed' /tmp/log | grep -q typed"#, Works, Works, Works),
    (
        r#"strace true"#,
        Refused("PTRACE_TRACEME: Operation not permitted"),
        Refused("PTRACE_TRACEME: Operation not permitted"),
        Works,
    ),
    (
        r#"unshare -r true"#,
        Refused("unshare failed: Operation not permitted"),
        Refused("unshare failed: Operation not permitted"),
        Works,
    ),
    (
        r#"mount -t tmpfs none /mnt"#,
        Refused("permission denied"),
        Refused("permission denied"),
        Refused("permission denied"),
    ),
    (
        r#"dmesg"#,
        Refused("read kernel buffer failed: Operation not permitted"),
        Refused("read kernel buffer failed: Operation not permitted"),
        Refused("read kernel buffer failed"),
    ),
    (
        r#"mpirun --allow-run-as-root --oversubscribe -n 2 ring-mpi"#,
        Says("Read -1, expected 4194304, errno = 1"),
        Says("Read -1, expected 4194304, errno = 1"),
        Works,
    ),
    (
        r#"mpirun --allow-run-as-root --oversubscribe --mca btl_vader_single_copy_mechanism none -n 2 ring-mpi"#,
        Works,
        Works,
        Works,
    ),
];

/// Words of a call that a program did not know to go on without.
const COMPLAINTS: [&str; 4] = ["not implemented", "not permitted", "Invalid argument", "errno ="];

#[test]
fn programs_work_or_say_in_words_what_they_are_refused() {
    let Some(host) = Host::new() else { return };
    let layout = fixtures().join("programs");
    if !layout.join("index.json").exists() {
        let why = "the image with programs is not there: run scripts/programs-image target/fixtures/programs";
        return skip(why).unwrap_or_default();
    }
    host.pull(&layout, "programs");
    let mut wrong = Vec::new();
    for (command, batch, service, podman) in TABLE {
        // What no container here may do, whatever it is elsewhere: trace, make namespaces.
        let closed = ["strace", "unshare"].iter().any(|program| command.starts_with(program));
        assert!(
            service == podman || closed || matches!(service, Says(_)) || *podman != Works,
            "{command}: service does what podman does"
        );
        for (profile, expected) in [("batch", batch), ("service", service)] {
            let words = ["--profile", profile, "localhost/programs", "sh", "-c", command];
            let ran = host.run(&words);
            if !gets(&ran, *expected) {
                wrong.push(format!("{profile}: {command}: not {expected:?}: {ran:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    host.nothing_is_left();
}

fn gets(ran: &Ran, expected: Gets) -> bool {
    let said = format!("{}{}", ran.stdout, ran.stderr);
    match expected {
        Works => ran.code == Some(0) && !COMPLAINTS.iter().any(|words| said.contains(words)),
        Says(words) => ran.code == Some(0) && said.contains(words),
        Refused(words) => ran.code != Some(0) && said.contains(words),
    }
}
