//! The orders of versions against published pairs: `versions/` of the directory that `CES_TEST_DATA` names (one pair a line,
//! `1.0 < 1.1`, as OSV-Scanner keeps them). Without that directory the tests beside the orders have small tables of their own.

use std::cmp::Ordering;
use std::path::PathBuf;

use ces::stack::version::Order;

/// File, order, and how many of its pairs have a version that is none by the package manager's own rules.
const FILES: [(&str, Order, usize); 15] = [
    ("debian-versions", Order::Deb, 0),
    ("debian-versions-generated", Order::Deb, 0),
    ("redhat-versions", Order::Rpm, 0),
    ("alpine-versions", Order::Apk, 37),
    ("alpine-versions-generated", Order::Apk, 58),
    ("pypi-versions", Order::Pep440, 11),
    ("pypi-versions-generated", Order::Pep440, 69),
    ("maven-versions", Order::Maven, 0),
    ("maven-versions-generated", Order::Maven, 0),
    ("cran-versions", Order::R, 0),
    ("cran-versions-generated", Order::R, 0),
    ("rubygems-versions", Order::Gem, 0),
    ("rubygems-versions-generated", Order::Gem, 0),
    ("semver-versions", Order::Semver, 1),
    ("semver-versions", Order::Go, 1),
];

#[test]
fn no_published_pair_is_ordered_wrongly() {
    let Some(directory) = std::env::var_os("CES_TEST_DATA").map(|data| PathBuf::from(data).join("versions")) else {
        eprintln!("not compared with published pairs: CES_TEST_DATA names no directory");
        return;
    };
    for (name, order, invalid) in FILES {
        let text = std::fs::read_to_string(directory.join(format!("{name}.txt"))).unwrap();
        let (mut pairs, mut wrong, mut refused) = (0, Vec::new(), Vec::new());
        for line in text.lines() {
            let [a, sign, b] = line.split_whitespace().collect::<Vec<_>>()[..] else { continue };
            let want = match sign {
                "<" => Ordering::Less,
                ">" => Ordering::Greater,
                "=" => Ordering::Equal,
                _ => continue,
            };
            pairs += 1;
            match (order.cmp(a, b), order.cmp(b, a)) {
                (Some(found), Some(back)) if found == want && back == want.reverse() => {}
                (None, None) => refused.push(line),
                _ => wrong.push(line),
            }
        }
        assert!(pairs > 15 && wrong.is_empty(), "{name}: of {pairs} pairs these are wrong: {wrong:?}");
        assert_eq!(refused.len(), invalid, "{name}: {order:?} has no place for {refused:?}");
    }
}
