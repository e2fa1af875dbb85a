//! The command line; the doc comments are the help.
