//! What `scripts/fuzz` does with a fuzzer, everywhere and always the same: the seeds, and seeds that were changed a little;
//! 28,500 inputs, with `CES_LONG` a hundred times as many.

#[path = "../../fuzz/entries.rs"]
mod entries;

use std::fs;
use std::path::Path;

/// A small generator of numbers that look random (xorshift64*), the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap()
    }

    fn below(&mut self, limit: usize) -> usize {
        self.next() % limit.max(1)
    }
}

/// Words that mean something to one parser or another.
const WORDS: [&[u8]; 24] = [
    b"..",
    b"/",
    b"../",
    b"\0",
    b"\x1b[",
    b"\xff\xfe",
    b"-1",
    b"4294967296",
    b"18446744073709551616",
    b"1e400",
    b"null",
    b"[]",
    b"{}",
    b"\"",
    b"\\u0000",
    b"=",
    b"\n",
    b":",
    b"@sha256:",
    b".wh.",
    b".wh..wh..opq",
    b"99999999999",
    b"~",
    b"# ",
];

fn change(seed: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len());
        let end = (at + 1 + numbers.below(64)).min(bytes.len());
        match numbers.below(7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << numbers.below(8),
            1 if !bytes.is_empty() => bytes[at] = u8::try_from(numbers.below(256)).unwrap(),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let piece = bytes[at..end].to_vec();
                let to = numbers.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            4 => bytes.truncate(at),
            _ => {
                let word = WORDS[numbers.below(WORDS.len())];
                let replaced = if numbers.below(2) == 0 { at } else { (at + word.len()).min(bytes.len()) };
                bytes.splice(at..replaced, word.iter().copied());
            }
        }
    }
    bytes
}

/// Gives every block that could be a header its checksum: nearly all changes would fail at that alone.
fn correct_checksums(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

fn run(target: &str, times: usize, entry: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(seeds.len() > 1, "no seeds for {target}");
    seeds.iter().for_each(|seed| entry(seed));
    let times = if std::env::var_os("CES_LONG").is_some() { 100 * times } else { times };
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for time in 0..times {
        let mut bytes = change(&seeds[time % seeds.len()], &mut numbers);
        if ["layer", "archive"].contains(&target) && numbers.below(8) > 0 {
            correct_checksums(&mut bytes);
        }
        let kept = bytes.clone();
        if std::panic::catch_unwind(|| entry(&bytes)).is_err() {
            let file = std::env::temp_dir().join(format!("ces-fuzz-{target}"));
            fs::write(&file, kept).unwrap();
            panic!("{target}: input {time} (kept as {}) breaks a promise", file.display());
        }
    }
}

#[test]
fn no_layer_gets_past_the_plan_with_a_name_or_owner_that_cannot_be() {
    run("layer", 6000, entries::layer);
}

#[test]
fn no_archive_makes_more_be_read_than_there_is() {
    run("archive", 2000, entries::archive);
}

#[test]
fn no_registry_has_more_asked_for_than_pulling() {
    run("challenge", 4000, entries::challenge);
}

#[test]
fn no_manifest_breaks_the_parser() {
    run("manifest", 4000, entries::manifest);
}

#[test]
fn no_image_configuration_grants_anything() {
    run("config", 1500, entries::config);
}

#[test]
fn no_reference_means_two_things() {
    run("reference", 4000, entries::reference);
}

#[test]
fn no_env_file_makes_a_variable_without_a_name() {
    run("envfile", 3000, entries::envfile);
}

#[test]
fn no_version_has_two_places() {
    run("version", 2000, entries::version);
}

#[test]
fn no_record_of_vulnerability_data_is_kept_that_cannot_be_shown_or_read_again() {
    run("osv", 2000, entries::osv);
}

#[test]
fn no_vendors_document_is_kept_that_cannot_be_shown_or_read_again() {
    run("csaf", 2000, entries::csaf);
}

#[test]
fn no_file_of_vulnerability_data_is_kept_that_cannot_be_opened_again() {
    run("import", 2000, entries::import);
}

#[test]
fn no_document_waives_without_an_author() {
    run("waivers", 2000, entries::waivers);
}

#[test]
fn no_policy_is_half_understood() {
    run("policy", 2000, entries::policy);
}

#[path = "../../fuzz/stack.rs"]
mod stack;

#[test]
fn no_description_of_packages_makes_one_without_a_name() {
    run("packages", 1500, stack::packages);
}

#[test]
fn no_database_of_packages_leads_its_reader_in_a_circle() {
    run("database", 1500, stack::database);
}

#[test]
fn no_archive_takes_more_than_its_bounds() {
    run("zip", 1500, stack::archive);
}

#[test]
fn no_program_breaks_its_reader() {
    run("program", 3000, stack::program);
}
