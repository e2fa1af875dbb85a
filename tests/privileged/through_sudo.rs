//! Several researchers, one store, one policy: what sudo gives and what it does not.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use crate::support::callers::{Caller, Desk};
use crate::support::{Ran, children, demo_layout};

/// A layout that only its owner can read.
fn private_layout(desk: &Desk, owner: u32) -> String {
    let copy = desk.host.home().join("layout");
    let copied =
        Command::new("cp").args(["-r".as_ref(), demo_layout().as_os_str(), copy.as_os_str()]).status().unwrap();
    assert!(copied.success());
    let all = Command::new("chown").args(["-R", &owner.to_string()]).arg(&copy).status().unwrap();
    assert!(all.success());
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o700)).unwrap();
    desk.host.researcher().dir.join("layout").display().to_string()
}

#[test]
fn an_image_from_a_researchers_own_file_is_not_there_for_another_project() {
    let Some(desk) = Desk::new(Caller::Sudo) else { return };
    let layout = private_layout(&desk, desk.owner());
    let digest =
        desk.ces(&["pull", &format!("oci:{layout}:demo")]).exits(0).trim().rsplit('@').next().unwrap().to_owned();
    desk.sh(&[], "true").exits(0);

    assert_eq!(desk.other_ces("images --quiet").exits(0), "");
    desk.other_ces("inspect localhost/demo").refuses(1, &["is not in the store"]);
    desk.other_ces(&format!("inspect {digest}")).refuses(1, &["is not in the store"]);
    desk.other_ces(&format!("run {digest} true")).refuses(125, &["is not in the store"]);
    desk.other_ces("rmi localhost/demo").refuses(1, &["is not in the store"]);
    // Nor is its name: it is as free as if nobody had it, and stays what it was for the first.
    let public = demo_layout();
    desk.other_ces(&format!("pull oci:{}:plain --name demo", public.display())).exits(0);
    assert!(desk.ces(&["inspect", "localhost/demo"]).exits(0).contains(&digest));
    assert_eq!(desk.other_ces("rmi localhost/demo").exits(0), "removed localhost/demo:latest\n");

    // With the same file to read, it is theirs too, under a name of their own.
    desk.other_ces(&format!("pull oci:{}:demo --name mine", public.display())).exits(0);
    assert!(desk.other_ces("images --quiet").exits(0).contains("localhost/mine"));
    desk.other_ces(&format!("inspect {digest}")).exits(0);
    desk.sh(&[], "true").exits(0);
}

#[test]
fn layers_of_an_image_one_may_not_see_are_fetched_again_and_not_lent() {
    let Some(desk) = Desk::new(Caller::Sudo) else { return };
    let layout = private_layout(&desk, desk.owner());
    desk.ces(&["pull", &format!("oci:{layout}:demo")]).exits(0);
    // The same documents, without the layer's bytes: who has these knows digests, not contents.
    let stolen = desk.host.tmp().join("stolen");
    assert!(
        Command::new("cp")
            .args(["-r".as_ref(), demo_layout().as_os_str(), stolen.as_os_str()])
            .status()
            .unwrap()
            .success()
    );
    for blob in children(&stolen.join("blobs/sha256")) {
        if fs::metadata(&blob).unwrap().len() > 100_000 {
            fs::write(&blob, "").unwrap();
        }
    }
    let ran = desk.other_ces(&format!("pull oci:{}:demo --name stolen", stolen.display()));
    assert_ne!(ran.code, Some(0), "{ran:?}");
    assert_eq!(desk.other_ces("images --quiet").exits(0), "");
    // Its owner needs no bytes a second time.
    desk.ces(&["pull", &format!("oci:{}:demo", stolen.display())]).exits(0);
}

/// The only directory below one of the store's, seen from outside.
fn only(desk: &Desk, kind: &str) -> std::path::PathBuf {
    let mut found = children(&desk.host.root().join("store").join(kind).join("sha256"));
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn a_check_tells_of_another_projects_damaged_image_nothing_and_repairs_nothing_of_it() {
    // A file of a layer, a layer's record, its listing, and each document of the image.
    let damages = [
        ("layers", "fs/etc/passwd"),
        ("layers", "layer.json"),
        ("layers", "tree.zst"),
        ("images", "manifest.json"),
        ("images", "config.json"),
        ("images", "image.json"),
    ];
    for (kind, name) in damages {
        let Some(desk) = Desk::new(Caller::Sudo) else { return };
        let layout = private_layout(&desk, desk.owner());
        desk.ces(&["pull", &format!("oci:{layout}:demo")]).exits(0);
        let damaged = only(&desk, kind).join(name);
        fs::write(&damaged, "damaged").unwrap();
        let secrets: Vec<String> = ["images", "layers"]
            .iter()
            .map(|kind| only(&desk, kind).file_name().unwrap().to_str().unwrap()[..12].to_owned())
            .chain(["localhost/demo", "passwd", "tester", ".json"].map(str::to_owned))
            .collect();
        for words in
            ["fsck", "fsck --json", "fsck --repair", "images", "images --json", "inspect localhost/demo", "prune"]
        {
            let ran = desk.other_ces(words);
            let said =
                format!("{}{}", ran.stdout, ran.stderr).replace("image \"localhost/demo\" is not in the store", "");
            let said = said.replace("ces pull oci:DIR fetches", "");
            for secret in &secrets {
                assert!(!said.contains(secret.as_str()), "{name}: {words} tells \"{secret}\": {ran:?}");
            }
            assert_eq!(ran.code, Some(i32::from(words.starts_with("inspect"))), "{name}: {words}: {ran:?}");
        }
        assert_eq!(fs::read(&damaged).unwrap(), b"damaged", "{name}: not the other's to repair");
        // Whoever holds it is told, unless the damage is in what says who holds it; root is told everything.
        if name != "image.json" {
            let said = desk.ces(&["fsck"]);
            assert_eq!(said.code, Some(1), "{name}: {said:?}");
            assert!(said.stdout.contains("damaged: "), "{name}: {said:?}");
        }
        let root = Ran::from(desk.host.ces_as_root().arg("fsck").output());
        assert!(root.code == Some(1) && root.stdout.contains("localhost/demo"), "{name}: {root:?}");
        // And a new pull mends it, whatever it was, once it is out of the way.
        Ran::from(desk.host.ces_as_root().args(["fsck", "--repair"]).output()).exits(0);
        desk.ces(&["pull", &format!("oci:{layout}:demo")]).exits(0);
        desk.sh(&[], "true").exits(0);
    }
}

#[test]
fn a_layer_that_two_projects_have_is_not_removed_by_one_of_them() {
    let Some(desk) = Desk::new(Caller::Sudo) else { return };
    let layout = private_layout(&desk, desk.owner());
    desk.ces(&["pull", &format!("oci:{layout}:demo")]).exits(0);
    desk.other_ces(&format!("pull oci:{}:root --name mine", demo_layout().display())).exits(0);
    fs::write(only(&desk, "layers").join("fs/etc/passwd"), "damaged").unwrap();
    let said = desk.other_ces("fsck --repair");
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stdout.contains("localhost/mine") && said.stdout.contains("not removed"), "{said:?}");
    assert!(!said.stdout.contains("localhost/demo"), "{said:?}");
    assert!(desk.ces(&["images", "--quiet"]).exits(0).contains("localhost/demo"));
}

#[test]
fn what_root_pulled_and_what_the_policy_shares_is_everybodys() {
    let Some(desk) = Desk::new(Caller::Sudo) else { return };
    let root = desk.host.ces_as_root().args(["pull", &format!("oci:{}:plain", demo_layout().display())]).output();
    Ran::from(root).exits(0);
    assert_eq!(desk.other_ces("images --quiet").exits(0), "localhost/plain:latest\n");
    desk.ces(&["pull", &format!("oci:{}:demo", demo_layout().display())]).exits(0);
    assert_eq!(desk.other_ces("images --quiet").exits(0), "localhost/plain:latest\n");
    desk.host.policy("[images]\nshared = true\n");
    assert!(desk.other_ces("images --quiet").exits(0).contains("localhost/demo"));
}

#[test]
fn the_projects_members_share_what_one_of_them_pulled() {
    let Some(desk) = Desk::new(Caller::Sudo) else { return };
    let data = desk.host.tmp().join("safe/projx");
    fs::create_dir_all(&data).unwrap();
    chown(&data, Some(0), Some(45678)).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o770)).unwrap();
    desk.host.policy(&format!("[data]\nroot = \"{}\"\n", data.parent().unwrap().display()));
    fs::remove_dir_all(desk.host.home().join("safe_data")).unwrap();
    desk.ces(&["pull", &format!("oci:{}:demo", demo_layout().display())]).exits(0);
    assert_eq!(desk.other_ces("images --quiet").exits(0), "");
    let group = desk.host.inside(Path::new("/etc/group"));
    let text = fs::read_to_string(&group).unwrap();
    let line = format!("projx:x:45678:{}", desk.host.researcher().name);
    fs::write(&group, text.replace(&line, &format!("{line},{}", crate::support::callers::OTHER))).unwrap();
    assert_eq!(desk.other_ces("images --quiet").exits(0), "localhost/demo:latest\n");
}

#[test]
fn another_place_is_not_accepted_through_sudo_wherever_it_is() {
    let Some(desk) = Desk::new(Caller::Sudo) else { return };
    let ces = env!("CARGO_BIN_EXE_ces");
    let home = desk.host.researcher().dir.display().to_string();
    let mut command = desk.host.command("runuser");
    command.args(["--login", "--shell", "/bin/sh", &desk.host.researcher().name, "--command"]);
    let ran = Ran::from(command.arg(format!("sudo -n {ces} --root={home}/mine images")).output());
    ran.refuses(3, &["--root", "sudo", "[site]"]);
    assert!(!desk.host.home().join("mine").exists());
}

#[test]
fn where_the_policy_is_to_bind_a_users_call_goes_through_sudo_by_itself() {
    let Some(desk) = Desk::with_demo(Caller::Sudo) else { return };
    desk.host.policy("mode = \"enforced\"\n");
    let ces = env!("CARGO_BIN_EXE_ces");
    let script = "id -u; echo x > /safe_outputs/f; exit 7";
    let call = format!("{ces} run localhost/demo /bin/sh -c '{script}'");
    let mut command = desk.host.command("runuser");
    command.args(["--login", "--shell", "/bin/sh", &desk.host.researcher().name, "--command"]);
    let ran = Ran::from(command.arg(&call).output());
    assert_eq!(ran.exits(7), "1000\n");
    assert_eq!(desk.record()["mode"], "enforced");
    assert_eq!(fs::metadata(desk.outputs().join("f")).unwrap().uid(), desk.owner());

    // Who may not use sudo may not use ces.
    fs::remove_file(desk.host.inside(Path::new("/etc/sudoers.d/ces"))).unwrap();
    desk.other(&format!("{ces} run localhost/demo true")).refuses(125, &["through sudo", "sudoers"]);
    // Nor does it call itself for ever where sudo gives no privileges.
    desk.other(&format!("SUDO_COMMAND={ces} {ces} images")).refuses(3, &["not as root"]);
}

#[test]
fn policy_explain_finds_image_and_project_as_a_run_would() {
    let Some(desk) = Desk::with_demo(Caller::Sudo) else { return };
    let row = |what: &str, image: &str| {
        let ran = desk.ces(&["policy", "explain", "--json", image]);
        let grant: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        // It ends with 1 where a run would be refused.
        let refused = !grant["refused"].as_array().unwrap().is_empty();
        assert_eq!(ran.code, Some(i32::from(refused)), "{ran:?}");
        let rows = grant["decisions"].as_array().unwrap();
        let row = rows.iter().find(|row| row["what"] == what).unwrap();
        ["value", "because"].map(|key| row[key].as_str().unwrap().to_owned())
    };
    let [value, because] = row("image", "localhost/demo");
    assert!(value.starts_with("localhost/demo:latest@sha256:") && because == "in the store", "{value}: {because}");
    assert!(row("project", "localhost/demo")[1].starts_with("the data is in your home"));
    assert!(row("image", "ghcr.io/a/b:1")[1].contains("not available"));
    // The first project that a group names decides, with all that the policy says of it.
    let data = desk.host.tmp().join("safe");
    fs::create_dir_all(data.join("projx")).unwrap();
    let policy = format!("[data]\nroot = \"{}\"\n[projects.projx]\naccess = \"ro\"\n", data.display());
    desk.host.policy(&policy);
    fs::remove_dir_all(desk.home().join("safe_data")).unwrap();
    assert_eq!(row("project", "localhost/demo")[0], "projx");
    let [access, because] = row("safe data", "localhost/demo");
    assert!(access == "ro" && because.contains("projects.projx"), "{access}: {because}");
    fs::remove_dir(data.join("projx")).unwrap();
    assert!(row("project", "localhost/demo")[1].contains("cannot find a project directory"));
    // A list of digests is asked for the digest that is here, and says nothing of an image that is not.
    let digest = row("image", "localhost/demo")[0].split_once('@').unwrap().1.to_owned();
    let approved = desk.host.inside(std::path::Path::new("/etc/ces/approved.toml"));
    let entry = format!("[[image]]\ndigest = \"{digest}\"\nprojects = [\"projx\"]\napprover = \"IG\"\n");
    fs::write(&approved, entry).unwrap();
    fs::create_dir(data.join("projx")).unwrap();
    desk.host.policy(&format!("{policy}[images]\napproved = \"/etc/ces/approved.toml\"\n"));
    assert!(row("project", "localhost/demo")[0] == "projx");
    desk.ces(&["policy", "explain", "ghcr.io/a/b:1"]).refuses(1, &["ghcr.io/a/b:1", "ces pull"]);
}
