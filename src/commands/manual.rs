//! `ces version`; `ces man`, for packages: both from the definition of the command line.

use clap::CommandFactory;
use serde_json::json;

use super::print;
use crate::cli::{COMMIT, Cli, ListArgs, ManArgs};
use crate::error::{Error, Kind, Result, Stage};

/// Prints version, commit and target.
///
/// # Errors
/// When standard output is closed.
pub fn version(args: &ListArgs) -> Result<u8> {
    if args.json {
        let (version, arch) = (env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
        print::json(&json!({"version": version, "commit": COMMIT, "os": std::env::consts::OS, "architecture": arch}))?;
    } else {
        print::line(Cli::command().render_long_version().trim_end())?;
    }
    Ok(0)
}

/// Every key of the policy with its explanation.
const POLICY: &str = include_str!("../../docs/policy.toml");

/// Writes a page for `ces` and one for each verb (section 1), and one for the policy (section 5).
///
/// # Errors
/// When the directory cannot be made or written.
pub fn man(args: &ManArgs) -> Result<u8> {
    let fail = |e: std::io::Error| {
        Error::new(Stage::Cli, Kind::Failed, format!("cannot write manual pages into {}", args.dir.display()))
            .because(e)
    };
    std::fs::create_dir_all(&args.dir).map_err(fail)?;
    clap_mangen::generate_to(Cli::command(), &args.dir).map_err(fail)?;
    std::fs::write(args.dir.join("ces-policy.toml.5"), policy_page()).map_err(fail)?;
    Ok(0)
}

/// `ces-policy.toml(5)`, as roff (man-pages(7)): the commented file itself, which has every key.
fn policy_page() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut page = format!(
        ".TH ces\\-policy.toml 5 \"\" \"ces {version}\"\n.SH NAME\nces\\-policy.toml \\- the site's policy of ces\n.SH SYNOPSIS\n\
         .I /etc/ces/policy.toml\n.SH DESCRIPTION\nThe rules for every run on this host. The file and the directories above it are to \
         be root's, and writable by root alone; a file that is malformed refuses every run. Every key may be left out: then a strict \
         built\\-in rule holds.\n.B ces policy check\ntells whether a file is valid,\n.B ces policy show\nwhat is in force.\n.SH KEYS\n.nf\n"
    );
    for line in POLICY.lines() {
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        // What begins with one of two characters would be a request of roff's.
        let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
        page.push_str(&format!("{guard}{line}\n"));
    }
    page + ".fi\n.SH SEE ALSO\n.BR ces (1),\n.BR ces\\-policy (1)\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_every_verb() {
        let dir = tempfile::tempdir().unwrap();
        man(&ManArgs { dir: dir.path().to_owned() }).unwrap();
        for page in ["ces.1", "ces-run.1", "ces-pull.1", "ces-policy-explain.1", "ces-policy.toml.5"] {
            assert!(dir.path().join(page).is_file(), "{page}");
        }
    }
}
