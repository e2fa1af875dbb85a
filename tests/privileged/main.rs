//! Tests that need root or user namespaces; every test name is a promise.

#![allow(clippy::duplicate_mod, reason = "what holds of a run is held against a rehearsal by the same tests")]
#![allow(clippy::print_stderr, reason = "a skip says why, loudly")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics is a test that fails")]

/// What a payload sees and what it may do.
mod run;
/// What becomes of arguments, users and configuration.
mod run_config;
/// Every field of an image's configuration.
mod image_config;
/// The same promises to whoever calls.
mod callers;
/// Hosts that say no, and odd homes.
mod hosts;
/// What only a host of one's own can show.
mod guest;
/// Commands of the documentation.
mod docs;
mod scripts;
/// Researchers whom no file below /etc knows.
mod name_services;
/// Several researchers, one store, one policy.
mod through_sudo;
mod store_holders;
/// What is in an image, and what the site allows of it.
mod stack;
mod stack_rules;
mod stack_managers;
mod stack_rpm;
mod stack_killed;
mod stack_languages;
/// What a run leaves, however odd, deep, hollow or many.
mod outputs;
/// What runs change in data that they may write.
mod changes;
/// Lists, pages and places of runs that are over.
mod past_runs;
/// Records, their index, the lists of outputs, and disks that fill up.
mod records;
/// Limits, deadlines and exit codes.
mod run_limits;
/// Places of the host and of memory that a run asks for.
mod mounts;
/// EPCC's commands, as they are published.
mod published;
/// Ports of the container on the host, inwards only.
mod ports;
/// Nothing is left, however a run ends.
mod run_cleanup;
/// Each bad input: one clear error, nothing ran.
mod run_bad_input;
/// Runs at a terminal.
mod terminal;
/// Standard input, output and error of a payload that has none.
mod streams;
/// Living with jobs: names, `ps`, `stop`, `logs`, detached runs.
mod jobs;
/// `ces exec`: the same restrictions, checked, recorded.
mod exec;
/// What the probe sees from inside: identity, namespaces, network, processes.
mod isolation;
/// Services of the host that listen in what is bound, and names that are none.
mod host_sockets;
/// What an image lacks, told before it goes in.
mod rehearse;
mod rehearsals;
mod rehearsed_programs;
mod rehearsed_badly;
mod rehearsed_beside_strace;
/// System calls made for real.
mod isolation_calls;
/// Files, mounts and devices, one by one.
mod isolation_files;
/// Names and texts from outside, as ces shows them.
mod shown;
/// The same bundles under crun and runc: calls, facts, documents.
mod portable;
/// Researchers who attack the host and each other.
mod boundary;
/// Payloads that take all they can get.
mod attacks;
mod audit;
/// What a run leaves for an officer.
mod evidence;
/// The end of a run: killed, large, and beside another host's.
mod ends;
/// Requests and approvals of images.
mod approvals;
/// The pre-check of outputs.
mod precheck;
/// Pages and exports of a run.
mod exports;
/// Exports as other programs see them.
mod crates;
/// From a request to an auditor.
mod officer;
/// What the engine would do by itself.
mod engine_traps;
/// Killed at any moment, out of descriptors, out of space.
mod faults;
/// Services that start as root and drop to another user, with data and a port.
mod services;
/// Users, groups and directories as images name them, and why a command is not executed.
mod run_identity;
/// Programs of Debian under the closed system calls.
mod programs;
/// Bundles under other runtimes, and a real image.
mod images_real;
/// Layers: ordinary, hostile, and those that speak of layers below them.
mod unpack;
mod unpack_as_user;
mod unpack_hazards;
mod unpack_archive;
mod unpack_bounds;
mod unpack_confined;
mod unpack_everywhere;
mod unpack_in_turn;
mod unpack_on_old_kernels;
/// The store under many hands, and under kill -9.
mod store;
mod store_crash;
mod store_disk;
/// Archives of images, compressed or with several images.
mod archives;
/// Images with users beyond the ids mapped here.
mod unmapped_ids;
/// Trees compared with what another unpacker makes of them.
mod differential;
/// How much an image may ask for.
mod limits;
/// The store against what was recorded.
mod fsck;
/// Registries, honest and lying.
mod registry;
mod registry_support;
/// Registries as they are found: busy, cut off, old, behind proxies.
mod registry_found;
/// Pulls through an HTTP proxy.
mod registry_proxy;
/// How an image that was pulled is found again.
mod image_names;
mod image_support;
/// What holds of a run, held against a rehearsal.
mod under_rehearse;
/// Tables and mistakes, word for word.
mod golden;
/// Small things that a person at the command line relies on.
mod plain_ways;
/// People who meet ces for the first time.
mod walk_throughs;
/// The same fault, told by all who can know it.
mod told_alike;
/// Vulnerability data, imported.
mod vulndb;
#[path = "../support/mod.rs"]
mod support;
