//! Decisions with their reasons, as they are taken.

/// One decision, for `ces policy explain` and the record.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Decision {
    /// What was decided.
    pub what: String,
    /// How.
    pub value: String,
    /// The rule or request it comes from.
    pub because: String,
}

/// Collects decisions.
#[derive(Debug, Default)]
pub(super) struct Log(pub(super) Vec<Decision>);

impl Log {
    /// One more.
    pub(super) fn note(&mut self, what: &str, value: impl Into<String>, because: impl ToString) {
        self.0.push(Decision { what: what.to_owned(), value: value.into(), because: because.to_string() });
    }
}
