//! Words as people write them, and what they are read as.

use super::*;
use clap::CommandFactory;

fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("ces").chain(words.iter().copied()))
}

fn run(words: &[&str]) -> RunArgs {
    match parse(words).unwrap().command {
        Command::Run(args) => args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn a_run_is_read_the_same_by_its_own_definition() {
    for line in [
        "ces run img",
        "ces -v --root /r run -it -q -e A=1 -e B --policy=/p img:1 python -e x --root",
        "ces run --root /r -v /a:/b --mount=type=tmpfs,dst=/x --read-only=false -p 1:2 -- img -- x",
        "ces run --opt-file f --env-file=g --memory 1g --cpus 2 --timeout 1h --profile service --name n -d img",
    ] {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let whole = Cli::try_parse_from(&words).unwrap();
        assert_eq!(format!("{:?}", run_alone(&words).unwrap()), format!("{whole:?}"), "{line}");
    }
    for line in [
        "ces run",
        "ces run --help",
        "ces --version run img",
        "ces exec a b",
        "ces run --no-such img",
        // What ces knows of podman's options is left to the whole.
        "ces run --privileged img",
        "ces run --network none img",
        "ces run -e",
    ] {
        assert!(run_alone(&line.split(' ').map(OsString::from).collect::<Vec<_>>()).is_none(), "{line}");
    }
}

#[test]
fn options_end_at_the_image() {
    let args = run(&["run", "-it", "-e", "A=1", "img:1", "python", "-e", "x", "--privileged", "-v"]);
    assert_eq!(args.image(), "img:1");
    assert_eq!(args.args(), ["python", "-e", "x", "--privileged", "-v"]);
    assert_eq!((args.options.interactive, args.options.tty), (Some(true), Some(true)));
    assert!(args.options.podman.given.is_empty());
    assert!(parse(&["run", "--no-such-option", "img"]).is_err());
    assert!(parse(&["run", "-e", "A=1"]).is_err());
    assert_eq!(run(&["run", "-i", "--", "img", "--", "x"]).words, ["img", "--", "x"]);
}

#[test]
fn switches_may_be_written_with_a_value_as_podman_allows() {
    let args = run(&["run", "--rm=true", "--init", "--read-only=false", "-t=false", "-i", "img"]);
    assert_eq!(args.options.read_only, Some(false));
    assert_eq!((args.options.tty, args.options.interactive), (Some(false), Some(true)));
    let want = [("rm".to_owned(), Some("true".to_owned())), ("init".to_owned(), Some("true".to_owned()))];
    assert_eq!(args.options.podman.given, want);
}

#[test]
fn podman_options_are_collected_with_their_values() {
    let args = run(&["run", "--network", "host", "--cap-add=SYS_ADMIN", "--cap-add", "NET_RAW", "-P", "img"]);
    let given: Vec<(&str, Option<&str>)> =
        args.options.podman.given.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    assert!(given.contains(&("network", Some("host"))) && given.contains(&("cap-add", Some("NET_RAW"))));
    assert!(given.contains(&("publish-all", Some("true"))) && given.len() == 4);
}

#[test]
fn v_is_verbose_before_the_verb_and_a_volume_after_run() {
    let cli = parse(&["-v", "run", "-v", "./a:/b", "img"]).unwrap();
    assert!(cli.global.is_verbose());
    let Command::Run(args) = cli.command else { panic!() };
    assert_eq!(args.options.volumes, ["./a:/b"]);
    assert!(parse(&["images", "--verbose", "-q", "--root", "/x"]).unwrap().global.is_verbose());
}

#[test]
fn a_bundle_has_an_image_and_a_directory() {
    let Command::Bundle(args) = parse(&["bundle", "--read-only", "img", "/tmp/b"]).unwrap().command else { panic!() };
    assert_eq!((args.image.as_str(), args.dir.to_str()), ("img", Some("/tmp/b")));
}

#[test]
fn a_run_is_known_as_one_even_when_malformed() {
    let is_run = |words: &[&str]| super::parse(&words.iter().map(OsString::from).collect::<Vec<_>>()).1;
    assert!(is_run(&["ces", "run", "--no-such-option"]));
    assert!(is_run(&["ces", "-q", "--root", "/x", "run"]));
    assert!(is_run(&["/usr/bin/ces-run"]));
    assert!(!is_run(&["ces", "rmi", "run"]) && !is_run(&["ces"]) && !is_run(&["ces-pull", "run"]));
}

#[test]
fn a_secret_is_never_shown() {
    assert!(!format!("{:?}", Secret("hunter2".to_owned())).contains("hunter2"));
}
