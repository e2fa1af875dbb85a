//! A document with a signature over it: DSSE 1.0 (secure-systems-lab/dsse), Ed25519.
//!
//! Takes a document and its media type; gives an envelope; trusts the key, which is the one that signs checkpoints of the audit log:
//! its two uses cannot be taken for each other, for what is signed here begins with `DSSEv1` and there with `SSHSIG`. It refuses
//! nothing: who may have something signed is for its caller to say.

use serde::Serialize;
use ssh_key::{HashAlg, Signature, SigningKey};

use crate::error::{Error, Kind, Result, Stage};
use crate::evidence::base64::base64;
use crate::evidence::checkpoint::host_key;
use crate::host::privilege::Root;
use crate::host::site_dir::SiteDir;

/// An envelope, as JSON has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Envelope {
    /// The media type of the document.
    #[serde(rename = "payloadType")]
    pub payload_type: String,
    /// The document, in base64.
    pub payload: String,
    /// Signatures over both.
    pub signatures: Vec<Signed>,
}

/// A signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Signed {
    /// The fingerprint of the key, as `ssh-keygen -l` shows it.
    pub keyid: String,
    /// The signature, in base64.
    pub sig: String,
}

/// What is signed: the pre-authentication encoding, which ties the document to its type.
fn encoded(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

/// The document in an envelope that is signed with the key of `host`, and the public key as OpenSSH writes it.
///
/// # Errors
/// When the key cannot be read or made.
pub fn sign(_: &Root, dir: &SiteDir, host: &str, payload_type: &str, payload: &[u8]) -> Result<(Envelope, String)> {
    let fail = |e: ssh_key::Error| Error::new(Stage::Record, Kind::Failed, "cannot sign the document").because(e);
    let key = host_key(dir, host)?;
    let signature = raw(&key, &encoded(payload_type, payload)).map_err(fail)?;
    let signed =
        Signed { keyid: key.public_key().fingerprint(HashAlg::Sha256).to_string(), sig: base64(signature.as_bytes()) };
    let public = key.public_key().to_openssh().map_err(fail)?;
    let envelope =
        Envelope { payload_type: payload_type.to_owned(), payload: base64(payload), signatures: vec![signed] };
    Ok((envelope, public))
}

/// The signature of the algorithm itself, without the frame of an SSHSIG.
fn raw<K: SigningKey>(key: &K, message: &[u8]) -> std::result::Result<Signature, ssh_key::Error> {
    key.try_sign(message).map_err(|_| ssh_key::Error::Crypto)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_is_that_of_the_specification() {
        // The example of DSSE's protocol.md.
        let expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world";
        assert_eq!(encoded("http://example.com/HelloWorld", b"hello world"), expected);
    }
}
