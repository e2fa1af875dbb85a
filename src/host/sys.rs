//! System calls that need `unsafe`; the only file that may contain it.
#![allow(unsafe_code, reason = "this file is the fence around every unsafe block")]
