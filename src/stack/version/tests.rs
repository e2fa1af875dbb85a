use std::cmp::Ordering::{self, Equal, Less};

use proptest::prelude::*;

use super::Order;

const ALL: [Order; 9] =
    [Order::Deb, Order::Rpm, Order::Apk, Order::Pep440, Order::Semver, Order::Go, Order::Maven, Order::Gem, Order::R];

fn holds(order: Order, chain: &[(&str, Ordering, &str)]) {
    for (a, want, b) in chain {
        assert_eq!(order.cmp(a, b), Some(*want), "{order:?}: {a} {want:?} {b}");
        assert_eq!(order.cmp(b, a), Some(want.reverse()), "{order:?}: {b} and {a}");
    }
}

/// Each is earlier than all that follow it.
fn ascends(order: Order, versions: &[&str]) {
    for (at, a) in versions.iter().enumerate() {
        assert_eq!(order.cmp(a, a), Some(Equal), "{order:?}: {a}");
        for b in &versions[at + 1..] {
            holds(order, &[(a, Less, b)]);
        }
    }
}

#[test]
fn debian_versions_are_ordered_as_dpkg_orders_them() {
    ascends(
        Order::Deb,
        &["1.0~~", "1.0~~a", "1.0~", "1.0", "1.0-1", "1.0-1+b1", "1.0-1.1", "1.0a", "1.0+b1", "1.1", "1:0.1"],
    );
    holds(Order::Deb, &[("0:1.0", Equal, "1.0-0"), ("1.2.3-1~deb7u1", Less, "1.2.3-1"), ("2.09", Equal, "2.9")]);
}

#[test]
fn rpm_versions_are_ordered_as_rpm_orders_them() {
    ascends(
        Order::Rpm,
        &["1.0~rc1", "1.0~rc1^git1", "1.0", "1.0^git1", "1.0.1", "1.1", "1.1-1", "1.1-1.el9", "1.1-2", "1:0.1"],
    );
    holds(Order::Rpm, &[("10.0001", Equal, "10.1"), ("1.0a", Less, "1.0.1"), ("2_0", Equal, "2.0")]);
}

#[test]
fn alpine_versions_are_ordered_as_apk_orders_them() {
    ascends(
        Order::Apk,
        &["1.01", "1.1_alpha", "1.1_rc2", "1.1", "1.1-r1", "1.1_git2", "1.1_p1", "1.1a", "1.1.1", "1.10", "2"],
    );
}

#[test]
fn python_versions_are_ordered_as_pep_440_orders_them() {
    let all = [
        "1.0.dev456",
        "1.0a1",
        "1.0a2.dev456",
        "1.0a12.dev456",
        "1.0a12",
        "1.0b1.dev456",
        "1.0b2",
        "1.0b2.post345.dev456",
    ];
    let rest = [
        "1.0b2.post345",
        "1.0rc1.dev456",
        "1.0rc1",
        "1.0",
        "1.0+abc.5",
        "1.0+abc.7",
        "1.0+5",
        "1.0.post456.dev34",
        "1.0.post456",
        "1.1.dev1",
        "1!0.1",
    ];
    ascends(Order::Pep440, &[&all[..], &rest[..]].concat());
    for (a, b) in [
        ("1.0", "v1.0.0"),
        ("1.0-1", "1.0.POST1"),
        ("1.0c1", "1.0-preview_1"),
        ("1.0.dev", "1.0dev0"),
        ("1.0alpha", "1.0.a.0"),
    ] {
        holds(Order::Pep440, &[(a, Equal, b)]);
    }
}

#[test]
fn semantic_versions_are_ordered_as_their_specification_says() {
    ascends(
        Order::Semver,
        &[
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1.0.0",
        ],
    );
    holds(Order::Semver, &[("v1.2", Equal, "1.2.0+build"), ("0.8.7-0", Less, "0.8.7-alpha")]);
    ascends(
        Order::Go,
        &["go1.20.14", "1.21.0-0", "go1.21rc2", "go1.21", "go1.21.1", "go1.22.3 X:boringcrypto", "v1.22.4"],
    );
    holds(
        Order::Go,
        &[("v2.0.0+incompatible", Equal, "2.0.0"), ("v0.0.0-20240101000000-abcdef012345", Less, "v0.1.0")],
    );
}

#[test]
fn maven_versions_are_ordered_as_their_specification_says() {
    ascends(
        Order::Maven,
        &["1-alpha-1", "1-beta-1", "1-milestone-1", "1-rc", "1-SNAPSHOT", "1", "1-sp", "1-foo", "1-1", "1.1", "2"],
    );
    for (a, b) in
        [("1", "1.0.0"), ("1-ga", "1.final"), ("1cr", "1-RC"), ("1a1", "1-alpha-1"), ("1-foo", "1.0.0-foo.0.0")]
    {
        holds(Order::Maven, &[(a, Equal, b)]);
    }
}

#[test]
fn ruby_and_r_versions_are_ordered_as_their_languages_order_them() {
    ascends(Order::Gem, &["0.9", "1.0.a.2", "1.0.b1", "1.0.rc1", "1.0", "1.0.1", "1.10"]);
    holds(Order::Gem, &[("1.0", Equal, "1"), ("1-1", Equal, "1.pre.1")]);
    ascends(Order::R, &["0.1-2", "0.2", "0.9", "0.75", "0.75.0", "1.0-0", "1.0-1"]);
    holds(Order::R, &[("0.01.0", Equal, "0.1-0")]);
}

#[test]
fn what_is_no_version_has_no_place() {
    let long = "1".repeat(super::LONGEST + 1);
    for order in ALL {
        for text in ["", " ", "1\n2", "1\u{1b}[2J", &long] {
            assert_eq!(order.cmp(text, "1.0"), None, "{order:?}: {text:?}");
            assert_eq!(order.cmp("1.0", text), None, "{order:?}: {text:?}");
        }
        assert!(order.accepts("1.0"), "{order:?}");
    }
    for (order, text) in [
        (Order::Deb, "a:1"),
        (Order::Deb, "1_0"),
        (Order::Apk, "1.2_blah"),
        (Order::Apk, "1-r"),
        (Order::Apk, "1..2"),
        (Order::Pep440, "0.1-bulbasaur"),
        (Order::Pep440, "1.0+"),
        (Order::Semver, "1.2.3.4"),
        (Order::Semver, "latest"),
        (Order::Go, "(devel)"),
        (Order::Gem, "1.0,2"),
        (Order::Gem, "junk"),
        (Order::R, "1.0a"),
    ] {
        assert_eq!(order.cmp(text, "1"), None, "{order:?}: {text}");
    }
}

/// Versions that are likely to be close to each other.
fn near(order: Order) -> BoxedStrategy<String> {
    let part = prop::sample::select(vec!["0", "00", "1", "01", "2", "10", "9"]);
    let text: &[&str] = match order {
        Order::Deb => &["~", "+", "a", "-", ".", "b", "1:", "~~"],
        Order::Rpm => &["~", "^", ".", "a", "-", "b", "_"],
        Order::Apk => &[".", "_rc", "_p", "a", "b", "-r", "~ab", "_alpha"],
        Order::Pep440 => &[".", "a", "rc", ".post", ".dev", "+l.", "+", "!", "b", "-"],
        Order::Semver | Order::Go => &[".", "-", "-a.", "+", "-rc.", "rc"],
        Order::Maven => &[".", "-", "-alpha-", "-sp-", "rc", ".x", "-snapshot", "ga"],
        Order::Gem => &[".", ".a", "-", ".rc", "b"],
        Order::R => &[".", "-"],
    };
    let joint = prop::sample::select(text.to_vec());
    (part.clone(), prop::collection::vec((joint, part), 0..5))
        .prop_map(|(first, rest)| rest.iter().fold(first.to_owned(), |text, (joint, part)| text + joint + part))
        .boxed()
}

fn triples() -> impl Strategy<Value = (Order, String, String, String)> {
    prop::sample::select(ALL.to_vec()).prop_flat_map(|order| (Just(order), near(order), near(order), near(order)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn every_order_is_total((order, a, b, c) in triples()) {
        let cmp = |a: &str, b: &str| order.cmp(a, b);
        prop_assert!(cmp(&a, &a).is_none_or(Ordering::is_eq), "{order:?} {a}");
        let (Some(ab), Some(bc), Some(ac)) = (cmp(&a, &b), cmp(&b, &c), cmp(&a, &c)) else { return Ok(()) };
        prop_assert_eq!(cmp(&b, &a), Some(ab.reverse()), "{:?} {} {}", order, a, b);
        if ab == bc || bc.is_eq() {
            prop_assert_eq!(ac, ab, "{:?} {} {} {}", order, a, b, c);
        } else if ab.is_eq() {
            prop_assert_eq!(ac, bc, "{:?} {} {} {}", order, a, b, c);
        }
    }

    #[test]
    fn no_text_makes_an_order_fail(order in prop::sample::select(ALL.to_vec()), a in ".{0,40}", b in "[0-9a-z.~^+:!_-]{0,40}") {
        prop_assert_eq!(order.cmp(&a, &b).map(Ordering::reverse), order.cmp(&b, &a));
    }
}
