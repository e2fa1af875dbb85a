//! `regex`, as far as the dependencies of ces use it: [`regex_lite`].
//!
//! libcontainer, oci-client and oci-spec match a handful of short ASCII patterns. The tables of Unicode that `regex` has for that are
//! a third of what the dynamic loader relocates whenever ces is executed, which is twice in every run (439 KB of pointers, 304 KB
//! without). `regex-lite` has the same interface and the same guarantee of linear time.

pub use regex_lite::*;
