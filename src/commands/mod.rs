//! One file a verb: straight-line scripts over the stages.

/// What every verb is given.
pub mod context;
/// From a verb to its file.
mod dispatch;
/// The only way to standard output.
pub mod print;
/// From options and the files they name to a request.
pub mod request;
/// Words after the image that were meant for ces.
mod after_image;
/// What a grant depends on, found out on this host.
pub mod facts;
/// What `run`, `spec`, `bundle` and `policy explain` have in common: everything up to the spec.
pub mod prepare;
/// Whether what is pulled may run here.
mod pull_outlook;
/// `ces pull`.
pub mod pull;
/// `ces images`.
pub mod images;
/// `ces rmi`.
pub mod rmi;
/// `ces prune`.
pub mod prune;
/// `ces fsck`.
pub mod fsck;
/// `ces inspect`.
pub mod inspect;
/// `ces stack`.
pub mod stack;
mod stack_verdict;
/// What the site's rules for stacks make of an image.
mod stack_gate;
/// Every approved image judged again.
mod stack_approved;
/// What a failed run may have wanted.
mod advice;
/// How scratch and outputs are bounded.
mod bounds;
/// What another of an image's users left in a bound directory.
mod others;
/// What of the host a run sees.
mod run_plan;
/// A run's journal and record.
mod run_record;
/// What `ces run` says.
mod run_report;
/// `ces run`.
pub mod run;
/// `ces rerun`.
pub mod rerun;
/// `ces rehearse`.
pub mod rehearse;
/// Where rehearsals are kept.
pub mod ticket;
/// `ces spec`, `ces bundle`.
pub mod bundle;
/// `ces ps`, `ces stop`.
pub mod ps;
/// `ces exec`.
pub mod exec;
/// `ces logs`.
pub mod logs;
/// `ces record`, and how records are found.
pub mod records;
/// `ces runs`.
pub mod runs;
/// `ces request`.
pub mod image_request;
/// `ces approve`.
pub mod approve;
/// `ces audit`.
pub mod audit;
/// What verbs tell the audit log.
mod events;
/// `ces verify`.
pub mod verify;
/// `ces precheck`.
pub mod precheck;
/// The list of a run's outputs, line by line.
mod listed;
/// What was done in a month.
mod month;
/// `ces report`.
pub mod report;
/// `ces export`.
pub mod export;
/// `ces show`.
pub mod show;
/// `ces vulndb`.
pub mod vulndb;
/// `ces outputs`.
pub mod outputs;
/// `ces outputs prune`.
mod outputs_prune;
/// `ces prune --records`.
mod records_prune;
/// What `ces doctor` and `ces policy check` have found.
mod finding;
/// `ces doctor`.
pub mod doctor;
/// `ces policy`.
pub mod policy;
/// `ces metrics`.
pub mod metrics;
/// `ces version`, `ces man`.
pub mod manual;
/// `ces completions`.
pub mod completions;

/// The same call through sudo.
mod elevate;

pub use context::{Context, Site};
pub use dispatch::dispatch;
pub use elevate::{take_over_call, through_sudo};
pub use run::start_stage;
