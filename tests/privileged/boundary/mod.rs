//! What a researcher whose one right is `sudo ces` tries against the host and against the others on it. After each attack nothing
//! outside has changed (`Canary`), and nothing was learnt (`SECRETS`).

/// Places that a caller names, and pages written through links.
mod places;
/// Documents that nobody but root could have written, and odd all the same.
mod journals;
/// What runs under another name than `ces`.
mod entries;
/// A bundle beside a process that exchanges its directories.
mod bundles;
/// Images from files that are not the caller's, from registries that are.
mod images;
/// Where safe data really is.
mod safe_data;
/// What a rehearsal is given in the place of data, and what it leaves.
mod rehearsed;
/// What is given to a researcher after a run.
mod hand_over;
/// What a killed run left, with something else in its place.
mod sweeps;
/// What comes with a call: limits and signals of the caller's shell, names of others' runs, secrets.
mod calls;
/// Signals, control groups and scheduling, with which a researcher would hold up what everybody waits for.
mod held_up;
/// Every verb with every option that names a place.
mod matrix;
