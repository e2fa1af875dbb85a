//! One question to a service manager, over D-Bus (dbus.freedesktop.org, D-Bus Specification 0.43).
//!
//! Takes a socket and a call; gives success or the manager's own words; trusts neither lengths nor types of an answer;
//! refuses one that is longer than any that is meant.
//!
//! It is this small because it must be: `ces run` may have no second thread when it forks, and D-Bus libraries bring an
//! async runtime, the C library, or (libcgroups 0.7) a call of `busctl` each time.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long a manager may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer that is read.
const LONGEST: usize = 64 * 1024;

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;

/// Fields of a header, by their numbers.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// A value inside a variant.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    /// `s`
    Text(&'a str),
    /// `b`
    Truth(bool),
    /// `au`
    Numbers(&'a [u32]),
}

/// A connection that is authenticated.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    serial: u32,
}

/// A call of a method.
#[derive(Debug)]
pub struct Call<'a> {
    /// The service.
    pub destination: &'a str,
    /// The object.
    pub path: &'a str,
    /// The interface.
    pub interface: &'a str,
    /// The method.
    pub member: &'a str,
    /// The types of the arguments.
    pub signature: &'a str,
    /// The arguments.
    pub body: Body,
}

impl Connection {
    /// Connects to a message bus, or to a manager itself (then there is nobody to greet), as user `uid`.
    ///
    /// # Errors
    /// When nobody listens there, or the caller is not let in.
    pub fn open(socket: &Path, uid: u32, is_bus: bool) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // "Authentication protocol": a nul byte, then the uid in decimal, each character as hexadecimal.
        let hex: String = uid.to_string().bytes().map(|b| format!("{b:02x}")).collect();
        stream.write_all(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())?;
        let answer = line(&mut stream)?;
        if !answer.starts_with("OK ") {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("the bus says {answer}")));
        }
        stream.write_all(b"BEGIN\r\n")?;
        let mut connection = Self { stream, serial: 0 };
        if is_bus {
            let bus = "org.freedesktop.DBus";
            connection.call(&Call {
                destination: bus,
                path: "/org/freedesktop/DBus",
                interface: bus,
                member: "Hello",
                signature: "",
                body: Body::default(),
            })?;
        }
        Ok(connection)
    }

    /// Calls a method and waits until it has returned; gives the truth it returns, if it returns one in a variant.
    ///
    /// # Errors
    /// The other side's, in its words.
    pub fn call(&mut self, call: &Call<'_>) -> io::Result<Option<bool>> {
        self.serial += 1;
        self.stream.write_all(&message(call, self.serial))?;
        loop {
            let answer = self.receive()?;
            if answer.reply_to != Some(self.serial) {
                continue;
            }
            return match answer.kind {
                METHOD_RETURN => Ok(answer.truth),
                ERROR => Err(io::Error::other(answer.words)),
                kind => Err(malformed(&format!("an answer of type {kind}"))),
            };
        }
    }

    fn receive(&mut self) -> io::Result<Answer> {
        let mut fixed = [0; 16];
        self.stream.read_exact(&mut fixed)?;
        let mut reader = Reader { bytes: &fixed, at: 0 };
        let [order, kind, _, version] = [reader.byte()?, reader.byte()?, reader.byte()?, reader.byte()?];
        if (order, version) != (b'l', 1) {
            return Err(malformed("an answer in another byte order or version"));
        }
        let (body, _serial, fields) = (reader.number()?, reader.number()?, reader.number()?);
        let sum = usize::try_from(body)
            .ok()
            .zip(usize::try_from(fields).ok())
            .and_then(|(body, fields)| Some((fields, fields.checked_next_multiple_of(8)?.checked_add(body)?)));
        let Some((fields, length)) = sum.filter(|(_, length)| *length <= LONGEST) else {
            return Err(malformed("an answer that is too long"));
        };
        let mut rest = vec![0; length];
        self.stream.read_exact(&mut rest)?;
        Answer::parse(kind, fields, &rest)
    }
}

fn line(stream: &mut UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") && line.len() < 512 {
        stream.read_exact(&mut byte)?;
        line.extend(byte);
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

/// Arguments, aligned as the specification's "Marshaling" says; little-endian.
#[derive(Debug, Default)]
pub struct Body(Vec<u8>);

impl Body {
    /// Appends a string.
    pub fn text(&mut self, text: &str) {
        self.align(4);
        self.count(text.len());
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// Appends `a(sv)`.
    pub fn properties(&mut self, properties: &[(&str, Value<'_>)]) {
        self.array(8, |body| {
            for (name, value) in properties {
                body.align(8);
                body.text(name);
                body.variant(*value);
            }
        });
    }

    /// Appends an array of structures that has none.
    pub fn no_structures(&mut self) {
        self.array(8, |_| {});
    }

    fn variant(&mut self, value: Value<'_>) {
        match value {
            Value::Text(text) => {
                self.signature("s");
                self.text(text);
            }
            Value::Truth(truth) => {
                self.signature("b");
                self.number(u32::from(truth));
            }
            Value::Numbers(numbers) => {
                self.signature("au");
                self.array(4, |body| numbers.iter().for_each(|number| body.number(*number)));
            }
        }
    }

    fn signature(&mut self, text: &str) {
        // At most 255 characters, and ours have a handful.
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn array(&mut self, alignment: usize, fill: impl FnOnce(&mut Self)) {
        self.align(4);
        let length_at = self.0.len();
        self.number(0);
        self.align(alignment);
        let begin = self.0.len();
        fill(self);
        let length = u32::try_from(self.0.len() - begin).unwrap_or(u32::MAX).to_le_bytes();
        if let Some(place) = self.0.get_mut(length_at..length_at + 4) {
            place.copy_from_slice(&length);
        }
    }

    fn count(&mut self, length: usize) {
        self.number(u32::try_from(length).unwrap_or(u32::MAX));
    }

    fn number(&mut self, number: u32) {
        self.align(4);
        self.0.extend(number.to_le_bytes());
    }

    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }
}

/// The bytes of a call.
fn message(call: &Call<'_>, serial: u32) -> Vec<u8> {
    let mut all = Body(vec![b'l', METHOD_CALL, 0, 1]);
    all.count(call.body.0.len());
    all.number(serial);
    all.array(8, |fields| {
        let strings = [
            (PATH, "o", call.path),
            (DESTINATION, "s", call.destination),
            (INTERFACE, "s", call.interface),
            (MEMBER, "s", call.member),
        ];
        for (number, kind, text) in strings {
            fields.align(8);
            fields.0.push(number);
            fields.signature(kind);
            fields.text(text);
        }
        if !call.signature.is_empty() {
            fields.align(8);
            fields.0.push(SIGNATURE);
            fields.signature("g");
            fields.signature(call.signature);
        }
    });
    all.align(8);
    all.0.extend(&call.body.0);
    all.0
}

#[derive(Debug, PartialEq)]
struct Answer {
    kind: u8,
    reply_to: Option<u32>,
    words: String,
    truth: Option<bool>,
}

impl Answer {
    fn parse(kind: u8, fields: usize, bytes: &[u8]) -> io::Result<Self> {
        let mut answer = Self { kind, reply_to: None, words: String::new(), truth: None };
        let mut reader = Reader { bytes, at: 0 };
        let mut signature = String::new();
        while reader.at < fields {
            reader.align(8);
            let number = reader.byte()?;
            match (number, reader.signature()?.as_str()) {
                (REPLY_SERIAL, "u") => answer.reply_to = Some(reader.number()?),
                (ERROR_NAME, "s") => answer.words = reader.text()?,
                (SIGNATURE, "g") => signature = reader.signature()?,
                (_, "s" | "o") => drop(reader.text()?),
                (_, "g") => drop(reader.signature()?),
                (_, "u") => drop(reader.number()?),
                (number, kind) => return Err(malformed(&format!("header field {number} of type {kind}"))),
            }
        }
        reader.align(8);
        if kind == ERROR && signature.starts_with('s') {
            answer.words = reader.text()?;
        }
        if kind == METHOD_RETURN && signature == "v" && reader.signature()? == "b" {
            answer.truth = Some(reader.number()? != 0);
        }
        Ok(answer)
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take(&mut self, count: usize) -> io::Result<&[u8]> {
        let end = self.at.checked_add(count).ok_or_else(|| malformed("a length"))?;
        let taken = self.bytes.get(self.at..end).ok_or_else(|| malformed("its end"))?;
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> io::Result<u8> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    fn number(&mut self) -> io::Result<u32> {
        self.align(4);
        self.take(4)?.try_into().map(u32::from_le_bytes).map_err(|_| malformed("a number"))
    }

    fn text(&mut self) -> io::Result<String> {
        let length = usize::try_from(self.number()?).map_err(|_| malformed("a length"))?;
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Ok(text)
    }

    fn signature(&mut self) -> io::Result<String> {
        let length = usize::from(self.byte()?);
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Ok(text)
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the bus sent {what} that makes no sense"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_laid_out_as_the_specification_says() {
        let mut body = Body::default();
        body.text("a.scope");
        body.properties(&[("PIDs", Value::Numbers(&[7])), ("Delegate", Value::Truth(true))]);
        body.no_structures();
        let call =
            Call { destination: "d", path: "/p", interface: "i", member: "m", signature: "sa(sv)a(sa(sv))", body };
        let bytes = message(&call, 3);
        let mut reader = Reader { bytes: &bytes, at: 4 };
        let (body, serial, fields) =
            (reader.number().unwrap() as usize, reader.number().unwrap(), reader.number().unwrap() as usize);
        assert_eq!((serial, bytes.len()), (3, (16 + fields).next_multiple_of(8) + body));
        let mut reader = Reader { bytes: &bytes[bytes.len() - body..], at: 0 };
        assert_eq!(reader.text().unwrap(), "a.scope");
        let properties = reader.number().unwrap() as usize;
        reader.align(8);
        let begin = reader.at;
        assert_eq!((reader.text().unwrap(), reader.signature().unwrap()), ("PIDs".to_owned(), "au".to_owned()));
        assert_eq!((reader.number().unwrap(), reader.number().unwrap()), (4, 7));
        reader.align(8);
        assert_eq!((reader.text().unwrap(), reader.signature().unwrap()), ("Delegate".to_owned(), "b".to_owned()));
        assert_eq!(reader.number().unwrap(), 1);
        assert_eq!(reader.at - begin, properties);
        assert_eq!(reader.number().unwrap(), 0);
    }

    /// An answer whose header has these fields.
    fn answer(kind: u8, serial: u32, error: Option<(&str, &str)>) -> io::Result<Answer> {
        let mut all = Body::default();
        all.0.push(REPLY_SERIAL);
        all.signature("u");
        all.number(serial);
        if let Some((name, _)) = error {
            all.align(8);
            all.0.push(ERROR_NAME);
            all.signature("s");
            all.text(name);
            all.align(8);
            all.0.push(SIGNATURE);
            all.signature("g");
            all.signature("s");
        }
        let fields = all.0.len();
        all.align(8);
        if let Some((_, words)) = error {
            all.text(words);
        }
        Answer::parse(kind, fields, &all.0)
    }

    #[test]
    fn an_answer_tells_what_it_answers_and_an_error_its_words() {
        let good = answer(METHOD_RETURN, 2, None).unwrap();
        assert_eq!(good, Answer { kind: METHOD_RETURN, reply_to: Some(2), words: String::new(), truth: None });
        let bad = answer(ERROR, 2, Some(("org.x.Error", "Unit exists."))).unwrap();
        assert_eq!(bad.words, "Unit exists.");
    }

    #[test]
    fn a_property_that_is_true_or_false_is_read() {
        for truth in [true, false] {
            let mut all = Body(vec![SIGNATURE]);
            all.signature("g");
            all.signature("v");
            let fields = all.0.len();
            all.align(8);
            all.variant(Value::Truth(truth));
            assert_eq!(Answer::parse(METHOD_RETURN, fields, &all.0).unwrap().truth, Some(truth));
        }
    }

    #[test]
    fn an_answer_that_is_cut_short_or_lies_about_lengths_is_an_error() {
        for bytes in
            [&[REPLY_SERIAL][..], &[REPLY_SERIAL, 1, b'u', 0, 1], &[ERROR_NAME, 1, b's', 0, 255, 255, 255, 255, 1]]
        {
            assert!(Answer::parse(ERROR, bytes.len(), bytes).is_err(), "{bytes:?}");
        }
    }
}
