//! Tests that need root or user namespaces; every test name is a promise.
