//! One page for whoever checks the outputs of a run.
//!
//! Takes facts of a run and a report of the pre-check; gives one HTML document that needs nothing else: no script, no other file, no
//! network; trusts nothing: what comes from outside can be text alone, by type; refuses nothing.

/// Markup that holds texts from outside as texts.
pub mod html;
/// The page of one run.
pub mod page;
