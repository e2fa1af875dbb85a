//! Lines that are listed, torn, made anew and left out.

use super::*;
use crate::host::privilege::as_root;
use proptest::prelude::*;

fn entry(id: &JobId, uid: u32) -> Entry<'static> {
    let text = |text: &'static str| Cow::Borrowed(text);
    Entry {
        id: id.clone(),
        uid,
        researcher: text("r"),
        project: None,
        image: text("i"),
        state: State::Begun,
        started: text("2026-11-27T10:00:00.000Z"),
        seconds: None,
        exit: None,
        ended: None,
        name: None,
        outputs: None,
    }
}

#[test]
fn lines_of_removed_records_are_left_out_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let log = SiteDir::of_the_caller(&dir.path().join("log")).unwrap();
    let id = |n: u32| JobId::parse(&format!("20261127T100000-{n:06x}")).unwrap();
    fs::create_dir(log.join("runs")).unwrap();
    as_root(|root| {
        for n in [1, 2, 3, 1] {
            add(root, &log, &Entry { outputs: Some(7), ..entry(&id(n), 1) }).unwrap();
        }
        leave_out(root, &log, &[id(1)].into()).unwrap();
    });
    let text = as_root(|root| text(root, &log)).unwrap();
    let left: Vec<_> = of(&text, None).iter().map(|entry| (entry.id.clone(), entry.outputs)).collect();
    assert_eq!(left, [(id(2), Some(7)), (id(3), Some(7))]);
    // Of a record, and of a line of an older version.
    let mut record = serde_json::to_value(entry(&id(4), 1)).unwrap();
    record["outputs"] = serde_json::json!({"path": "/o", "files": 12, "bytes": 3, "links": [], "refused": []});
    let outputs = |record: &serde_json::Value| serde_json::from_str::<Entry<'_>>(&record.to_string()).unwrap().outputs;
    assert_eq!(outputs(&record), Some(12));
    record.as_object_mut().unwrap().remove("outputs");
    assert_eq!(outputs(&record), None);
}

#[test]
fn the_last_line_counts_and_what_is_lacking_comes_from_the_records() {
    let dir = tempfile::tempdir().unwrap();
    let log = SiteDir::of_the_caller(&dir.path().join("log")).unwrap();
    let id = |n: u32| JobId::parse(&format!("20261127T100000-{n:06x}")).unwrap();
    fs::create_dir(log.join("runs")).unwrap();
    let text = || as_root(|root| text(root, &log)).unwrap();
    assert_eq!(of(&text(), None), []);
    as_root(|root| {
        add(root, &log, &entry(&id(1), 1000)).unwrap();
        add(root, &log, &Entry { state: State::Finished, exit: Some(3), ..entry(&id(1), 1000) }).unwrap();
        add(root, &log, &entry(&id(2), 1001)).unwrap();
    });
    assert_eq!(
        of(&text(), Some(1000)).iter().map(|e| (e.state, e.exit)).collect::<Vec<_>>(),
        [(State::Finished, Some(3))]
    );
    // A line that a full disk has torn spoils none but its own.
    OpenOptions::new().append(true).open(path(&log)).unwrap().write_all(b"{\"id\":\"torn").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::write(log.join("runs").join(format!("{}.json", id(3))), serde_json::to_vec(&entry(&id(3), 7)).unwrap())
        .unwrap();
    assert_eq!(of(&text(), None).len(), 3);
    assert_eq!(of(&text(), Some(7)).len(), 1);
    fs::write(log.join("runs").join(format!("{}.json", id(4))), "no record").unwrap();
    fs::remove_file(path(&log)).unwrap();
    assert_eq!(of(&text(), None).iter().map(|e| e.id.clone()).collect::<Vec<_>>(), [id(3)]);
}

#[test]
fn a_list_is_the_same_from_its_beginning_and_from_its_end() {
    // Seven runs a second, whose ids are in another order than their times; every third has a line of its end as well.
    let id =
        |n: usize| JobId::parse(&format!("20261127T10{:02}{:02}-{:06x}", n / 420, n / 7 % 60, 999_999 - n)).unwrap();
    let runs = 4_200;
    let mut lines: Vec<String> = Vec::new();
    for n in 0..runs {
        let started = Cow::Owned(format!("2026-11-27T10:{:02}:{:02}.{:03}Z", n / 420, n / 7 % 60, n % 7));
        let begun = Entry { started, ..entry(&id(n), u32::try_from(n % 2).unwrap()) };
        lines.push(serde_json::to_string(&begun).unwrap());
        if n % 3 == 0 {
            let ended = Entry { state: State::Finished, outputs: Some(1), ..begun };
            lines.push(serde_json::to_string(&ended).unwrap());
        }
    }
    let text = lines.join("\n");
    for uid in [None, Some(1), Some(2)] {
        let all = of(&text, uid);
        assert_eq!(
            all.len(),
            match uid {
                None => runs,
                Some(1) => runs / 2,
                _ => 0,
            }
        );
        assert!(all.is_sorted_by(|a, b| (&a.started, &a.id) < (&b.started, &b.id)));
        assert!(all.iter().all(|entry| uid.is_none_or(|uid| entry.uid == uid)));
        let mut newest: Vec<_> = newest_first(&text, uid).collect();
        newest.reverse();
        assert_eq!(newest, all);
    }
    assert_eq!(of(&text, None).iter().filter(|entry| entry.state == State::Finished).count(), runs.div_ceil(3));
}

proptest! {
    #[test]
    fn whatever_the_texts_are_a_line_is_one_and_short(text in ".{0,2000}", times in 1_usize..50) {
        let text = text.repeat(times);
        let id = JobId::parse("20261127T100000-000001").unwrap();
        let mut entry = entry(&id, 1);
        let cow = || Cow::Owned(text.clone());
        (entry.image, entry.ended, entry.name, entry.project) = (cow(), Some(cow()), Some(cow()), Some(cow()));
        entry.researcher = cow();
        let line = entry.bounded().line().unwrap();
        prop_assert!(line.len() <= LONGEST && line.iter().filter(|byte| **byte == b'\n').count() == 1);
        prop_assert_eq!(id_of(std::str::from_utf8(&line).unwrap()), Some(id.as_str()));
    }

    /// The short way reads what JSON's parser reads, or nothing; and what is written every day it does read.
    #[test]
    fn a_line_is_read_as_its_json_is(
        texts in prop::array::uniform5("[ -~é]{0,12}"),
        seconds in prop::option::of(0_u32..1_000_000),
        exit in any::<Option<u8>>(),
        outputs in any::<Option<u64>>(),
        state in prop::sample::select(vec![State::Begun, State::Finished, State::Refused, State::Interrupted]),
        edit in prop::option::of((0_usize..400, prop::sample::select(vec!["", "\\", "\"", "{", "-", "0", "e3", "null", ","]))),
    ) {
        let [researcher, image, ended, name, project] = texts.map(Cow::<'static, str>::Owned);
        let is_plain = [&researcher, &image, &ended, &name, &project].iter().all(|text| !text.contains(['"', '\\']));
        let seconds = seconds.map(|ms| f64::from(ms) / 1000.0);
        let id = JobId::parse("20261127T100000-000001").unwrap();
        let some = |text: Cow<'static, str>| (!text.is_empty()).then_some(text);
        let entry = Entry {
            researcher, image, seconds, exit, outputs, state,
            ended: some(ended), name: some(name), project: some(project), ..entry(&id, 1000)
        };
        let mut line = serde_json::to_string(&entry).unwrap();
        prop_assert!(!is_plain || scan::entry(&line).is_some_and(|read| read == entry), "{}", line);
        if let Some((at, text)) = edit
            && line.is_char_boundary(at)
            && line.is_char_boundary(at + 1)
        {
            line.replace_range(at..=at, text);
        }
        if let Some(read) = scan::entry(&line) {
            prop_assert_eq!(read, serde_json::from_str(&line).unwrap(), "{}", line);
        }
    }
}
