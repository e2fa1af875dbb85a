//! What holds of a run, held against a rehearsal: the same tests, in which `ces rehearse` is called in the place of `ces run`
//! (`support::rehearsal`).

#[path = "../attacks.rs"]
mod attacks;
#[path = "../isolation.rs"]
mod isolation;
#[path = "../isolation_calls.rs"]
mod isolation_calls;
#[path = "../isolation_files.rs"]
mod isolation_files;
