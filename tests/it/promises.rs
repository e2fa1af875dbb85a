//! A document that names a test for a promise names one that exists.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The documents whose promises have tests.
const DOCUMENTS: [&str; 3] = ["SECURITY.md", "README.md", "docs/governance.md"];

/// The names of the tests in each file below `tests` and `src`: the file's path without `.rs`.
fn tests() -> BTreeMap<String, Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut look = vec![root.join("tests"), root.join("src")];
    let mut found = BTreeMap::new();
    while let Some(path) = look.pop() {
        if path.is_dir() {
            look.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).unwrap().with_extension("").to_str().unwrap().to_owned();
            found.insert(name, in_file(&fs::read_to_string(&path).unwrap()));
        }
    }
    found
}

/// Functions that follow `#[test]`, with other attributes between them perhaps; and the tests of `seam`, which has a main
/// of its own: those it names itself, and one for each line of its table of losses; and those
/// that `for_each_caller!` lists.
fn in_file(text: &str) -> Vec<String> {
    let after = |begin: &'static str| text.split(begin).skip(1).filter_map(|rest| rest.split('"').next());
    let own = after("Trial::test(\"").map(str::to_owned);
    let mut found: Vec<String> = own.chain(after("loss(\"").map(|name| format!("refused_without_{name}"))).collect();
    let mut is_test = false;
    let mut is_list = false;
    for line in text.lines().map(str::trim) {
        is_list = line == "for_each_caller!(" || is_list && line != ");";
        if let Some(name) = line.strip_suffix(',').filter(|_| is_list) {
            found.push(name.to_owned());
        }
        match line.strip_prefix("fn ").and_then(|rest| rest.split_once('(')) {
            Some((name, _)) if is_test => {
                found.push(name.to_owned());
                is_test = false;
            }
            _ => is_test = line == "#[test]" || is_test && line.starts_with("#["),
        }
    }
    found
}

/// What stands in backquotes and is `file::test`: the last word of a test's name is never its only one.
fn named(text: &str) -> Vec<(&str, &str)> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter_map(|word| word.rsplit_once("::")).filter(|(_, test)| test.matches('_').count() >= 2).collect()
}

/// Those that are named and not there.
fn missing<'a>(text: &'a str, there: &BTreeMap<String, Vec<String>>) -> Vec<(&'a str, &'a str)> {
    let is_there = |file: &str, test: &str| {
        let file = format!("/{}", file.trim_end_matches(".rs").replace("::", "/"));
        there.iter().any(|(path, tests)| format!("/{path}").ends_with(&file) && tests.iter().any(|t| t == test))
    };
    named(text).into_iter().filter(|(file, test)| !is_there(file, test)).collect()
}

#[test]
fn every_test_that_a_document_names_is_there() {
    let there = tests();
    for document in DOCUMENTS {
        let Ok(text) = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)) else {
            assert_ne!(document, "SECURITY.md", "it is there");
            continue;
        };
        assert_eq!(missing(&text, &there), Vec::<(&str, &str)>::new(), "{document} names tests that are not there");
    }
}

#[test]
fn every_promise_names_a_test() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("SECURITY.md")).unwrap();
    let promises = text.split("## Promises").nth(1).unwrap().split("\n## ").next().unwrap();
    // Each begins with its number and bold words.
    let mut all: Vec<String> = Vec::new();
    for line in promises.split_inclusive('\n') {
        if line.split_once(". **").is_some_and(|(number, _)| number.parse::<u32>().is_ok()) {
            all.push(String::new());
        }
        if let Some(promise) = all.last_mut() {
            promise.push_str(line);
        }
    }
    for (promise, number) in all.iter().zip(1..) {
        assert!(promise.starts_with(&format!("{number}. ")), "promise {number} has another number: {promise}");
        assert!(!named(promise).is_empty(), "promise {number} names no test: {promise}");
    }
    let number = all.len();
    assert!(number > 20, "{number} promises were found");
}

#[test]
fn a_name_without_a_test_is_found_out() {
    let there = tests();
    let broken = "`promises::no_such_test_is_there` `nowhere::a_name_without_a_test_is_found_out`";
    assert_eq!(missing(broken, &there).len(), 2);
    // Not every function is a test.
    assert_eq!(missing("`support/mod::is_not_a_test`", &there).len(), 1);
    assert!(
        missing("`promises::a_name_without_a_test_is_found_out` `it/promises.rs::every_promise_names_a_test`", &there)
            .is_empty()
    );
    assert!(missing("`run::enforced` and `std::fs::read_dir`", &there).is_empty());
    assert!(missing("`seam/losses::refused_without_seccomp`", &there).is_empty());
    assert_eq!(in_file("#[test]\n#[cfg(unix)]\nfn a_b_c() {}\nfn d_e_f() {}\n"), ["a_b_c"]);
}

/// The list of hazards of unpacking that this project began with has 45; a comment over a test says of which it is.
#[test]
fn every_hazard_of_unpacking_has_a_test() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/privileged");
    let mut covered = std::collections::BTreeSet::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        // The label, perhaps more comments, then the test.
        for (at, label) in lines.iter().enumerate().filter_map(|(at, line)| Some((at, line.strip_prefix("// A")?))) {
            let next = lines[at + 1..].iter().find(|line| !line.starts_with("//"));
            if next == Some(&"#[test]") {
                let numbers = label.split([',', ':']).map(|word| word.trim().trim_start_matches('A'));
                covered.extend(numbers.map_while(|number| number.parse::<u32>().ok()));
            }
        }
    }
    let missing: Vec<u32> = (1..=45).filter(|number| !covered.contains(number)).collect();
    assert!(missing.is_empty(), "no test is labelled for {missing:?}");
}
