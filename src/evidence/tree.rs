//! The hash tree over the lines of a log, and what shows that a line is in it, or that it only grew (RFC 6962, section 2.1).
//!
//! Takes the hashes of leaves in their order; gives roots and proofs; trusts SHA-256. Of a tree that grows, one hash for each bit
//! of its size is kept.

use sha2::{Digest as _, Sha256};

/// A hash.
pub type Hash = [u8; 32];

/// The hash of a leaf: of its text after a zero byte, so that it is never one of a node.
pub fn leaf(text: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(text).finalize().into()
}

fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// A tree that grows: the roots of its whole subtrees, the largest first.
#[derive(Debug, Clone, Default)]
pub struct Growing {
    size: u64,
    edge: Vec<Hash>,
}

impl Growing {
    /// One more leaf.
    pub fn add(&mut self, leaf: Hash) {
        let mut hash = leaf;
        // As many subtrees become one as the size ends in ones.
        for _ in 0..self.size.trailing_ones() {
            let Some(left) = self.edge.pop() else { break };
            hash = node(&left, &hash);
        }
        self.edge.push(hash);
        self.size += 1;
    }

    /// How many leaves there are.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root (`MTH`).
    pub fn root(&self) -> Hash {
        let mut subtrees = self.edge.iter().rev();
        let Some(last) = subtrees.next() else { return Sha256::digest([]).into() };
        subtrees.fold(*last, |right, left| node(left, &right))
    }
}

/// The root over leaves.
pub fn root(leaves: &[Hash]) -> Hash {
    let mut tree = Growing::default();
    leaves.iter().for_each(|leaf| tree.add(*leaf));
    tree.root()
}

/// Both sides of the root of more than one leaf: the largest power of two that is less than their number is on the left.
fn sides(leaves: &[Hash]) -> (&[Hash], &[Hash]) {
    leaves.split_at_checked(leaves.len().div_ceil(2).next_power_of_two()).unwrap_or((leaves, &[]))
}

/// What shows that the leaf `at` is among these (`PATH`); none where there is no such leaf.
pub fn inclusion(at: usize, leaves: &[Hash]) -> Option<Vec<Hash>> {
    if at >= leaves.len() {
        return None;
    }
    if leaves.len() == 1 {
        return Some(Vec::new());
    }
    let (left, right) = sides(leaves);
    let (mut path, other) = match at.checked_sub(left.len()) {
        None => (inclusion(at, left)?, right),
        Some(at) => (inclusion(at, right)?, left),
    };
    path.push(root(other));
    Some(path)
}

/// Whether `path` shows that `leaf` is the one at `at` of so many under `expected` (RFC 9162, section 2.1.3.2).
pub fn includes(expected: &Hash, size: u64, at: u64, leaf: &Hash, path: &[Hash]) -> bool {
    if at >= size {
        return false;
    }
    let (mut at, mut last, mut hash) = (at, size - 1, *leaf);
    for other in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            hash = node(other, &hash);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            hash = node(&hash, other);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && hash == *expected
}

/// What shows that the first `old` of these leaves are the same as before (`PROOF`); none where there are not so many.
pub fn consistency(old: usize, leaves: &[Hash]) -> Option<Vec<Hash>> {
    if old == 0 || old > leaves.len() {
        return None;
    }
    Some(subproof(old, leaves, true))
}

fn subproof(old: usize, leaves: &[Hash], whole: bool) -> Vec<Hash> {
    if old == leaves.len() {
        return if whole { Vec::new() } else { vec![root(leaves)] };
    }
    let (left, right) = sides(leaves);
    let (mut proof, other) = match old.checked_sub(left.len()) {
        Some(rest) if rest > 0 => (subproof(rest, right, false), left),
        _ => (subproof(old, left, whole), right),
    };
    proof.push(root(other));
    proof
}

/// Whether `proof` shows that a tree of `size` leaves continues one of `old` (RFC 9162, section 2.1.4.2).
pub fn continues((old, old_root): (u64, &Hash), (size, new_root): (u64, &Hash), proof: &[Hash]) -> bool {
    if old == 0 || old > size {
        return false;
    }
    if old == size {
        return proof.is_empty() && old_root == new_root;
    }
    let whole = old.is_power_of_two().then_some(old_root);
    let mut path = whole.into_iter().chain(proof);
    let Some(first) = path.next() else { return false };
    let (mut at, mut last) = (old - 1, size - 1);
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let (mut was, mut is) = (*first, *first);
    for other in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            (was, is) = (node(other, &was), node(other, &is));
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            is = node(&is, other);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && was == *old_root && is == *new_root
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::line::hex;

    /// The leaves and roots of certificate-transparency's own tests (`merkle_tree_test.cc`).
    const LEAVES: [&str; 8] =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    const ROOTS: [&str; 8] = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    fn leaves() -> Vec<Hash> {
        let bytes = |digits: &str| -> Vec<u8> {
            digits
                .as_bytes()
                .chunks(2)
                .map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap())
                .collect()
        };
        LEAVES.iter().map(|digits| leaf(&bytes(digits))).collect()
    }

    #[test]
    fn roots_and_proofs_are_those_of_rfc_6962() {
        assert_eq!(hex(&root(&[])), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        let leaves = leaves();
        for (size, expected) in ROOTS.iter().enumerate() {
            assert_eq!(hex(&root(leaves.get(..=size).unwrap())), **expected);
        }
        let inclusion: Vec<String> = inclusion(5, &leaves).unwrap().iter().map(|hash| hex(hash)).collect();
        assert_eq!(
            inclusion,
            [
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"
            ]
        );
        let consistency: Vec<String> = consistency(6, &leaves).unwrap().iter().map(|hash| hex(hash)).collect();
        assert_eq!(
            consistency,
            [
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"
            ]
        );
    }

    #[test]
    fn every_leaf_is_proven_and_no_other_and_every_growth_is_and_no_rewriting() {
        let leaves: Vec<Hash> = (0_u32..70).map(|n| leaf(&n.to_be_bytes())).collect();
        let count = |n: usize| u64::try_from(n).unwrap();
        for size in 1..=leaves.len() {
            let now = leaves.get(..size).unwrap();
            let top = root(now);
            for at in 0..size {
                let path = inclusion(at, now).unwrap();
                let is = now.get(at).unwrap();
                assert!(includes(&top, count(size), count(at), is, &path));
                assert!(!includes(&top, count(size), count(at), &leaf(b"forged"), &path));
                assert!(size == 1 || !includes(&top, count(size), count((at + 1) % size), is, &path));
            }
            for old in 1..=size {
                let proof = consistency(old, now).unwrap();
                let before = root(now.get(..old).unwrap());
                assert!(continues((count(old), &before), (count(size), &top), &proof), "{old} {size}");
                assert!(!continues((count(old), &leaf(b"forged")), (count(size), &top), &proof), "{old} {size}");
            }
        }
        assert_eq!((inclusion(70, &leaves), consistency(71, &leaves)), (None, None));
    }
}
