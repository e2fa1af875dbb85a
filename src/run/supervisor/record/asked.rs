//! What was asked for in a run, as far as it may be kept.
//!
//! Takes a request; gives what `ces rerun` can ask again; trusts nothing; refuses what is long, and what is to be withheld.

use serde::{Deserialize, Serialize};

use crate::evidence::redact::Redacted;
use crate::policy::request::RunRequest;

/// What was asked for in `ces run`, so that `ces rerun` can ask again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// All but image, command and variables.
    pub options: RunRequest,
    /// Instead of the image's entrypoint; none: the image's own, or withheld.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Arguments after the image; none: withheld.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
}

impl Asked {
    /// Nothing longer is kept, as JSON in bytes.
    const LONGEST: usize = 8 << 10;

    /// What may be kept of a request, if nothing of the command that came of it `is_withheld`; none where that is long.
    pub fn of(request: &RunRequest, is_withheld: bool) -> Option<Self> {
        // Even if words of the image's own are withheld: options alone, behind what the image executes.
        let options_alone = || {
            let command: Vec<String> = [String::new()].into_iter().chain(request.args.iter().cloned()).collect();
            request.entrypoint.is_none() && Redacted::of(&command).withheld(&command) == 0
        };
        let is_whole = !is_withheld || options_alone();
        let entrypoint = request.entrypoint.clone().filter(|_| is_whole);
        let args = is_whole.then(|| request.args.clone());
        let asked = Self { options: request.clone(), entrypoint, args };
        let length = serde_json::to_vec(&asked).map_or(usize::MAX, |text| text.len());
        (length <= Self::LONGEST).then_some(asked)
    }
}
