//! Tests that need root or user namespaces; every test name is a promise.

mod image_support;
mod registry;
mod store;
mod store_crash;
mod unpack;
mod unpack_as_user;
mod unpack_hazards;
mod unpack_in_turn;
