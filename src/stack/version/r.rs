//! The order of R's versions: `package_version` of base R ("Writing R Extensions", 1.1.1).
//!
//! Takes whole numbers with `.` or `-` between them; refuses everything else. More numbers are later than fewer.

use std::cmp::Ordering;

use super::{is_number, number};

/// Which is the later one.
pub fn cmp(a: &str, b: &str) -> Option<Ordering> {
    let (a, b) = (numbers(a)?, numbers(b)?);
    let place = a.iter().zip(&b).map(|(a, b)| number(a, b)).find(|later| later.is_ne());
    Some(place.unwrap_or_else(|| a.len().cmp(&b.len())))
}

fn numbers(text: &str) -> Option<Vec<&str>> {
    text.split(['.', '-']).map(|part| is_number(part).then_some(part)).collect()
}
