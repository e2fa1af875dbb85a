//! A run's outputs and what is known of them, in a form that other programs check.
//!
//! Takes the list of outputs, an open directory of them, and documents; gives a new directory; trusts the list, which the record has
//! the hash of; refuses an output that is not what the list says, and a name that the form cannot have. What is exported is a copy.

/// The texts of a bag.
pub mod bag;
/// A new directory, and what is written into it.
pub mod tree;
