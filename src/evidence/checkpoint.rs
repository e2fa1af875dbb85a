//! The signed state of a log: how many lines it has, and the root of the tree over them.
//!
//! Takes a checked log; gives a checkpoint, which stands for every line up to it: a log that was shortened, or changed before
//! it, does not have that root any more. The text is that of C2SP's tlog-checkpoint; the signature is an SSHSIG of OpenSSH's
//! PROTOCOL.sshsig, so that `ssh-keygen -Y verify` checks it without `ces`.
//!
//! It trusts the key, which lies on the host: it shows tampering by others than root. Against root of this host only a copy
//! of the checkpoint helps that was carried where root cannot write; every checkpoint says which of the two it is.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;

use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{HashAlg, LineEnding, PrivateKey, PublicKey, SshSig};

use crate::error::{Error, Kind, Result, Stage};
use crate::evidence::line::hex;
use crate::evidence::replace::replace;
use crate::evidence::tree::Hash;
use crate::host::privilege::Root;
use crate::host::site_dir::SiteDir;

/// What the signatures are for (`ssh-keygen -n`).
pub const NAMESPACE: &str = "ces-audit-checkpoint";
/// The first word of every checkpoint.
const ORIGIN: &str = "ces-audit";
/// What a signature by a key of this host shows.
const LEVEL: &str =
    "level: host key (shows tampering by others than root of this host; carry this file elsewhere for a witness)";
const LARGEST: u64 = 64 << 10;

/// A state of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Whose log it is, as its files are called.
    pub host: String,
    /// How many lines there are.
    pub size: u64,
    /// The root of the tree over them.
    pub root: Hash,
    /// What the clock said.
    pub time: String,
}

impl Checkpoint {
    /// Its text, which is what is signed.
    pub fn text(&self) -> String {
        let Self { host, size, root, time } = self;
        format!("{ORIGIN}/{host}\n{size}\n{}\ntime: {time}\n{LEVEL}\n", hex(root))
    }

    /// Reads such a text.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self> {
        let parsed = || {
            let mut lines = text.lines();
            let host = lines.next()?.strip_prefix(ORIGIN)?.strip_prefix('/')?.to_owned();
            let size = lines.next()?.parse().ok()?;
            let root = unhex(lines.next()?)?;
            let time = lines.next()?.strip_prefix("time: ")?.to_owned();
            Some(Self { host, size, root, time })
        };
        // Every byte counts: what is not written so was not written by ces.
        parsed().filter(|checkpoint| checkpoint.text() == text).ok_or_else(|| {
            Error::new(Stage::Record, Kind::Hostile, "this is no checkpoint of an audit log")
                .hint("it was changed, or is another file")
        })
    }
}

/// A hash from its digits.
pub fn unhex(digits: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(digits.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}

/// A checkpoint with its signature and the key that made it, as texts of OpenSSH.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The checkpoint.
    pub checkpoint: String,
    /// Its signature (`-----BEGIN SSH SIGNATURE-----`).
    pub signature: String,
    /// The public key.
    pub key: String,
}

impl Signed {
    /// The checkpoint, if the signature is that key's; whether the key is the right one is the reader's to know.
    ///
    /// # Errors
    /// When it is not.
    pub fn verified(&self) -> Result<Checkpoint> {
        let refused = |e: &dyn std::fmt::Display| {
            Error::new(Stage::Record, Kind::Hostile, "the signature of the checkpoint does not hold")
                .because(e)
                .hint("it was changed, or signed by another key")
        };
        let key = PublicKey::from_openssh(&self.key).map_err(|e| refused(&e))?;
        let signature: SshSig = self.signature.parse().map_err(|e: ssh_key::Error| refused(&e))?;
        key.verify(NAMESPACE, self.checkpoint.as_bytes(), &signature).map_err(|e| refused(&e))?;
        Checkpoint::parse(&self.checkpoint)
    }

    /// The fingerprint of the key, as `ssh-keygen -l` shows it.
    pub fn fingerprint(&self) -> String {
        PublicKey::from_openssh(&self.key).map(|key| key.fingerprint(HashAlg::Sha256).to_string()).unwrap_or_default()
    }
}

/// The last checkpoint of a host; none where there is none.
///
/// # Errors
/// When there is half of one, it could have been written by others, or its signature does not hold.
pub fn last(_: &Root, dir: &SiteDir, host: &str) -> Result<Option<(Signed, Checkpoint)>> {
    let Some(text) = read(dir, &format!("{host}.checkpoint.sig"))? else {
        return match read(dir, &format!("{host}.checkpoint"))? {
            None => Ok(None),
            Some(_) => Err(fail("find the signature of the last checkpoint")),
        };
    };
    let checkpoint = read(dir, &format!("{host}.checkpoint"))?.ok_or_else(|| fail("find the last checkpoint"))?;
    let signers = read(dir, &format!("{host}.signers"))?.ok_or_else(|| fail("find who signed the last checkpoint"))?;
    let key =
        signers.split_whitespace().skip_while(|word| *word != "ssh-ed25519").take(2).collect::<Vec<_>>().join(" ");
    let signed = Signed { checkpoint, signature: text, key };
    let checkpoint = signed.verified()?;
    Ok(Some((signed, checkpoint)))
}

/// Signs a checkpoint with the host's key, which is made where there is none, and puts it in the place of the last one.
///
/// # Errors
/// When it cannot be signed or written.
pub fn sign(_: &Root, dir: &SiteDir, checkpoint: &Checkpoint) -> Result<Signed> {
    let host = &checkpoint.host;
    let key = host_key(dir, host)?;
    let text = checkpoint.text();
    let signature = SshSig::sign(&key, NAMESPACE, HashAlg::Sha512, text.as_bytes())
        .and_then(|signature| signature.to_pem(LineEnding::LF))
        .map_err(|e| fail("sign the checkpoint").because(e))?;
    let public = key.public_key().to_openssh().map_err(|e| fail("write the public key").because(e))?;
    let public = public.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    put(dir, &format!("{host}.signers"), format!("{host} namespaces=\"{NAMESPACE}\" {public}\n").as_bytes())?;
    // Two files cannot be replaced at once; a kill in between is told by the signature, and the next checkpoint mends it.
    put(dir, &format!("{host}.checkpoint"), text.as_bytes())?;
    put(dir, &format!("{host}.checkpoint.sig"), signature.as_bytes())?;
    Ok(Signed { checkpoint: text, signature, key: public })
}

/// The key of this host, which is made where there is none.
///
/// # Errors
/// When it cannot be read or made.
pub(super) fn host_key(dir: &SiteDir, host: &str) -> Result<PrivateKey> {
    let name = format!("{host}.key");
    if let Some(text) = read(dir, &name)? {
        return PrivateKey::from_openssh(&text).map_err(|e| fail("read the key of this host").because(e));
    }
    let mut seed = [0; 32];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut seed))
        .map_err(|e| fail("draw a key").because(e))?;
    let pair = KeypairData::from(Ed25519Keypair::from_seed(&seed));
    let key = PrivateKey::new(pair, format!("{ORIGIN}/{host}")).map_err(|e| fail("make a key").because(e))?;
    let text = key.to_openssh(LineEnding::LF).map_err(|e| fail("write a key").because(e))?;
    put(dir, &name, text.as_bytes())?;
    Ok(key)
}

fn read(dir: &SiteDir, name: &str) -> Result<Option<String>> {
    let Some(file) = dir.document(OsStr::new(name))? else { return Ok(None) };
    let mut text = String::new();
    file.take(LARGEST).read_to_string(&mut text).map_err(|e| fail("read").because(format!("{name}: {e}")))?;
    Ok(Some(text))
}

fn put(dir: &SiteDir, name: &str, text: &[u8]) -> Result<()> {
    replace(dir, name, text).map_err(|e| fail("write").because(format!("{}: {e}", dir.join(name).display())))
}

fn fail(what: &str) -> Error {
    Error::new(Stage::Record, Kind::Failed, format!("cannot {what}"))
        .hint("ces audit checkpoint makes a new one once ces audit verify finds nothing")
}
