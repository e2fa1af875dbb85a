//! Why something could not be executed, in words: the kernel's one number says little (execve(2)).
//!
//! Takes a path and the error; gives a reason; trusts nothing of the file; refuses to read anything but the beginning of a plain
//! file. Called by the process that failed, with its rights, where the file is.

use std::fs::{self, File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use nix::errno::Errno;

/// So much of a file is looked at: the kernel takes 256 bytes of a script (BINPRM_BUF_SIZE); a program's headers are at its
/// beginning.
const HEAD: u64 = 4096;

/// Why `path` was not executed; nothing where the error says it all.
pub fn why(path: &Path, error: Errno) -> Option<String> {
    let found = fs::metadata(path).ok()?;
    if let Some(what) = no_file(&found) {
        return Some(format!("it is {what}"));
    }
    if found.permissions().mode() & 0o111 == 0 {
        return Some(format!("it is not executable: its mode is {:04o}", found.permissions().mode() & 0o7777));
    }
    let head = head(path)?;
    if let Some(line) = head.strip_prefix(b"#!") {
        return interpreter(line);
    }
    match (program(&head), error) {
        (Some(Program { loader: Some(loader), .. }), Errno::ENOENT) if !Path::new(&loader).exists() => {
            Some(format!("its loader {loader:?} is not there: it was built for another C library"))
        }
        (Some(Program { machine, .. }), Errno::ENOEXEC) => {
            Some(format!("it is a program for {machine}, and this machine is {}", std::env::consts::ARCH))
        }
        (None, Errno::ENOEXEC) if head.is_empty() => Some("it is empty".to_owned()),
        (None, Errno::ENOEXEC) => {
            Some("it is neither a program nor a script that begins with #! and an interpreter".to_owned())
        }
        _ => None,
    }
}

fn no_file(found: &Metadata) -> Option<&'static str> {
    let kind = found.file_type();
    if kind.is_dir() {
        Some("a directory")
    } else if kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device() {
        Some("no file, but a pipe, a socket or a device")
    } else {
        None
    }
}

/// The beginning of a plain file.
fn head(path: &Path) -> Option<Vec<u8>> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).ok()?;
    let mut head = Vec::new();
    file.take(HEAD).read_to_end(&mut head).ok()?;
    Some(head)
}

/// What is wrong with the interpreter that a script's first line names (after its `#!`).
fn interpreter(line: &[u8]) -> Option<String> {
    let line = line.split(|byte| *byte == b'\n').next()?;
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let begin = line.iter().position(|byte| !blank(byte))?;
    let name = line.get(begin..)?.split(blank).next()?;
    let name = String::from_utf8_lossy(name.get(..name.len().min(256))?).into_owned();
    let end = if name.ends_with('\r') { ": the script has the line ends of Windows" } else { "" };
    match fs::metadata(&name) {
        Err(_) => Some(format!("its interpreter {name:?} is not there{end}")),
        Ok(found) => match no_file(&found) {
            Some(what) => Some(format!("its interpreter {name:?} is {what}")),
            None if found.permissions().mode() & 0o111 == 0 => {
                Some(format!("its interpreter {name:?} is not executable"))
            }
            None => None,
        },
    }
}

/// What an ELF file (elf(5)) says of itself.
struct Program {
    machine: String,
    loader: Option<String>,
}

fn program(head: &[u8]) -> Option<Program> {
    let is_elf = head.starts_with(b"\x7fELF");
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let bytes = head.get(at..at.checked_add(bytes)?)?;
        bytes.iter().rev().try_fold(0_usize, |sum, byte| sum.checked_mul(256)?.checked_add(usize::from(*byte)))
    };
    let machine = match number(18, 2).filter(|_| is_elf)? {
        3 => "i386".to_owned(),
        21 => "ppc64".to_owned(),
        22 => "s390x".to_owned(),
        40 => "arm".to_owned(),
        62 => "x86_64".to_owned(),
        183 => "aarch64".to_owned(),
        243 => "riscv64".to_owned(),
        other => format!("machine {other}"),
    };
    // Of 64 bits, least byte first: e_phoff, e_phentsize, e_phnum; p_type, p_offset, p_filesz.
    let loader = (head.get(4..6) == Some(&[2, 1])).then(|| {
        let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        let header = |n: usize| n.checked_mul(size).and_then(|offset| offset.checked_add(table));
        let at = (0..count.min(64)).filter_map(header).find(|at| number(*at, 4) == Some(3))?;
        let (begin, length) = (number(at.checked_add(8)?, 8)?, number(at.checked_add(32)?, 8)?);
        let name = head.get(begin..begin.checked_add(length.min(256))?)?;
        Some(String::from_utf8_lossy(name.split(|byte| *byte == 0).next()?).into_owned())
    });
    Some(Program { machine, loader: loader.flatten() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that holds `bytes`, and why it is not executed.
    fn told(bytes: &[u8], mode: u32, error: Errno) -> Option<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        why(file.path(), error)
    }

    fn elf(machine: u8, loader: &str) -> Vec<u8> {
        let mut bytes = vec![0; 120];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (bytes[18], bytes[32], bytes[54], bytes[56]) = (machine, 64, 56, 1);
        (bytes[64], bytes[72], bytes[96]) = (3, 120, u8::try_from(loader.len() + 1).unwrap());
        bytes.extend(loader.as_bytes());
        bytes.push(0);
        bytes
    }

    #[test]
    fn a_script_names_the_interpreter_that_is_missing() {
        let told = |text: &str| told(text.as_bytes(), 0o755, Errno::ENOENT);
        assert_eq!(
            told("#!/bin/sh\r\necho x\r\n").unwrap(),
            "its interpreter \"/bin/sh\\r\" is not there: the script has the line ends of Windows"
        );
        assert_eq!(told("#! /no/such  -x\n").unwrap(), "its interpreter \"/no/such\" is not there");
        assert_eq!(told("#!/etc\n").unwrap(), "its interpreter \"/etc\" is a directory");
        assert_eq!(
            told("#!/dev/null").unwrap(),
            "its interpreter \"/dev/null\" is no file, but a pipe, a socket or a device"
        );
        assert_eq!(told("#!/etc/passwd\n").unwrap(), "its interpreter \"/etc/passwd\" is not executable");
        for odd in ["#!", "#!\n", "#!   \n", "#!/bin/sh\n"] {
            assert_eq!(told(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn a_program_names_its_loader_or_its_machine() {
        let missing = told(&elf(62, "/lib64/ld-none.so.2"), 0o755, Errno::ENOENT).unwrap();
        assert!(missing.contains("\"/lib64/ld-none.so.2\" is not there"), "{missing}");
        let other = told(&elf(243, "/x"), 0o755, Errno::ENOEXEC).unwrap();
        assert!(other.contains("a program for riscv64"), "{other}");
        // Lies about offsets and sizes lead nowhere.
        for at in [32, 39, 54, 56, 72, 79, 96, 103] {
            let mut bytes = elf(62, "/lib64/ld-none.so.2");
            bytes[at] = 0xff;
            told(&bytes, 0o755, Errno::ENOENT);
            told(&bytes[..at], 0o755, Errno::ENOENT);
        }
    }

    #[test]
    fn what_is_no_executable_file_is_told() {
        assert!(told(b"#!/bin/sh\n", 0o644, Errno::EACCES).unwrap().contains("its mode is 0644"));
        assert_eq!(told(b"", 0o755, Errno::ENOEXEC).unwrap(), "it is empty");
        assert!(told(b"echo x\n", 0o755, Errno::ENOEXEC).unwrap().contains("neither a program nor a script"));
        assert_eq!(why(Path::new("/etc"), Errno::EACCES).unwrap(), "it is a directory");
        assert_eq!(why(Path::new("/no/such"), Errno::ENOENT), None);
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(why(&fifo, Errno::EACCES).unwrap().contains("a pipe"));
    }
}
