//! `ces` runs approved container images on sensitive data in Trusted Research Environments.
//!
//! Read the modules in this order; data flows from the top to the bottom and never back:
//!
//! bytes from outside → layers on disk → policy + image config → a bundle → a run → a record.

/// What can go wrong, as one small type: stage, kind, message, causes, hint.
pub mod error;
/// Text from outside, made harmless before a terminal sees it.
pub mod text;
/// Work on a long list, on all processors.
pub mod parallel;
/// What this kernel and machine offer: system calls, identity maps, directories, control groups.
pub mod host;
/// The audit log: events of every later stage, tied together and signed.
pub mod evidence;
/// From a reference to layers on disk: registry, layouts and archives, store, unpacking.
pub mod image;
/// The software stack of an image: what is in it, who brought it, what is known against it.
pub mod stack;
/// The site's rules, and what a request may have under them.
pub mod policy;
/// Requests for the approval of images, and the list of those that are.
pub mod approval;
/// From image, policy and identity to an OCI bundle: root file system, runtime spec, seccomp.
pub mod bundle;
/// From a bundle to an outcome: namespaces, engine, the enforced check, supervision, outputs, record.
pub mod run;
/// What a program can see of outputs before a person looks.
pub mod precheck;
/// One page for whoever checks the outputs of a run.
pub mod report;
/// A run's outputs in a form that other programs check.
pub mod export;
/// From what a rehearsal has seen to what an image lacks.
pub mod rehearsal;
/// The command line; its doc comments are the help.
pub mod cli;
/// One file a verb: straight-line scripts over the stages above.
pub mod commands;
