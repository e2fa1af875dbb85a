//! What an RO-Crate of a run is made of, for both kinds.
//!
//! Takes and gives facts; trusts who put them together; refuses nothing.

use super::known::Known;
use super::released::Released;
use crate::image::reference::Reference;
use crate::image::registry_host::is_loopback;

/// The Five Safes profile.
pub const FIVE_SAFES: &str = "https://w3id.org/5s-crate/0.4";
/// The profile of the nested crate.
pub const WORKFLOW: &str = "https://w3id.org/workflowhub/workflow-ro-crate/1.0";
/// The document.
pub const METADATA: &str = "ro-crate-metadata.json";

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Process Run Crate 0.5.
    Process,
    /// Five Safes RO-Crate 0.4.
    FiveSafes,
}

/// A file of the crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its name in the crate.
    pub name: String,
    /// What it is, in words.
    pub description: String,
    /// Its bytes.
    pub bytes: u64,
    /// SHA-256 of it.
    pub sha256: String,
    /// Its media type, by content.
    pub media: String,
}

/// What a crate is made of.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The run.
    pub run: &'a Released,
    /// The site.
    pub known: &'a Known<'a>,
    /// Files that the run left.
    pub outputs: &'a [Item],
    /// The record as it may leave.
    pub record: &'a Item,
    /// Other files: the pre-check.
    pub others: &'a [Item],
    /// When the image was pulled, where the store still has it.
    pub pulled: Option<&'a str>,
}

/// A moment as Process Run Crate's rules know it, which is without `Z`.
pub fn moment(time: &str) -> String {
    time.strip_suffix('Z').map_or_else(|| time.to_owned(), |time| format!("{time}+00:00"))
}

/// An address of the image.
pub fn image_address(facts: &Facts<'_>) -> String {
    let run = facts.run;
    match run.image.parse::<Reference>() {
        Ok(image) if !is_loopback(image.host()) => {
            format!("https://{}/{}@{}", image.host(), image.repository(), run.digest)
        }
        _ => format!("{}images/{}", facts.known.url, run.digest),
    }
}
