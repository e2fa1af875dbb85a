//! From a verb to its file.

use crate::cli::{Command, Global, PullArgs};
use crate::commands::{
    Context, approve, audit, bundle, completions, doctor, events, exec, export, fsck, image_request, images, inspect,
    logs, manual, metrics, outputs, policy, precheck, prune, ps, pull, records, rehearse, report, rerun, rmi, run,
    runs, show, stack, verify, vulndb,
};
use crate::error::Result;
use crate::run::supervisor::spawn::Started;

/// Runs the verb, and gives the exit status.
///
/// # Errors
/// The verb's.
pub fn dispatch(global: &Global, command: &Command, started: Option<Started>) -> Result<u8> {
    run_verb(global, command, started).map_err(|error| events::refused(global, command, error))
}

fn run_verb(global: &Global, command: &Command, started: Option<Started>) -> Result<u8> {
    match command {
        Command::Policy(command) => policy::run(global, command),
        Command::Version(args) => manual::version(args),
        Command::Completions(args) => completions::completions(global, args),
        Command::Man(args) => manual::man(args),
        Command::Pull(args) => pull::pull(&Context::new(global)?, &pull_args(global, args)).map(|()| 0),
        Command::Images(args) => images::images(&Context::new(global)?, args, global.quiet).map(|()| 0),
        Command::Rmi(args) => rmi::rmi(&Context::new(global)?, args).map(|()| 0),
        Command::Prune(args) => prune::prune(&Context::new(global)?, args),
        Command::Fsck(args) => {
            fsck::fsck(&Context::new(global)?, &fsck::FsckArgs { repair: args.repair, json: args.json })
        }
        Command::Inspect(args) => {
            let asked = inspect::InspectArgs { image: args.image.clone() };
            inspect::inspect(&Context::new(global)?, &asked).map(|()| 0)
        }
        Command::Stack(args) => stack::stack(global, args),
        Command::Run(args) => run::run(global, args, started),
        Command::Rehearse(args) => rehearse::rehearse(global, args),
        Command::Bundle(args) => bundle::bundle(global, args),
        Command::Spec(args) => bundle::spec(global, args),
        Command::Doctor(args) => doctor::doctor(global, args),
        Command::Ps(args) => ps::ps(global, args),
        Command::Stop(args) => ps::stop(global, args),
        Command::Logs(args) => logs::logs(global, args),
        Command::Exec(args) => exec::exec(global, args),
        Command::Runs(args) => runs::runs(global, args),
        Command::Show(args) => show::show(global, args),
        Command::Record(args) => records::record(global, args),
        Command::Outputs(args) => outputs::outputs(global, args),
        Command::Verify(args) => verify::verify(global, args),
        Command::Precheck(args) => precheck::precheck(global, args),
        Command::Report(args) => report::report(global, args),
        Command::Export(args) => export::export(global, args),
        Command::Rerun(args) => rerun::rerun(global, args),
        Command::Request(args) => image_request::request(global, args),
        Command::Approve(command) => approve::approve(global, command),
        Command::Audit(command) => audit::audit(global, command),
        Command::Metrics(args) => metrics::metrics(global, args),
        Command::Vulndb(command) => vulndb::vulndb(&Context::new(global)?, command, global.quiet),
    }
}

fn pull_args(global: &Global, args: &PullArgs) -> pull::PullArgs {
    pull::PullArgs {
        source: args.source.clone(),
        username: args.username.clone(),
        password: args.token.as_ref().map(|token| token.0.clone()),
        password_stdin: args.password_stdin,
        creds: args.creds.clone(),
        platform: args.platform.clone(),
        name: args.name.clone(),
        quiet: global.quiet,
        json: args.json,
    }
}
