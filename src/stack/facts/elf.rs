//! Programs in the ELF format (elf(5)), and what toolchains write into them: Go's build information (`debug/buildinfo`),
//! `cargo auditable`'s list of crates (section `.dep-v0`).

use std::io::{self, Read};

use flate2::read::ZlibDecoder;
use serde_json::Value;

use super::super::package::{Package, PackageType};
use super::{ProgramKind, Source, bad, package, split};

/// The most sections of a program that are looked at.
const SECTIONS_MAX: u64 = 8192;
/// The largest section that is read.
const SECTION_MAX: usize = 16 << 20;
/// The most packages of a program.
const PACKAGES_MAX: usize = 20_000;

/// What is in a program.
#[derive(Debug)]
pub struct Found {
    /// Which sort of program it is.
    pub kind: ProgramKind,
    /// What it was built of.
    pub packages: Vec<Package>,
    /// What of it could not be read.
    pub unread: Option<String>,
}

/// A number of `N` bytes in the byte order of the file.
fn number(bytes: &[u8], at: usize, length: usize, big: bool) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(length)?)?;
    let digit = |sum: u64, byte: &u8| (sum << 8) | u64::from(*byte);
    Some(if big { field.iter().fold(0, digit) } else { field.iter().rev().fold(0, digit) })
}

struct Section {
    name: u64,
    offset: u64,
    size: u64,
}

/// Reads the program at `place`; none where it is not in the ELF format.
pub fn read(source: &(impl Source + ?Sized), place: &str) -> Option<Found> {
    let head = source.bytes(0, source.size().min(64), 64).ok()?;
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    let (wide, big) = (head.get(4) == Some(&2), head.get(5) == Some(&2));
    let is_shared = number(&head, 16, 2, big) == Some(3);
    // A shared object that is a program (a position-independent executable) is not called `….so`.
    let name = split(place).1;
    let is_library = is_shared && (name.ends_with(".so") || name.contains(".so."));
    let kind = if is_library { ProgramKind::Library } else { ProgramKind::Program };
    let mut found = Found { kind, packages: Vec::new(), unread: None };
    match sections(source, &head, wide, big) {
        Ok(sections) => {
            for (name, section) in sections {
                let read = match name {
                    Known::Go => go(source, &section, big, place),
                    Known::Cargo => cargo(source, &section, place),
                };
                match read {
                    Ok(packages) => found.packages.extend(packages),
                    Err(e) => found.unread = Some(e.to_string()),
                }
            }
        }
        Err(e) => found.unread = Some(e.to_string()),
    }
    found.packages.truncate(PACKAGES_MAX);
    Some(found)
}

enum Known {
    Go,
    Cargo,
}

fn sections(source: &(impl Source + ?Sized), head: &[u8], wide: bool, big: bool) -> io::Result<Vec<(Known, Section)>> {
    let field = |narrow: (usize, usize), at: (usize, usize)| {
        let (at, length) = if wide { at } else { narrow };
        number(head, at, length, big).unwrap_or_default()
    };
    let offset = field((32, 4), (40, 8));
    let entry = field((46, 2), (58, 2));
    let count = field((48, 2), (60, 2));
    let names = field((50, 2), (62, 2));
    if offset == 0 || count == 0 {
        return Ok(Vec::new());
    }
    if entry != if wide { 64 } else { 40 } || count > SECTIONS_MAX {
        return Err(bad("its table of sections is not as the format has it"));
    }
    let table = source.bytes(offset, entry * count, 1 << 20)?;
    let section = |index: u64| {
        let base = usize::try_from(index * entry).ok()?;
        let at = |narrow: usize, far: usize| {
            let length = if wide { 8 } else { 4 };
            number(&table, base.checked_add(if wide { far } else { narrow })?, length, big)
        };
        Some(Section { name: number(&table, base, 4, big)?, offset: at(16, 24)?, size: at(20, 32)? })
    };
    let strings = section(names).ok_or_else(|| bad("its sections have no names"))?;
    let strings = source.bytes(strings.offset, strings.size, 1 << 20)?;
    let mut known = Vec::new();
    for index in 0..count {
        let Some(section) = section(index) else { continue };
        let name = usize::try_from(section.name).ok().and_then(|at| strings.get(at..)).unwrap_or_default();
        let name = name.split(|&b| b == 0).next().unwrap_or_default();
        match name {
            b".go.buildinfo" => known.push((Known::Go, section)),
            b".dep-v0" => known.push((Known::Cargo, section)),
            _ => {}
        }
    }
    Ok(known)
}

/// The modules that a Go program was built of, and the standard library.
fn go(source: &(impl Source + ?Sized), section: &Section, big: bool, place: &str) -> io::Result<Vec<Package>> {
    let head = source.bytes(section.offset, section.size.min(32), 32)?;
    if !head.starts_with(b"\xff Go buildinf:") || head.len() < 32 {
        return Err(bad("its build information of Go is not as the format has it"));
    }
    let flags = head.get(15).copied().unwrap_or_default();
    if flags & 2 == 0 {
        // Pointers to strings elsewhere: followed by address, which only the program's segments explain.
        let wide = head.get(14) == Some(&8);
        let _ = (big, wide);
        return Err(bad("it was built by a Go before 1.18, whose list of modules is not read"));
    }
    let mut at = section.offset + 32;
    let version = string(source, &mut at)?;
    let modules = string(source, &mut at)?;
    // The list stands between two marks of 16 bytes.
    let modules = modules.get(16..modules.len().saturating_sub(16)).unwrap_or_default();
    let version = String::from_utf8_lossy(&version).into_owned();
    let number = version.split(' ').next().unwrap_or_default().trim_start_matches("go");
    let mut found: Vec<Package> = package(PackageType::Golang, "stdlib", number, place).into_iter().collect();
    let mut main = false;
    for line in String::from_utf8_lossy(modules).lines() {
        let mut words = line.split('\t');
        let (what, path, version) = (words.next(), words.next().unwrap_or_default(), words.next().unwrap_or_default());
        match what {
            Some("mod" | "dep") => {
                main = what == Some("mod");
                if let Some(mut module) = package(PackageType::Golang, path, version, place) {
                    module.unjudged = version == "(devel)" || version.is_empty() || (main && is_pseudo(version));
                    found.push(module);
                }
            }
            // What stands in for the module before.
            Some("=>") => {
                found.pop();
                if let Some(mut module) = package(PackageType::Golang, path, version, place) {
                    module.unjudged = version.is_empty() || (main && is_pseudo(version));
                    found.push(module);
                }
            }
            _ => {}
        }
        if found.len() >= PACKAGES_MAX {
            break;
        }
    }
    Ok(found)
}

/// Whether a version is of a commit, not of a release (<https://go.dev/ref/mod#pseudo-versions>).
fn is_pseudo(version: &str) -> bool {
    let base = version.split('+').next().unwrap_or_default();
    let mut parts = base.rsplit('-');
    let (commit, time) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let time = time.rsplit('.').next().unwrap_or_default();
    commit.len() == 12
        && commit.bytes().all(|b| b.is_ascii_hexdigit())
        && time.len() == 14
        && time.bytes().all(|b| b.is_ascii_digit())
}

/// A string with its length before it (encoding/binary, unsigned varint).
fn string(source: &(impl Source + ?Sized), at: &mut u64) -> io::Result<Vec<u8>> {
    let mut length = 0_u64;
    for shift in (0..63).step_by(7) {
        let mut byte = [0];
        source.fill(*at, &mut byte)?;
        *at += 1;
        length |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            let bytes = source.bytes(*at, length, SECTION_MAX)?;
            *at += length;
            return Ok(bytes);
        }
    }
    Err(bad("its build information of Go is not as the format has it"))
}

/// The crates that `cargo auditable` lists; what only building needed is not in the program.
fn cargo(source: &(impl Source + ?Sized), section: &Section, place: &str) -> io::Result<Vec<Package>> {
    let packed = source.bytes(section.offset, section.size, SECTION_MAX)?;
    let mut text = Vec::new();
    ZlibDecoder::new(packed.as_slice()).take(SECTION_MAX as u64).read_to_end(&mut text)?;
    let document: Value = serde_json::from_slice(&text).map_err(|_| bad("its list of crates is not JSON"))?;
    let mut found = Vec::new();
    for entry in document.get("packages").and_then(Value::as_array).into_iter().flatten() {
        let field = |key: &str| entry.get(key).and_then(Value::as_str);
        if let (Some(name), Some(version)) = (field("name"), field("version"))
            && field("kind") != Some("build")
        {
            let mut known = package(PackageType::Cargo, name, version, place);
            if let Some(known) = &mut known {
                // Only what a registry has is in the data on vulnerabilities.
                known.unjudged = field("source").is_some_and(|source| source == "local");
            }
            found.extend(known);
        }
    }
    Ok(found)
}

/// Libraries of vendors, known by their files' names (`libcudart.so.12.4.127`): name and version.
pub fn vendor_library(path: &str) -> Option<(&'static str, &str)> {
    const KNOWN: [(&str, &str); 14] = [
        ("libcudart", "cuda-cudart"),
        ("libcublas", "cuda-cublas"),
        ("libcublasLt", "cuda-cublaslt"),
        ("libcufft", "cuda-cufft"),
        ("libcurand", "cuda-curand"),
        ("libcusolver", "cuda-cusolver"),
        ("libcusparse", "cuda-cusparse"),
        ("libnvrtc", "cuda-nvrtc"),
        ("libnvJitLink", "cuda-nvjitlink"),
        ("libcudnn", "cudnn"),
        ("libnccl", "nccl"),
        ("libnvinfer", "tensorrt"),
        ("libmwmclmcrrt", "matlab-runtime"),
        ("libmkl_core", "mkl"),
    ];
    let (stem, version) = split(path).1.split_once(".so.")?;
    let known = KNOWN.iter().find(|(name, _)| *name == stem)?;
    let is_version = version.contains('.') && version.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    is_version.then_some((known.1, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program with these sections.
    fn program(sections: &[(&str, &[u8])]) -> Vec<u8> {
        let mut names = b"\0.shstrtab\0".to_vec();
        let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
        out.resize(64, 0);
        let mut table = vec![0; 64];
        let header = |name: usize, offset: usize, size: usize| {
            let mut one = vec![0; 64];
            one[..4].copy_from_slice(&u32::try_from(name).unwrap().to_le_bytes());
            one[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
            one[32..40].copy_from_slice(&(size as u64).to_le_bytes());
            one
        };
        for (name, bytes) in sections {
            table.extend(header(names.len(), out.len(), bytes.len()));
            names.extend([name.as_bytes(), b"\0"].concat());
            out.extend_from_slice(bytes);
        }
        table.extend(header(1, out.len(), names.len()));
        out.extend(&names);
        let at = out.len() as u64;
        out.extend(&table);
        out[40..48].copy_from_slice(&at.to_le_bytes());
        out[58..60].copy_from_slice(&64_u16.to_le_bytes());
        let count = u16::try_from(sections.len() + 2).unwrap();
        out[60..62].copy_from_slice(&count.to_le_bytes());
        out[62..64].copy_from_slice(&(count - 1).to_le_bytes());
        out
    }

    fn build_information(version: &str, modules: &str) -> Vec<u8> {
        let text = |text: &str| {
            let mut out = Vec::new();
            let mut length = text.len();
            while length > 0x7f {
                out.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
                length >>= 7;
            }
            out.push(u8::try_from(length).unwrap());
            out.extend(text.as_bytes());
            out
        };
        let mark = "0123456789abcdef";
        let mut out = b"\xff Go buildinf:\x08\x02".to_vec();
        out.resize(32, 0);
        out.extend(text(version));
        out.extend(text(&format!("{mark}{modules}{mark}")));
        out
    }

    fn names(bytes: &[u8]) -> Vec<String> {
        let found = read(bytes, "usr/local/bin/x").unwrap();
        found
            .packages
            .iter()
            .map(|p| format!("{}@{}{}", p.name, p.version, if p.unjudged { "?" } else { "" }))
            .collect()
    }

    #[test]
    fn a_go_program_tells_its_modules() {
        let modules = "path\texample.org/x\nmod\texample.org/x\t(devel)\t\ndep\tgolang.org/x/net\tv0.23.0\th1:x=\ndep\told\tv1.0.0\n=>\tnew\tv1.2.0\th1:y=\nbuild\t-compiler=gc\n";
        let bytes =
            program(&[(".text", b"x"), (".go.buildinfo", &build_information("go1.22.3 X:boringcrypto", modules))]);
        assert_eq!(
            names(&bytes),
            ["stdlib@1.22.3", "example.org/x@(devel)?", "golang.org/x/net@v0.23.0", "new@v1.2.0"]
        );
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] = 0xff;
            drop(read(changed.as_slice(), "x"));
            drop(read(&bytes[..at], "x"));
        }
    }

    #[test]
    fn versions_of_commits_are_known() {
        assert!(
            is_pseudo("v0.0.0-20191109021931-daa7c04131f5") && is_pseudo("v1.2.4-0.20191109021931-daa7c04131f5+dirty")
        );
        assert!(!is_pseudo("v1.2.3") && !is_pseudo("v1.2.3-rc1"));
    }

    #[test]
    fn a_rust_program_tells_its_crates() {
        use std::io::Write as _;
        let text = br#"{"packages":[{"name":"serde","version":"1.0.1","source":"crates.io"},{"name":"cc","version":"1.0","kind":"build"},{"name":"me","version":"0.1.0","source":"local","root":true}]}"#;
        let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(text).unwrap();
        let bytes = program(&[(".dep-v0", &packed.finish().unwrap())]);
        assert_eq!(names(&bytes), ["serde@1.0.1", "me@0.1.0?"]);
    }

    #[test]
    fn programs_libraries_and_other_files_are_told_apart() {
        let mut bytes = program(&[]);
        assert_eq!(read(bytes.as_slice(), "usr/bin/x").unwrap().kind, ProgramKind::Program);
        bytes[16] = 3;
        assert_eq!(read(bytes.as_slice(), "usr/lib/libx.so.1").unwrap().kind, ProgramKind::Library);
        assert_eq!(read(bytes.as_slice(), "usr/bin/x").unwrap().kind, ProgramKind::Program);
        assert!(read(b"#!/bin/sh".as_slice(), "x").is_none() && read(b"".as_slice(), "x").is_none());
        assert_eq!(vendor_library("a/libcudnn.so.9.1.0"), Some(("cudnn", "9.1.0")));
        assert_eq!(vendor_library("a/libcudnn.so.9"), None);
    }
}
