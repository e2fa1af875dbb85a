//! A stack for people and for programs.

/// What a page says, whatever it is written in.
pub mod page;
/// As text.
pub mod text;
/// As one HTML file.
pub mod html;
