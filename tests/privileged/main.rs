//! Tests that need root or user namespaces; every test name is a promise.

mod image_support;
mod registry;
mod store;
mod unpack;
mod unpack_hazards;
mod unpack_in_turn;
