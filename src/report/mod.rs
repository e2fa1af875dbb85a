//! One page for whoever checks the outputs of a run, and one for whoever answers for a project.
//!
//! Takes facts of runs and a report of the pre-check; gives one HTML document that needs nothing else: no script, no other file, no
//! network; trusts nothing: what comes from outside can be text alone, by type; refuses nothing.

/// Markup that holds texts from outside as texts.
pub mod html;
/// What pages have in common.
pub mod style;
/// The page of a month.
pub mod month;
/// The page of one run.
pub mod page;
