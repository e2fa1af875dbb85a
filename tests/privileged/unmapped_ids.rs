//! Images with users and groups beyond the ids that are mapped here, as Debian's npm has (1516583083).

use std::path::PathBuf;

use serde_json::json;

use crate::image_support::empty;
use crate::support::callers::{Caller, Desk};
use crate::support::layout::with_layers;

/// The demonstration image with two such files; a layout.
fn image(desk: &Desk) -> PathBuf {
    let id = b"1516583083";
    let layer = empty().pax(&[("uid", id)]).file("odd", b"x").pax(&[("gid", id)]).file("odd2", b"x").file("even", b"x");
    let config = json!({"Cmd": ["stat", "-c", "%u:%g", "/odd", "/odd2", "/even"]});
    let layout = with_layers(desk.host.tmp(), "odd", &config, &[layer.end()]);
    let opened = std::process::Command::new("chmod").args(["-R", "a+rX"]).arg(&layout).status().unwrap();
    assert!(opened.success());
    layout
}

#[test]
fn files_of_ids_that_are_not_mapped_are_nobodys_and_that_is_said_counted_and_kept() {
    for caller in [Caller::Root, Caller::Sudo, Caller::UserWithSubids] {
        let Some(desk) = Desk::new(caller) else { return };
        let source = format!("oci:{}:odd", image(&desk).display());
        for again in [false, true] {
            let pulled = desk.ces(&["pull", &source]);
            pulled.exits(0);
            let example = if again { "" } else { ", such as 1516583083 of \"odd\"" };
            let said =
                format!("2 entries of the image with a user or group beyond the ids mapped here{example}: nobody");
            assert_eq!(pulled.stderr.matches("warning: ").count(), 1, "{caller:?}: {pulled:?}");
            assert!(pulled.stderr.contains(&said), "{caller:?}: {pulled:?}");
        }
        assert!(desk.ces(&["inspect", "odd"]).exits(0).contains("\"unmapped_ids\": 2"));
        assert!(desk.ces(&["pull", "--json", &source]).exits(0).contains("\"unmapped_ids\": 2"));
        let ran = desk.ces(&["run", "odd"]);
        assert_eq!(ran.exits(0), "65534:0\n0:65534\n0:0\n", "{caller:?}");
    }
}

#[test]
fn with_one_id_every_file_is_the_callers_and_nothing_is_said() {
    let Some(desk) = Desk::new(Caller::User) else { return };
    let pulled = desk.ces(&["pull", &format!("oci:{}:odd", image(&desk).display())]);
    pulled.exits(0);
    assert!(!pulled.stderr.contains("warning"), "{pulled:?}");
}

#[test]
fn a_policy_refuses_images_with_ids_that_are_not_mapped_at_pull_and_at_run() {
    let Some(desk) = Desk::new(Caller::Sudo) else { return };
    let source = format!("oci:{}:odd", image(&desk).display());
    let strict = || desk.host.policy("contact = \"the desk\"\n[images]\nunmapped_ids = false\n");
    strict();
    // Also when all its layers are there from the first try.
    for _ in 0..2 {
        let refused = desk.ces(&["pull", &source]);
        refused.refuses(3, &["2 entries of the image belong to users or groups", "images.unmapped_ids"]);
    }
    assert_eq!(desk.ces(&["images", "-q"]).exits(0), "");
    desk.host.policy("");
    desk.ces(&["pull", &source]).exits(0);
    let explained = desk.ces(&["policy", "explain", "odd"]);
    assert!(explained.exits(0).contains("2 entries, which belong to nobody (65534)"), "{explained:?}");
    desk.ces(&["run", "odd"]).exits(0);
    strict();
    assert!(desk.ces(&["policy", "show"]).exits(0).contains("images with ids beyond those mapped"));
    desk.ces(&["pull", &source]).refuses(3, &["images.unmapped_ids"]);
    desk.ces(&["policy", "explain", "odd"]).refuses(3, &["images.unmapped_ids"]);
    desk.ces(&["run", "odd"]).refuses(125, &["2 entries of the image", "images.unmapped_ids", "chown"]);
}
