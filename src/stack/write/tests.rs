use serde_json::{Value, json};

use super::{cyclonedx, purl, spdx};
use crate::stack::package::{Package, PackageType};
use crate::stack::tests::{package, stack};

#[test]
fn package_urls_are_those_of_their_types_and_nothing_in_a_name_breaks_out() {
    let debian = stack(Vec::new()).distribution;
    for (kind, name, version, url) in [
        (PackageType::Deb, "zlib1g", "1:1.2.13", "pkg:deb/debian/zlib1g@1:1.2.13?distro=debian-12"),
        (PackageType::Rpm, "bash", "1:5.1-6.el9", "pkg:rpm/debian/bash@5.1-6.el9?distro=debian-12&epoch=1"),
        (PackageType::Pypi, "Some_Thing", "1.0+x", "pkg:pypi/some-thing@1.0%2Bx"),
        (PackageType::Npm, "@types/node", "20.1.0", "pkg:npm/%40types/node@20.1.0"),
        (PackageType::Maven, "org.a:b", "1", "pkg:maven/org.a/b@1"),
        (PackageType::Golang, "github.com/a/b/v2", "v2.0.0", "pkg:golang/github.com/a/b/v2@v2.0.0"),
        (PackageType::Gem, "a?b#c\"\n", "1 2", "pkg:gem/a%3Fb%23c%22%0A@1%202"),
    ] {
        assert_eq!(purl::of(&Package { name: name.to_owned(), ..package(kind, "x", version) }, debian.as_ref()), url);
    }
    let own = "pkg:deb/debian/zlib1g@1:1.2.13?arch=amd64&distro=debian-12";
    for (said, matches) in [
        ("pkg:deb/debian/zlib1g", true),
        ("pkg:deb/debian/zlib1g@1%3A1.2.13", true),
        ("pkg:deb/debian/zlib1g@1:1.2.13?arch=amd64", true),
        ("pkg:deb/debian/zlib1g@1:1.2.13?arch=arm64", false),
        ("pkg:deb/debian/zlib1", false),
        ("pkg:deb/ubuntu/zlib1g", false),
    ] {
        assert_eq!(purl::matches(said, own), matches, "{said}");
    }
}

#[test]
fn documents_are_the_same_twice_and_hold_what_the_image_says_as_text() {
    let hostile =
        Package { licence: Some("my \u{1b}[2J own".to_owned()), ..package(PackageType::Npm, "<script>", "1") };
    let licensed = Package { licence: Some("MIT".to_owned()), ..package(PackageType::Npm, "b", "2") };
    let stack = stack(vec![hostile, licensed]);
    let (bom, sbom) = (cyclonedx::document(&stack, None), spdx::document(&stack));
    assert_eq!((&bom, &sbom), (&cyclonedx::document(&stack, None), &spdx::document(&stack)));
    assert_eq!(bom["metadata"]["timestamp"], stack.pulled);
    assert_eq!(sbom["creationInfo"]["created"], "2026-11-29T08:00:00Z");
    let licences = |document: &Value, at: &str| document[at].clone();
    assert_eq!(
        licences(&bom["components"][2], "licenses"),
        json!([{"expression": "MIT", "acknowledgement": "declared"}])
    );
    assert_eq!(bom["components"][1]["licenses"][0]["license"]["name"], "my \u{1b}[2J own");
    assert_eq!(
        (&sbom["packages"][1]["licenseDeclared"], &sbom["packages"][2]["licenseDeclared"]),
        (&json!("NOASSERTION"), &json!("MIT"))
    );
}
