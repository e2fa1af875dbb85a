//! Bounds that a file system keeps: ext4 with quotas of projects. This machine's own kernel need not have any.

use super::*;
use crate::support::records;

/// How the disks of homes and of the store are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disks {
    /// One, which keeps limits of projects.
    One,
    /// The same, with XFS.
    Xfs,
    /// Two such.
    Two,
    /// The home's is such.
    HomeAlone,
    /// One, which counts what is in the home for a project of the site's.
    OfTheSite,
    /// One, which counts projects and keeps no limits.
    Counting,
}

/// A host whose homes and store are on such disks, with the demonstration image and bounds of 2 MiB and 40 files.
fn desk(caller: Caller, disks: Disks) -> Desk {
    let mut desk = Desk::new(caller).expect("the guest has what tests need");
    let home = if caller == Caller::Root { "/root".into() } else { desk.host.researcher().dir.clone() };
    let script = format!(
        "modprobe loop; modprobe quota_v2; tmp={}; home={}
        disk() {{
            truncate -s 400M $tmp/$1.disk; {}
            mkdir $tmp/$1.fs; mount -o loop,$2 $tmp/$1.disk $tmp/$1.fs; chmod 755 $tmp/$1.fs
        }}
        disk a {}; cp -a $home $tmp/a.fs/home; store=$tmp/a.fs; {}
        mount --bind $tmp/a.fs/home $home; mkdir $store/ces; mount --bind $store/ces $tmp/ces
        # Through sudo nobody names a place: the site's own is the same.
        mkdir -m 700 $tmp/ces/store $tmp/ces/store/run $tmp/ces/run $tmp/ces/log
        mount --bind $tmp/ces/store /var/lib/ces; mount --bind $tmp/ces/run /var/lib/ces/run
        mount --bind $tmp/ces/log /var/log/ces",
        desk.host.tmp().display(),
        home.display(),
        if disks == Disks::Xfs {
            "mkfs.xfs -q $tmp/$1.disk"
        } else {
            "mke2fs -q -t ext4 -O quota,project -E quotatype=prjquota $tmp/$1.disk"
        },
        if disks == Disks::Counting { "noquota" } else { "prjquota" },
        match disks {
            Disks::One | Disks::Xfs | Disks::Counting => ":",
            Disks::Two => "disk b prjquota; store=$tmp/b.fs",
            Disks::HomeAlone => "store=$tmp/other; mkdir $store",
            Disks::OfTheSite => "chattr -p 77 +P $tmp/a.fs/home",
        },
    );
    Ran::from(desk.host.command("/bin/sh").args(["-ec", &script]).output()).exits(0);
    desk.host.remember_mounts();
    desk.ces(&["pull", &format!("oci:{}:demo", demo_layout().display())]).exits(0);
    desk.host.policy(
        "[limits]\nrequired = false\nscratch = { max = \"2M\", files = 40 }\noutputs = { max = \"2M\", files = 40 }\n",
    );
    desk
}

/// Where the caller's outputs are, in the mount namespace of the test.
fn home(desk: &Desk) -> std::path::PathBuf {
    let own = desk.host.researcher().dir.clone();
    desk.host.inside(if desk.caller == Caller::Root { Path::new("/root") } else { &own })
}

fn last(desk: &Desk, prefix: &str) -> std::path::PathBuf {
    let named = |path: &std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(prefix);
    crate::support::children(&home(desk)).into_iter().rfind(named).expect("a directory of the run's")
}

/// The project of a file or directory, as its own tool shows it.
fn project(path: &Path) -> u32 {
    let listed = root(&format!("lsattr -pd {}", path.display()));
    listed.split_whitespace().next().unwrap().parse().unwrap()
}

fn bounds(desk: &Desk) -> [String; 2] {
    let record = if desk.caller.is_enforced() {
        desk.record()
    } else {
        let mut runs = crate::support::children(&home(desk).join(".local/state/ces/runs"));
        runs.retain(|path| records::is_record(path));
        runs.sort_by_key(records::born);
        serde_json::from_str(&fs::read_to_string(runs.last().unwrap()).unwrap()).unwrap()
    };
    ["scratch", "outputs"].map(|what| record["bounds"][what].as_str().unwrap().to_owned())
}

fn found_by_doctor(desk: &Desk) -> String {
    let said = desk.ces(&["doctor", "--json"]).stdout;
    let json: Value = serde_json::from_str(&said).unwrap();
    let findings = json["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["what"] == "scratch, outputs").unwrap();
    assert_eq!(found["grade"], "ok", "{found}");
    found["found"].as_str().unwrap().to_owned()
}

/// What a payload is told: ext4's answer, and that of XFS.
fn full(disks: Disks) -> &'static str {
    if disks == Disks::Xfs { "No space left on device" } else { "Disk quota exceeded" }
}

#[test]
#[ignore = "wants the guest of scripts/test-vm"]
fn what_a_file_system_bounds_is_never_exceeded_and_the_payload_goes_on() {
    of_the_guest();
    for (caller, disks) in [(Caller::Root, Disks::One), (Caller::Sudo, Disks::One), (Caller::Sudo, Disks::Xfs)] {
        let desk = desk(caller, disks);
        assert!(found_by_doctor(&desk).ends_with("(kept by the file system: project quotas, tested)"));
        let fill = |dir: &str| format!("dd if=/dev/zero of={dir}/big bs=64k count=64; sleep 3; du -sk {dir}");
        let files =
            |dir: &str| format!("for i in $(seq 60); do true >{dir}/$i || break; done; sleep 3; ls {dir} | wc -l");
        for (script, said, within) in [
            (fill("/scratch"), "scratch limit: 2 MiB were used up", 1900..=2052),
            (fill("/tmp"), "scratch limit: 2 MiB were used up", 1900..=2052),
            (fill("/safe_outputs"), "outputs limit: 2 MiB were used up", 1900..=2052),
            (files("/scratch"), "scratch limit: 40 files were used up", 10..=40),
            (files("/safe_outputs"), "outputs limit: 40 files were used up", 40..=40),
            // Half here, half there.
            (
                "dd if=/dev/zero of=/tmp/a bs=64k count=16; dd if=/dev/zero of=/scratch/b bs=64k count=64; sleep 3
                du -sk /scratch"
                    .to_owned(),
                "scratch limit: 2 MiB were used up",
                800..=1028,
            ),
        ] {
            let ran = desk.sh(&[], &script);
            let written: u32 = ran.exits(0).split_whitespace().next().unwrap().parse().unwrap();
            assert!(within.contains(&written), "{script}: {ran:?}");
            assert!(ran.stderr.contains(full(disks)) && ran.stderr.contains(said), "{script}: {ran:?}");
            assert_eq!(bounds(&desk), ["quota", "quota"]);
            assert!(desk.record()["ended"].as_str().unwrap().contains(said));
        }
        desk.sh(&[], "dd if=/dev/zero of=/scratch/x bs=64k count=24 2>/dev/null; echo well >/safe_outputs/x").exits(0);
        assert_eq!(desk.record()["ended"], "exit 0");
        desk.host.nothing_is_left();
    }
}

#[test]
#[ignore = "wants the guest of scripts/test-vm"]
fn outputs_are_the_researchers_without_a_quota_also_after_a_crash() {
    of_the_guest();
    for disks in [Disks::One, Disks::Xfs] {
        let desk = desk(Caller::Sudo, disks);
        let (full, dir) = ("dd if=/dev/zero of=/safe_outputs/d/f bs=64k count=64", "mkdir /safe_outputs/d");
        desk.sh(&[], &format!("{dir}; {full}; sleep 0.1")).exits(0);
        let released = |outputs: &Path| {
            assert_eq!([outputs, &outputs.join("d"), &outputs.join("d/f")].map(project), [0; 3]);
            root(&format!("head -c 3m /dev/zero >{}/more; rm {0}/more", outputs.join("d").display()));
        };
        released(&last(&desk, "outputs_"));
        let mut command = desk.command(&[
            "run",
            "localhost/demo",
            "sh",
            "-c",
            // The marker is made before: later there is no room for it.
            &format!("{dir}; true >/safe_outputs/soon; {full}; cd /safe_outputs; mv soon ready; sleep 1000"),
        ]);
        let mut killed = command.spawn().unwrap();
        wait_until("its payload has written", || last(&desk, "outputs_").join("ready").exists());
        let (outputs, scratch) = (last(&desk, "outputs_"), last(&desk, "scratch_"));
        let id = project(&scratch);
        assert!(id != 0 && project(&outputs) != 0 && id != project(&outputs));
        // What the payload could try: in a user namespace nobody changes a project, not even of their own directories.
        let own = desk.host.researcher();
        let into = format!("runuser -u {} -- unshare --user --map-root-user chattr -p 0", own.name);
        let tried = Ran::from(Command::new("/bin/sh").args(["-c", &format!("{into} {}", outputs.display())]).output());
        assert!(tried.code != Some(0) && project(&outputs) != 0, "{tried:?}");
        kill_ces(&desk);
        killed.wait().unwrap();
        desk.ces(&["ps"]).exits(0);
        released(&outputs);
        // Its limits are gone: whoever is in the project later can write as much as they like.
        root(&format!(
            "cd {}; mkdir later; chattr -p {id} later; head -c 3m /dev/zero >later/f; rm -r later",
            home(&desk).display()
        ));
        desk.host.nothing_is_left();
    }
}

#[test]
#[ignore = "wants the guest of scripts/test-vm"]
fn what_a_file_system_does_not_bound_is_watched_and_record_and_doctor_say_which() {
    of_the_guest();
    let kept = "kept by the file system: project quotas, tested";
    let watched = "watched by ces every second, tested";
    for (caller, disks, bounded, scratch, outputs) in [
        (Caller::Sudo, Disks::Two, ["quota, sum watched", "quota"], kept, kept),
        (Caller::Sudo, Disks::HomeAlone, ["watched", "quota"], watched, kept),
        (Caller::Sudo, Disks::OfTheSite, ["watched", "watched"], watched, watched),
        (Caller::Sudo, Disks::Counting, ["watched", "watched"], watched, watched),
        (Caller::UserWithSubids, Disks::One, ["watched", "watched"], watched, watched),
    ] {
        let desk = desk(caller, disks);
        let found = found_by_doctor(&desk);
        let said = if scratch == outputs {
            format!("scratch: 2 MiB, 40 files; outputs: 2 MiB, 40 files ({outputs})")
        } else {
            format!("scratch: 2 MiB, 40 files ({scratch}); outputs: 2 MiB, 40 files ({outputs})")
        };
        assert_eq!(found, said, "{disks:?}");
        desk.sh(&[], "echo well >/safe_outputs/x").exits(0);
        assert_eq!(bounds(&desk), bounded, "{disks:?}");
        let fill = "for d in /tmp /scratch; do dd if=/dev/zero of=$d/f bs=64k count=24; done; sleep 100";
        let ran = desk.sh(&[], fill);
        assert!(ran.code == Some(137) && ran.stderr.contains("MiB are more than 2 MiB"), "{ran:?}");
        assert!(!ran.stderr.contains(full(disks)), "{ran:?}");
        let ran = desk.sh(&[], "dd if=/dev/zero of=/safe_outputs/f bs=64k count=64; sleep 5");
        let (code, said) = if outputs == kept { (0, full(disks)) } else { (137, "outputs limit: ") };
        assert!(ran.code == Some(code) && ran.stderr.contains(said), "{disks:?}: {ran:?}");
        desk.host.nothing_is_left();
    }
}
