//! The life of an approval: a researcher asks, somebody decides, the list of approved images says so until a day.
//!
//! Takes requests and decisions; gives files that root alone can read (requests) and change (the list); trusts the caller's
//! identity as `host::caller` found it; refuses more than so many requests of one researcher, and to change a list that does not
//! read as one.
//!
//! What the list means for a run is `policy::approved`'s to say: nothing here decides that.

/// A request, as it is kept.
pub mod image_request;
/// Requests on disk.
pub mod requests;
/// The text of the list with one thing changed.
pub mod edit;
/// The list on disk.
pub mod file;
