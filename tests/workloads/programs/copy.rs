//! Rust's io::copy between sockets, pipes and files, where its library tries splice(2), sendfile(2) and copy_file_range(2) first.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread;

fn main() -> io::Result<()> {
    let sent = b"0123456789abcdef".repeat(1 << 14);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let bytes = sent.clone();
    let writer = thread::spawn(move || TcpStream::connect(address)?.write_all(&bytes));
    let (mut incoming, _) = listener.accept()?;
    // From a socket into a pipe, and out of it into a socket.
    let mut cat = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (mut into, mut out) = (cat.stdin.take().expect("a pipe"), cat.stdout.take().expect("a pipe"));
    let to_pipe = thread::spawn(move || io::copy(&mut incoming, &mut into).map(drop));
    let (mut near, mut far) = UnixStream::pair()?;
    let to_socket = thread::spawn(move || {
        io::copy(&mut out, &mut near)?;
        near.shutdown(Shutdown::Write)
    });
    let mut received = File::create("/tmp/received")?;
    io::copy(&mut far, &mut received)?;
    io::copy(&mut File::open("/tmp/received")?, &mut File::create("/tmp/copied")?)?;
    writer.join().expect("a thread")?;
    to_pipe.join().expect("a thread")?;
    to_socket.join().expect("a thread")?;
    cat.wait()?;
    let mut got = Vec::new();
    File::open("/tmp/copied")?.read_to_end(&mut got)?;
    assert!(got == sent && fs::metadata("/tmp/received")?.len() == sent.len() as u64, "the bytes differ");
    println!("copied {}", got.len());
    Ok(())
}
