//! Researchers whom a name service knows and no file below /etc, as with SSSD and LDAP: a module of the C library's, loaded by `ces`.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use crate::support::callers::{Caller, Desk};
use crate::support::records::record_at;
use crate::support::{Ran, children, demo_layout, have};

const NAME: &str = "directory-researcher";
const ID: u32 = 71234;
const PROJECT_ID: u32 = 71300;

/// A host with that name service, their home, and a project that is theirs by a group of the service's.
fn host() -> Option<Desk> {
    let desk = Desk::new(Caller::Sudo)?;
    have("cc")?;
    let (tmp, etc) = (desk.host.tmp(), desk.host.inside(Path::new("/etc")));
    let (home, library) = (tmp.join("directory-home"), tmp.join("lib"));
    for (at, owner, mode) in [(&home, ID, 0o700), (&library, 0, 0o755)] {
        fs::create_dir(at).unwrap();
        chown(at, Some(owner), Some(owner)).unwrap();
        fs::set_permissions(at, fs::Permissions::from_mode(mode)).unwrap();
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/name_service.c");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", &format!("-DHOME=\"{}\"", home.display()), "-o"])
        .arg(library.join("libnss_cestest.so.2"))
        .arg(source)
        .status();
    assert!(built.unwrap().success(), "tests/support/name_service.c does not compile");
    fs::write(etc.join("nsswitch.conf"), "passwd: files cestest\ngroup: files cestest\nshadow: files\n").unwrap();
    fs::create_dir_all(etc.join("ld.so.conf.d")).unwrap();
    fs::write(etc.join("ld.so.conf.d/cestest.conf"), format!("{}\n", library.display())).unwrap();
    assert!(desk.host.command("ldconfig").status().unwrap().success());
    let sudoers = format!("{NAME} ALL=(root) NOPASSWD: {}\n", env!("CARGO_BIN_EXE_ces"));
    fs::write(etc.join("sudoers.d/directory"), sudoers).unwrap();
    let project = tmp.join("safe/px");
    fs::create_dir_all(&project).unwrap();
    fs::write(project.join("ward.csv"), "north,3\n").unwrap();
    chown(&project, Some(0), Some(PROJECT_ID)).unwrap();
    fs::set_permissions(&project, fs::Permissions::from_mode(0o2770)).unwrap();
    desk.host.policy(&format!("[data]\nroot = \"{}\"\n[projects.px]\naccess = \"ro\"\n", tmp.join("safe").display()));
    // In no file: what answers is the service.
    assert!(!fs::read_to_string(etc.join("passwd")).unwrap().contains(NAME));
    Some(desk)
}

/// A script of the researcher's.
fn script(desk: &Desk, script: &str) -> Ran {
    let mut command = desk.host.command("setpriv");
    command.args([format!("--reuid={NAME}"), format!("--regid={ID}")]).args(["--init-groups", "--inh-caps=-all"]);
    let home = desk.host.tmp().join("directory-home");
    command.args(["env", &format!("HOME={}", home.display()), &format!("CES_TEST={}", desk.host.token())]);
    command.args(["/bin/sh", "-c", &format!("cd; ces={}; {script}", env!("CARGO_BIN_EXE_ces"))]);
    Ran::from(command.output())
}

#[test]
fn a_researcher_whom_only_a_name_service_knows_runs_on_the_data_of_a_group_that_only_it_knows() {
    let Some(desk) = host() else { return };
    let pull = format!("pull -q oci:{}:demo", demo_layout().display());
    let run = "run localhost/demo /bin/sh -c 'cat /safe_data/ward.csv > /safe_outputs/copy; id -u'";
    let root = desk.host.tmp().join("directory-home/ces");
    // Through sudo, and as an ordinary user.
    let ways =
        [("sudo -n $ces".to_owned(), desk.log()), (format!("CES_ROOT={} $ces", root.display()), root.join("log"))];
    for (ces, log) in ways {
        script(&desk, &format!("{ces} {pull}")).exits(0);
        let ran = script(&desk, &format!("{ces} {run}"));
        assert_eq!(ran.exits(0).lines().count(), 1, "{ran:?}");
        let records = children(&log.join("runs"));
        let record = record_at(records.iter().find(|path| crate::support::records::is_record(path)).unwrap());
        assert_eq!((&record["researcher"], &record["uid"]), (&NAME.into(), &ID.into()), "{ces}: {record}");
        assert_eq!((&record["project"], &record["state"]), (&"px".into(), &"finished".into()), "{ces}: {record}");
        let outputs =
            desk.host.tmp().join("directory-home").join(format!("outputs_{}", record["id"].as_str().unwrap()));
        assert_eq!(fs::metadata(outputs.join("copy")).unwrap().uid(), ID, "{ces}");
        let shown = script(&desk, &format!("{ces} show last"));
        assert!(shown.exits(0).contains(&format!("{NAME} (uid {ID})")), "{shown:?}");
    }
}
