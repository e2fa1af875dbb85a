//! What an image may be called.

use ces::image::reference::{Digest, Pick, Reference, Source};
use ces::image::registry_host::is_loopback;

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn references_are_read_and_written_alike() {
    let digest = format!("sha256:{HEX}");
    let table = [
        ("ghcr.io/lab/tool:1.0", "ghcr.io/lab/tool:1.0".to_owned()),
        ("ghcr.io/lab/tool", "ghcr.io/lab/tool:latest".to_owned()),
        ("localhost/x", "localhost/x:latest".to_owned()),
        ("localhost:5000/x/y/z:T_a-g.1", "localhost:5000/x/y/z:T_a-g.1".to_owned()),
        ("127.0.0.1:5000/x", "127.0.0.1:5000/x:latest".to_owned()),
        ("[::1]:5000/x", "[::1]:5000/x:latest".to_owned()),
        ("docker.io/library/debian:13", "docker.io/library/debian:13".to_owned()),
        ("a.b/c__d/e---f/g.h_i", "a.b/c__d/e---f/g.h_i:latest".to_owned()),
        (&format!("ghcr.io/x@{digest}"), format!("ghcr.io/x@{digest}")),
        (&format!("ghcr.io/x:1@{digest}"), format!("ghcr.io/x:1@{digest}")),
    ];
    for (text, expected) in table {
        let reference: Reference = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(reference.to_string(), expected);
        assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
    }
}

#[test]
fn what_could_become_another_path_or_url_is_no_reference() {
    let table = [
        "",
        "/",
        "tool",
        "lab/tool:1",
        "debian",
        ":",
        "@",
        "ghcr.io",
        "ghcr.io/",
        "ghcr.io//x",
        "ghcr.io/x/",
        "ghcr.io/X",
        "ghcr.io/x/../y",
        "ghcr.io/./x",
        "ghcr.io/.x",
        "ghcr.io/x.",
        "ghcr.io/x..y",
        "ghcr.io/x___y",
        "ghcr.io/x y",
        "ghcr.io/x?y",
        "ghcr.io/x#y",
        "ghcr.io/x%2e",
        "ghcr.io/x\n",
        "ghcr.io/x:",
        "ghcr.io/x:-1",
        "ghcr.io/x:a/b",
        "ghcr.io/x:a:b",
        "user@ghcr.io/x",
        "ghcr.io:0/x",
        "ghcr.io:99999/x",
        "ghcr.io:/x",
        "ghcr.io:80a/x",
        "-a.b/x",
        "a..b/x",
        "https://ghcr.io/x",
        "ghcr.io/x@sha256:abc",
        "ghcr.io/x@md5:d41d8cd98f00b204e9800998ecf8427e",
        "ghcr.io/x@sha256:../../../etc/passwd",
        "[::1/x",
        "[zz]/x",
        "ghcr.io/é",
    ];
    for text in table {
        assert!(text.parse::<Reference>().is_err(), "{text}");
    }
    assert!(format!("ghcr.io/{}", "a".repeat(300)).parse::<Reference>().is_err());
    assert!(format!("ghcr.io/x:{}", "a".repeat(129)).parse::<Reference>().is_err());
    assert!(format!("ghcr.io/x@sha256:{}", HEX.to_uppercase()).parse::<Reference>().is_err());
}

#[test]
fn a_reference_without_a_registry_is_told_how_to_name_one() {
    let report = "debian:13".parse::<Reference>().unwrap_err().report();
    assert!(report.contains("names no registry") && report.contains("docker.io/library/debian"), "{report}");
}

#[test]
fn digests_are_exactly_an_algorithm_and_its_digits() {
    assert_eq!(Digest::of(b"").as_str(), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    let long = format!("sha512:{HEX}{HEX}");
    assert!(long.parse::<Digest>().is_ok());
    for text in [
        HEX.to_owned(),
        format!("sha256:{}", &HEX[1..]),
        format!("sha256:{HEX}0"),
        format!("sha256::{}", &HEX[1..]),
        format!("sha256:{}g", &HEX[1..]),
        format!("SHA256:{HEX}"),
        format!("sha512:{HEX}"),
        format!("sha1:{}", &HEX[..40]),
        format!(" sha256:{HEX}"),
        format!("sha256:{HEX}\n"),
        format!("sha256:../{}", &HEX[3..]),
    ] {
        assert!(text.parse::<Digest>().is_err(), "{text:?}");
    }
}

#[test]
fn a_source_says_where_the_image_is_and_what_it_will_be_called() {
    let table = [
        ("ghcr.io/lab/tool:1", None, "ghcr.io/lab/tool:1"),
        ("docker://ghcr.io/lab/tool", None, "ghcr.io/lab/tool:latest"),
        ("oci:/tmp/Images/demo", None, "localhost/demo:latest"),
        ("oci:/tmp/Images/demo", Some("1.0"), "localhost/demo:latest"),
        ("oci:/tmp/Images/demo", Some("lab/tool:1.0"), "localhost/lab/tool:1.0"),
        ("oci:demo:analysis", None, "localhost/analysis:latest"),
        ("oci-archive:/tmp/tool.tar", None, "localhost/tool:latest"),
        ("oci-archive:/tmp/tool.tar", Some("1.0"), "localhost/1.0:latest"),
        ("oci-archive:tool.tar:tool:2", None, "localhost/tool:2"),
        ("docker-archive:/x/saved.tar", None, "localhost/saved:latest"),
        ("docker-archive:/x/Saved.tar.gz:@3", None, "localhost/saved:latest"),
        ("docker-archive:/x/saved.v2.tgz", None, "localhost/saved.v2:latest"),
        ("docker-archive:x.tar:ghcr.io:443/lab/tool:1", None, "localhost/lab/tool:1"),
        ("docker-archive:x.tar", Some("ghcr.io/lab/tool:1"), "localhost/lab/tool:1"),
        ("docker-archive:x.tar", Some("docker.io/library/debian:12"), "localhost/debian:12"),
        ("docker-archive:x.tar", Some("localhost/t/x"), "localhost/t/x:latest"),
        ("docker-archive:x.tar", Some("../../etc/passwd"), "localhost/x:latest"),
        ("docker-archive:x.tar", Some(""), "localhost/x:latest"),
    ];
    for (text, own, name) in table {
        let source: Source = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(source.default_reference(own).unwrap().to_string(), name, "{text}");
    }
    assert_eq!("oci:/a:/b".parse::<Source>().unwrap(), Source::Layout("/a:/b".into(), Pick::Only));
    let named = Pick::Named("ghcr.io:443/lab/x:1".to_owned());
    let parsed = "docker-archive:/a.tar:ghcr.io:443/lab/x:1".parse::<Source>().unwrap();
    assert_eq!(parsed, Source::DockerArchive("/a.tar".into(), named));
    assert_eq!("oci-archive:a.tar:@7".parse::<Source>().unwrap(), Source::LayoutArchive("a.tar".into(), Pick::At(7)));
    for text in
        ["oci:", "oci-archive:", "docker-archive:", "oci::tag", "ftp://x/y", "docker://tool", "oci:a:@", "oci:a:@-1"]
    {
        let parsed = text.parse::<Source>();
        assert!(parsed.is_err() || parsed.unwrap().default_reference(None).is_err(), "{text}");
    }
}

#[test]
fn only_this_machine_is_loopback() {
    for host in ["localhost", "localhost:5000", "127.0.0.1", "127.9.9.9:80", "[::1]", "[::1]:5000"] {
        assert!(is_loopback(host), "{host}");
    }
    for host in ["localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "[::2]", "0.0.0.0", "ghcr.io", ""] {
        assert!(!is_loopback(host), "{host}");
    }
}
