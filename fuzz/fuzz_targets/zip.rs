#![no_main]
#[allow(dead_code)] // each target uses one of them
#[path = "../stack.rs"]
mod stack;
libfuzzer_sys::fuzz_target!(|data: &[u8]| stack::archive(data));
