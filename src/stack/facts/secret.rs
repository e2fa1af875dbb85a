//! What looks like a secret: its kind is told, never its value.
//!
//! Files are looked at whose names are those of keys, credentials and settings; in them, marks that keys and tokens have by
//! their issuers' own descriptions. A password without a mark is not found: this tells what is there, not that nothing is.

use super::split;

/// The largest file that is looked at; bundles of certificates, which are called like keys, are some hundred KiB.
pub const READ_MAX: usize = 4 << 20;

/// Names of files that hold credentials, whatever is around them.
const NAMES: [&str; 37] = [
    ".netrc",
    "_netrc",
    ".git-credentials",
    ".gitconfig",
    ".npmrc",
    ".yarnrc",
    ".yarnrc.yml",
    ".pypirc",
    ".pgpass",
    ".my.cnf",
    ".dockercfg",
    ".s3cfg",
    ".boto",
    ".vault-token",
    ".env",
    ".Renviron",
    ".Rprofile",
    "credentials",
    "credentials.json",
    "application_default_credentials.json",
    "rclone.conf",
    "hosts.yml",
    "hosts.yaml",
    "kubeconfig",
    "pip.conf",
    ".condarc",
    ".wgetrc",
    ".curlrc",
    ".bash_history",
    ".python_history",
    ".token",
    "token",
    "secrets.yml",
    "secrets.yaml",
    "secrets.json",
    ".htpasswd",
    "terraform.tfstate",
];
/// Extensions of files that hold keys or settings with passwords.
const EXTENSIONS: [&str; 8] = ["pem", "key", "ppk", "p12", "pfx", "jks", "keystore", "env"];
/// Ends of paths.
const ENDS: [&str; 5] = [".docker/config.json", ".git/config", ".kube/config", ".config/gh/hosts.yml", ".aws/config"];

/// Whether a file of that name and size may hold a secret.
pub fn may_be(path: &str, size: u64) -> bool {
    if size == 0 {
        return false;
    }
    let name = split(path).1;
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    NAMES.contains(&name)
        || EXTENSIONS.contains(&extension)
        || (name.starts_with("id_") && extension != "pub" && !name.contains(".py"))
        || (name.starts_with(".env.") && !name.ends_with(".example"))
        || ENDS.iter().any(|end| path.ends_with(end))
}

/// What sorts of secrets the bytes of the file at `path` seem to hold, each once.
pub fn read(bytes: &[u8], path: &str) -> Vec<&'static str> {
    let name = split(path).1;
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    if matches!(extension, "p12" | "pfx") && bytes.starts_with(b"\x30") {
        return vec!["key store (PKCS #12)"];
    }
    if matches!(extension, "jks" | "keystore") && bytes.starts_with(b"\xfe\xed\xfe\xed") {
        return vec!["key store (Java)"];
    }
    let text = String::from_utf8_lossy(bytes);
    let mut found = value(&text);
    let mut add = |what| {
        if !found.contains(&what) {
            found.push(what);
        }
    };
    match name {
        ".netrc" | "_netrc" if words_follow(&text, "password") => add("password (netrc)"),
        ".pgpass" if text.lines().any(|line| line.split(':').count() >= 5 && !line.starts_with('#')) => {
            add("password (PostgreSQL)");
        }
        ".htpasswd" if text.lines().any(|line| line.contains(":$")) => add("password hash"),
        ".vault-token" => add("token (Vault)"),
        ".npmrc" | ".yarnrc" | ".yarnrc.yml" if set(&text, &["_authToken", "_password", "_auth", "npmAuthToken"]) => {
            add("token (npm)");
        }
        ".dockercfg" | "config.json" if text.contains("\"auth\"") => add("password (registry)"),
        ".my.cnf" | ".pypirc" | ".s3cfg" | "rclone.conf"
            if set(&text, &["password", "pass", "secret_key", "token"]) =>
        {
            add("password (settings)");
        }
        _ => {}
    }
    found
}

/// What sorts of secrets a text seems to hold, by the marks that they have.
pub fn value(text: &str) -> Vec<&'static str> {
    // Mark, least length of what follows, and the kind.
    const TOKENS: [(&str, usize, &str); 18] = [
        ("ghp_", 36, "token (GitHub)"),
        ("gho_", 36, "token (GitHub)"),
        ("ghs_", 36, "token (GitHub)"),
        ("ghu_", 36, "token (GitHub)"),
        ("github_pat_", 60, "token (GitHub)"),
        ("glpat-", 20, "token (GitLab)"),
        ("hf_", 30, "token (Hugging Face)"),
        ("npm_", 36, "token (npm)"),
        ("pypi-AgE", 50, "token (PyPI)"),
        ("AKIA", 16, "key (AWS)"),
        ("ASIA", 16, "key (AWS)"),
        ("xoxb-", 20, "token (Slack)"),
        ("xoxp-", 20, "token (Slack)"),
        ("AIza", 35, "key (Google)"),
        ("sk-ant-", 40, "key (Anthropic)"),
        ("sk-proj-", 40, "key (OpenAI)"),
        ("dckr_pat_", 20, "token (Docker)"),
        ("hvs.", 24, "token (Vault)"),
    ];
    let mut found = Vec::new();
    let mut add = |what: &'static str| {
        if !found.contains(&what) {
            found.push(what);
        }
    };
    if text.contains("PRIVATE KEY-----") && text.contains("-----BEGIN ") {
        add("private key");
    }
    if text.contains("PuTTY-User-Key-File-") {
        add("private key (PuTTY)");
    }
    for (mark, least, what) in TOKENS {
        let is_token = |after: &str| {
            let body = after.bytes().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')).count();
            body >= least
        };
        let is_word = |at: usize| {
            at.checked_sub(1).and_then(|before| text.as_bytes().get(before)).is_none_or(|b| !b.is_ascii_alphanumeric())
        };
        let mut places = text.match_indices(mark);
        if places.any(|(at, _)| is_word(at) && text.get(at + mark.len()..).is_some_and(is_token)) {
            add(what);
        }
    }
    if set(text, &["aws_secret_access_key"]) {
        add("key (AWS)");
    }
    if text.contains("\"private_key\"") && text.contains("\"client_email\"") {
        add("key (Google service account)");
    }
    if text.split("://").skip(1).any(has_password) {
        add("password in an address");
    }
    found
}

/// Whether what follows `://` names a user with a password: `USER:PASSWORD@HOST`.
fn has_password(after: &str) -> bool {
    let authority = after.split(|c: char| c == '/' || c.is_whitespace() || c == '"' || c == '\'').next();
    let Some((user, _)) = authority.and_then(|authority| authority.rsplit_once('@')) else { return false };
    // Variables and examples are no passwords.
    let is_literal = |word: &str| word.len() >= 4 && !word.contains(['$', '<', '{', '*', '%']);
    user.split_once(':').is_some_and(|(name, password)| !name.is_empty() && is_literal(password))
}

/// Whether one of these names is given a value of some length.
fn set(text: &str, names: &[&str]) -> bool {
    let pairs = |mark| text.lines().filter_map(move |line| line.split_once(mark));
    pairs('=').chain(pairs(':')).any(|(name, value)| {
        let name = name.trim().trim_matches('"');
        let name = name.rsplit([':', ' ']).next().unwrap_or_default();
        let value = value.trim().trim_matches(['"', '\'']);
        let is_literal = value.len() >= 4 && !value.starts_with(['$', '<', '{']);
        is_literal && names.iter().any(|known| name.eq_ignore_ascii_case(known))
    })
}

fn words_follow(text: &str, word: &str) -> bool {
    text.split_whitespace().skip_while(|w| *w != word).nth(1).is_some()
}

/// Whether a variable's name says that its value is a secret.
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let parts: Vec<&str> = name.split(['_', '-', '.']).collect();
    const WORDS: [&str; 9] =
        ["PASSWORD", "PASSWD", "SECRET", "TOKEN", "APIKEY", "CREDENTIALS", "PASSPHRASE", "PRIVATEKEY", "PAT"];
    let pair = |a: &str, b: &str| parts.windows(2).any(|two| two == [a, b]);
    parts.iter().any(|part| WORDS.contains(part))
        || pair("API", "KEY")
        || pair("ACCESS", "KEY")
        || pair("PRIVATE", "KEY")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planted_secrets_are_found_by_kind() {
        let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXkt\n-----END OPENSSH PRIVATE KEY-----\n";
        let aws = "[default]\naws_access_key_id = AKIAQ3EXAMPLE7ZZZZZZ\naws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYzz\n";
        let git = "[remote \"origin\"]\n url = https://x-access-token:ghp_0123456789abcdefghijABCDEFGHIJ456789@github.com/lab/tool.git\n";
        for (path, text, kinds) in [
            ("root/.ssh/id_ed25519", key, vec!["private key"]),
            ("opt/keep/server.key", key, vec!["private key"]),
            ("root/.aws/credentials", aws, vec!["key (AWS)"]),
            ("opt/src/.git/config", git, vec!["token (GitHub)", "password in an address"]),
            ("root/.netrc", "machine pypi.example login u password hunter2hunter2\n", vec!["password (netrc)"]),
            ("root/.npmrc", "//registry.npmjs.org/:_authToken=0123456789abcdef\n", vec!["token (npm)"]),
            ("root/.docker/config.json", r#"{"auths":{"x":{"auth":"dTpw"}}}"#, vec!["password (registry)"]),
            ("root/.pgpass", "h:5432:d:u:secret\n", vec!["password (PostgreSQL)"]),
        ] {
            assert!(may_be(path, text.len() as u64), "{path}");
            assert_eq!(read(text.as_bytes(), path), kinds, "{path}");
        }
    }

    #[test]
    fn what_is_no_secret_is_not_told() {
        let certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        for (path, text) in [
            ("etc/ssl/cert.pem", certificate),
            ("opt/.env", "URL=https://user:$PASSWORD@host/\nNAME=x\n"),
            ("root/.npmrc", "registry=https://registry.npmjs.org/\n"),
            ("x/.git/config", "[remote \"origin\"]\n url = https://github.com/lab/tool.git\n url = ssh://git@host/x\n"),
            ("etc/pip.conf", "[global]\nindex-url = https://mirror.example/simple\n"),
        ] {
            assert!(read(text.as_bytes(), path).is_empty(), "{path}: {:?}", read(text.as_bytes(), path));
        }
        assert!(!may_be("root/.ssh/id_rsa.pub", 10) && !may_be("usr/bin/x", 10));
        assert!(is_secret_name("API_TOKEN") && is_secret_name("aws_secret_access_key") && !is_secret_name("PATH"));
        assert!(is_secret_name("OPENAI_API_KEY") && !is_secret_name("KEYBOARD"));
    }
}
