//! Options of podman that ces does not have, collected for the policy to judge; hidden from the help.
//!
//! Takes the table of `crate::policy::podman`; gives what the user wrote; trusts nothing; refuses nothing: judging comes
//! later, with the rule and the person to ask.

use std::cell::Cell;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::policy::podman::{OPTIONS, Takes};

/// The options given: long name and value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodmanOptions {
    /// In the table's order.
    pub given: Vec<(String, Option<String>)>,
}

thread_local! {
    static LEFT_OUT: Cell<bool> = const { Cell::new(false) };
}

/// Makes a definition without these options, of which hardly any call has one: they are most of all that a run knows, and
/// what is defined without them does not understand a call that has one.
pub fn left_out<T>(define: impl FnOnce() -> T) -> T {
    LEFT_OUT.set(true);
    let defined = define();
    LEFT_OUT.set(false);
    defined
}

fn augment(mut command: Command) -> Command {
    if LEFT_OUT.get() {
        return command;
    }
    for (long, short, takes, _) in OPTIONS {
        let arg = Arg::new(*long).long(*long).short(*short).hide(true).action(ArgAction::Append);
        command = command.arg(match takes {
            Takes::Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
            Takes::Value => arg.num_args(1).allow_hyphen_values(true),
        });
    }
    command
}

impl Args for PodmanOptions {
    fn augment_args(command: Command) -> Command {
        augment(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        augment(command)
    }
}

impl FromArgMatches for PodmanOptions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Vec::new();
        for (long, ..) in OPTIONS {
            for value in matches.try_get_many::<String>(long).ok().flatten().into_iter().flatten() {
                given.push(((*long).to_owned(), Some(value.clone())));
            }
        }
        Ok(Self { given })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
