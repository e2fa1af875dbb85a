//! A run's outputs and what is known of them, in a form that other programs check.
//!
//! Takes the list of outputs, an open directory of them, and documents; gives a new directory; trusts the list, which the record has
//! the hash of; refuses an output that is not what the list says, and a name that the form cannot have. What is exported is a copy.

/// What of a record may leave.
pub mod released;
/// What the site says of itself, its people and projects.
pub mod known;
/// The texts of a bag.
pub mod bag;
/// Entities of an RO-Crate.
pub mod graph;
/// What an RO-Crate of a run is made of.
pub mod crate_facts;
/// What only a Five Safes crate has.
pub mod five_safes;
/// A run as an RO-Crate.
pub mod ro_crate;
/// What SACRO-Viewer opens.
pub mod sacro;
/// A run as an in-toto Statement.
pub mod in_toto;
/// A run as a task of TES.
pub mod tes;
/// A new directory, and what is written into it.
pub mod tree;
