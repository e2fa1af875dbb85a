//! Copies of lines for a service of the host (syslog, journald), which another host may collect.
//!
//! Takes a line as it is written; gives one datagram; trusts nobody who listens there with anything but the line, which holds no
//! argument; refuses to wait: a service that is full, or gone, holds no run up for longer than `PATIENCE`.
//!
//! What syslog cuts is syslog's: rsyslog takes 8 KiB of a message unless it is told otherwise (`maxMessageSize`).

use std::io::{Error, Result};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::evidence::line::{Line, event_name};
use crate::host::log_dir::{CopyTo, Service};

/// How long is waited for room in a service's socket.
const PATIENCE: Duration = Duration::from_millis(100);
/// "security/authorization messages (private)" and "normal but significant" (RFC 5424, 6.2.1): 10 * 8 + 5.
const PRIORITY: u8 = 85;

/// A way to a service.
#[derive(Debug)]
pub struct Copier {
    socket: UnixDatagram,
    service: Service,
}

impl Copier {
    /// Opens the way, before the line is written: a service that is not there is known by then.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn open(to: &CopyTo) -> Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(&to.socket)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket, service: to.service })
    }

    /// Sends the line, whose text is `text`.
    ///
    /// # Errors
    /// When it does not arrive whole.
    pub fn send(&self, line: &Line, text: &[u8]) -> Result<()> {
        let message = message(self.service, line, text);
        let sent = self.socket.send(&message)?;
        if sent == message.len() { Ok(()) } else { Err(Error::other("it was cut")) }
    }
}

/// A datagram; the text of a line has no line break, which is all that either protocol could stumble on.
fn message(service: Service, line: &Line, text: &[u8]) -> Vec<u8> {
    let event = event_name(line.event);
    let head = match service {
        // No time: the service's own clock says when it came, and the line when it was written.
        Service::Syslog => format!("<{PRIORITY}>ces[{}]: ", std::process::id()),
        Service::Journald => {
            let run = line.run.as_ref().filter(|run| !run.contains(char::is_control));
            let run = run.map_or_else(String::new, |run| format!("CES_RUN={run}\n"));
            let seq = line.seq;
            format!("PRIORITY=5\nSYSLOG_IDENTIFIER=ces\nCES_EVENT={event}\nCES_SEQ={seq}\n{run}MESSAGE=")
        }
    };
    let end: &[u8] = if service == Service::Journald { b"\n" } else { b"" };
    [head.as_bytes(), text, end].concat()
}
