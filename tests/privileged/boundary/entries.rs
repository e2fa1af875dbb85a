//! The processes that `ces` starts of itself are reached by no word, and by nobody who is not `ces`.

use std::fs;

use crate::support::attack::Attack;

/// What the unpacking child and the stage process are told first, as far as a stranger knows.
const SAID: [(&str, &str); 4] = [
    (
        "stream",
        "{\"directory\":\"DIR\",\"listing\":\"DIR/listing\",\"known\":\"DIR/secret.txt\",\"ids\":{\"uids\":[],\
        \"gids\":[]},\"limits\":{\"layer_bytes\":1000000,\"image_bytes\":1000000,\"entries\":100,\"layers\":10,\
        \"memory\":100000000},\"work\":{\"Unpack\":{\"compression\":\"None\",\"blob_size\":0,\"has_base\":false}}}\n\
        \"go\"\n\"go\"\n",
    ),
    ("stream", "\"go\"\n"),
    ("packets", "{\"Begin\":{\"groups\":1,\"streams\":[false,false,false],\"listeners\":0,\"layer_ns\":false}}"),
    ("packets", "\"MapsWritten\""),
];

#[test]
fn internal_entries_are_no_words_of_a_command_line() {
    let Some(attack) = Attack::new() else { return };
    let canary = attack.canary();
    let names = ["__unpack", "__stage", "ces: stage", "ces: unpack", "__list", "__settle", "stage", "--call-file"];
    for name in names {
        let ran = attack.ces(&[name]);
        assert_eq!(ran.code, Some(2), "{name}: {ran:?}");
        let ran = attack.ces(&["run", name]);
        assert_eq!(ran.code, Some(125), "{name}: {ran:?}");
    }
    for (n, (kind, text)) in SAID.into_iter().enumerate() {
        for dir in ["/root", "/etc", &attack.others("").display().to_string()] {
            let said = attack.home(&format!("said{n}"));
            fs::write(&said, text.replace("DIR", dir)).unwrap();
            for name in ["__unpack", "__stage", "'ces: stage'", "'ces: unpack'"] {
                let talk = format!("{} talk {kind} ~/said{n} sudo -n $CES {name}", attack.tmp("attack").display());
                let ran = attack.sh(&talk);
                assert_ne!(ran.code, Some(0), "{name}: {ran:?}");
            }
        }
    }
    canary.is_unchanged();
}

#[test]
fn sudo_hands_on_no_name_and_no_descriptor_under_which_ces_would_be_another_program() {
    let Some(attack) = Attack::new() else { return };
    let canary = attack.canary();
    let talk = attack.tmp("attack").display().to_string();
    fs::write(attack.home("said"), SAID[2].1).unwrap();
    // A link by that name is another command for sudo; options of its own that hand on more are refused.
    let script = format!(
        "ln -s $CES ~/'ces: stage'; ln -s $CES ~/'ces: unpack'; ln -s $CES ~/ces
        {talk} talk packets ~/said sudo -n ~/'ces: stage'
        {talk} talk stream ~/said sudo -n ~/'ces: unpack'
        {talk} talk packets ~/said sudo -n -C 200 $CES ps
        {talk} talk packets ~/said sudo -n -- $CES 'ces: stage'
        {talk} talk packets ~/said bash -c 'exec -a \"ces: stage\" sudo -n $CES'
        {talk} talk packets ~/said bash -c 'exec -a \"ces: unpack\" sudo -n $CES'
        exit 0"
    );
    let ran = attack.sh(&script);
    assert_eq!(ran.exits(0).matches("uid=0").count(), 0, "{ran:?}");
    canary.is_unchanged();
}

#[test]
fn an_internal_entry_called_by_an_ordinary_user_has_that_users_rights_alone() {
    let Some(attack) = Attack::new() else { return };
    let canary = attack.canary();
    let talk = attack.tmp("attack").display().to_string();
    for (n, (kind, text)) in SAID.into_iter().enumerate() {
        for dir in ["/root", "/etc", &attack.others("").display().to_string()] {
            fs::write(attack.home("said"), text.replace("DIR", dir)).unwrap();
            for name in ["ces: stage", "ces: unpack"] {
                let ran = attack.sh(&format!("{talk} talk {kind} ~/said bash -c 'exec -a \"{name}\" $CES'"));
                assert_ne!(ran.code, Some(0), "{n} {name}: {ran:?}");
            }
        }
    }
    canary.is_unchanged();
}
