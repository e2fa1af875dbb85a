//! Blobs, from any byte on.
//!
//! Takes a descriptor and how much of it is there already; hands the rest to a sink, however often the line is cut.
//! Trusts nothing: who asks counts and hashes; here the ranges are checked, so that no byte comes twice or is left out.
//! Refuses a blob of another size than announced, and a range other than asked for.

use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, RANGE};
use reqwest::{Client, Response, StatusCode};

use super::Registry;
use super::patience::{Failure, LISTEN_EVERY};
use crate::error::{Kind, Result};
use crate::image::document::Descriptor;
use crate::image::source::Sink;

/// After so many bytes a cut is only a cut: it goes on without a pause.
const MUCH: u64 = 256 << 10;

/// What an answer begins with.
#[derive(Debug, PartialEq, Eq)]
enum Begins {
    /// With this byte.
    At(u64),
    /// With something that cannot be, in words.
    Wrong(String),
}

impl Registry {
    pub(super) async fn fetch_blob(&self, descriptor: &Descriptor, from: u64, sink: &mut Sink<'_>) -> Result<()> {
        if from > 0 && from == descriptor.size {
            return Ok(());
        }
        let http = self.http()?;
        let mut patience = self.patience();
        let mut seen = from;
        loop {
            let before = seen;
            let Err(failure) = self.rest_of_blob(&http, descriptor, &mut seen, sink).await else { return Ok(()) };
            if seen > before {
                patience.progress();
            }
            if seen - before >= MUCH && matches!(failure, Failure::Passing(_, None)) {
                sink(&[])?;
                continue;
            }
            self.after(&http, &mut patience, failure, &mut |_: Duration| self.go_on().and_then(|()| sink(&[]))).await?;
        }
    }

    /// One request for the bytes from `seen` on.
    async fn rest_of_blob(
        &self,
        http: &Client,
        descriptor: &Descriptor,
        seen: &mut u64,
        sink: &mut Sink<'_>,
    ) -> Result<(), Failure> {
        let mut request = http.get(self.url(&format!("blobs/{}", descriptor.digest)));
        // The digest is of the blob itself: nobody is to pack it once more (RFC 9110, section 12.5.3).
        request = request.header(ACCEPT_ENCODING, "identity");
        if *seen > 0 {
            request = request.header(RANGE, format!("bytes={seen}-"));
        }
        let response = self.send(self.with_login(request)).await?;
        let mut at = match begins(&response, descriptor.size) {
            None => return Err(self.failure(response).await),
            Some(Begins::At(first)) if first <= *seen => first,
            Some(Begins::At(first)) => {
                let why = format!("asked for the bytes from {seen} on, it gives those from {first} on");
                return Err(Failure::Final(self.lies(&why)));
            }
            Some(Begins::Wrong(why)) => return Err(Failure::Final(self.lies(&why))),
        };
        let mut response = response;
        while *seen <= descriptor.size {
            // A registry that falls silent must not keep the sink from saying that the work is to stop.
            let Ok(piece) = tokio::time::timeout(LISTEN_EVERY, response.chunk()).await else {
                sink(&[]).map_err(Failure::Final)?;
                continue;
            };
            let Some(bytes) = piece.map_err(|e| Failure::Passing(self.cut_off(&e, *seen, descriptor), None))? else {
                break;
            };
            // Of a whole blob where a range was asked for, what came before is passed over.
            let known = usize::try_from(*seen - at).unwrap_or(usize::MAX).min(bytes.len());
            at += bytes.len() as u64;
            let new = bytes.get(known..).unwrap_or_default();
            *seen += new.len() as u64;
            sink(new).map_err(Failure::Final)?;
        }
        if *seen < descriptor.size {
            // HTTP/1.0 without a length: a cut looks like the end.
            let end = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            return Err(Failure::Passing(self.cut_off(&end, *seen, descriptor), None));
        }
        Ok(())
    }

    fn cut_off(
        &self,
        error: &(dyn std::error::Error + 'static),
        seen: u64,
        descriptor: &Descriptor,
    ) -> crate::error::Error {
        let host = self.upstream.host();
        let what = format!("the transfer from {host} was cut off");
        crate::error::Error::new(crate::error::Stage::Pull, Kind::Failed, what)
            .because(format!("{seen} of {} bytes came", descriptor.size))
            .caused_by(error)
    }
}

/// With which byte an answer begins, if it is one at all.
fn begins(response: &Response, size: u64) -> Option<Begins> {
    let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    match response.status() {
        StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION => Some(match response.content_length() {
            Some(length) if length < size => {
                Begins::Wrong(format!("only {length} of {size} bytes came: it has no more"))
            }
            Some(length) if length > size => Begins::Wrong(format!("it has more than the announced {size} bytes")),
            _ => Begins::At(0),
        }),
        StatusCode::PARTIAL_CONTENT => Some(first_byte(range.unwrap_or_default(), size)),
        StatusCode::RANGE_NOT_SATISFIABLE => {
            Some(Begins::Wrong(format!("it has fewer than the announced {size} bytes ({})", range.unwrap_or("416"))))
        }
        _ => None,
    }
}

/// The first byte of `bytes 5-9/10` (RFC 9110, section 14.4).
fn first_byte(range: &str, size: u64) -> Begins {
    let wrong = || Begins::Wrong(format!("it gives a part of the blob that is none: \"{range}\""));
    let parts = range.trim().split_once(' ').filter(|(unit, _)| unit.eq_ignore_ascii_case("bytes"));
    let Some((bounds, complete)) = parts.and_then(|(_, rest)| rest.trim().split_once('/')) else { return wrong() };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let Some((first, last)) = bounds.split_once('-').and_then(|(a, b)| Some((number(a)?, number(b)?))) else {
        return wrong();
    };
    if complete.trim() != "*" && number(complete) != Some(size) {
        return Begins::Wrong(format!("its blob has {} bytes, not the announced {size}", complete.trim()));
    }
    if first > last || last >= size { wrong() } else { Begins::At(first) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_what_was_asked_for_or_no_range() {
        for (range, first) in [("bytes 5-9/10", 5), ("bytes 0-3/*", 0), ("Bytes  7-7/10", 7)] {
            assert_eq!(first_byte(range, 10), Begins::At(first), "{range}");
        }
        for range in [
            "",
            "bytes",
            "bytes */10",
            "bytes 5-9",
            "bytes 9-5/10",
            "bytes 5-10/10",
            "bytes 5-9/11",
            "items 5-9/10",
            "bytes -5/10",
            "bytes 5-9/x",
        ] {
            assert!(matches!(first_byte(range, 10), Begins::Wrong(_)), "{range}");
        }
    }
}
