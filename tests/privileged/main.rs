//! Tests that need root or user namespaces; every test name is a promise.

mod image_support;
mod unpack;
