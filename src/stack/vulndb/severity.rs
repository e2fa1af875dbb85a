//! How bad a vulnerability is, in the five words of CVSS, and "unknown".
//!
//! Takes CVSS vectors and the words that advisories use; gives a level; trusts the scoring of the `cvss` crate; what is neither is
//! unknown, which most records of language ecosystems are: it is a level of its own and never taken for a low one.

use serde::{Deserialize, Serialize};

/// The level, as CVSS names it ("Qualitative severity rating scale", CVSS v3.1, 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nobody has said.
    #[default]
    Unknown,
    /// 0.
    None,
    /// Below 4.
    Low,
    /// Below 7.
    Medium,
    /// Below 9.
    High,
    /// 9 and more.
    Critical,
}

impl Severity {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::None => "none",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// From a CVSS vector of version 3.0, 3.1 or 4.0; unknown where it is none.
    pub fn of_vector(vector: &str) -> Self {
        if vector.len() > 512 {
            return Self::Unknown;
        }
        match vector.parse::<cvss::Cvss>().map(|cvss| cvss.severity()) {
            Ok(cvss::Severity::None) => Self::None,
            Ok(cvss::Severity::Low) => Self::Low,
            Ok(cvss::Severity::Medium) => Self::Medium,
            Ok(cvss::Severity::High) => Self::High,
            Ok(cvss::Severity::Critical) => Self::Critical,
            Err(_) => Self::Unknown,
        }
    }

    /// From the words of advisories: GitHub's, Red Hat's, Ubuntu's, Debian's urgencies.
    pub fn of_word(word: &str) -> Self {
        match word.trim_end_matches('*').to_ascii_lowercase().as_str() {
            "none" => Self::None,
            "negligible" | "low" => Self::Low,
            "medium" | "moderate" => Self::Medium,
            "high" | "important" => Self::High,
            "critical" => Self::Critical,
            _ => Self::Unknown,
        }
    }

    /// From the beginning of an advisory's title, where its kind has one: `Important: kernel security update`.
    pub fn of_title(id: &str, title: &str) -> Self {
        let rated = ["ALSA-", "RLSA-", "RHSA-", "RXSA-"].iter().any(|kind| id.starts_with(kind));
        match title.split_once(':') {
            Some((word, _)) if rated => Self::of_word(word),
            _ => Self::Unknown,
        }
    }
}
