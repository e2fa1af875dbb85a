//! Masked comparisons that hold for all 32-bit values but some.
//!
//! Takes forbidden values; gives comparisons `(value & mask) == wanted` of which at least one holds for every other value
//! and none for a forbidden one; trusts nothing; refuses nothing.
//!
//! A filter can say "equal" and "masked equal" everywhere (seccompiler, libseccomp, runc, crun), "not equal" not so: it
//! compares 64 bits, of which the kernel uses 32, so a bit above would make a forbidden value look like another. The
//! forbidden values are leaves of a binary tree over the 32 bits; every branch without one is a comparison of ours.

/// `(value & mask) == wanted`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Masked {
    /// The bits compared.
    pub mask: u32,
    /// What they must be.
    pub wanted: u32,
}

/// The comparisons, nearest relatives of the forbidden values first: those are the values programs use (terminals), so
/// the filter answers soon.
pub fn all_but(forbidden: &[u32]) -> Vec<Masked> {
    let mut out = Vec::new();
    descend(forbidden, 0, 0, 32, &mut out);
    out.sort_by_key(|masked| std::cmp::Reverse(masked.mask.count_ones()));
    out
}

/// `wanted` is the path so far, `mask` its bits, `left` how many bits are open.
fn descend(forbidden: &[u32], mask: u32, wanted: u32, left: u32, out: &mut Vec<Masked>) {
    if !forbidden.iter().any(|value| value & mask == wanted) {
        out.push(Masked { mask, wanted });
    } else if let Some(bit) = left.checked_sub(1).map(|at| 1_u32 << at) {
        descend(forbidden, mask | bit, wanted, left - 1, out);
        descend(forbidden, mask | bit, wanted | bit, left - 1, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(cover: &[Masked], value: u32) -> bool {
        cover.iter().any(|m| value & m.mask == m.wanted)
    }

    #[test]
    fn two_values_need_few_comparisons() {
        let cover = all_but(&[0x5412, 0x541C]);
        assert_eq!(cover.len(), 34);
        assert!(!allowed(&cover, 0x5412) && !allowed(&cover, 0x541C));
        for value in [0, 0x5401, 0x5411, 0x5413, 0x541B, 0x541D, 0x8000_5412, 0x15412, u32::MAX] {
            assert!(allowed(&cover, value), "{value:#x}");
        }
        assert_eq!(all_but(&[]), [Masked { mask: 0, wanted: 0 }]);
    }

    proptest::proptest! {
        #[test]
        fn everything_is_covered_but_what_is_forbidden(
            forbidden in proptest::collection::vec(proptest::num::u32::ANY, 1..4),
            value in proptest::num::u32::ANY,
            bit in 0_u32..32,
        ) {
            let cover = all_but(&forbidden);
            // Random values, the forbidden ones, and their nearest neighbours.
            for value in [value, forbidden[0], forbidden[0] ^ (1 << bit)] {
                proptest::prop_assert_eq!(allowed(&cover, value), !forbidden.contains(&value));
            }
        }

        #[test]
        fn the_terminals_two_are_the_only_ones_refused(value in proptest::num::u32::ANY) {
            let cover = all_but(&[0x5412, 0x541C]);
            proptest::prop_assert_eq!(allowed(&cover, value), value != 0x5412 && value != 0x541C);
        }
    }
}
