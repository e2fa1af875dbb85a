//! What passes, and how long it is waited for.
//!
//! Takes failures and what the registry asks for (`Retry-After`); gives pauses, or the failure itself when enough was tried.
//! Trusts no registry: a pause that is asked for has a limit, and all pauses in which nothing came have one together.
//! Refuses to go on without a byte for ever; as long as bytes come, nothing is counted: they are bounded by the blob's size.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Client, StatusCode};

use super::Registry;
use crate::error::{Error, Result};

/// How often something is tried of which nothing comes.
const ATTEMPTS: u32 = 6;
/// The same while the registry has not answered at all: its name is likelier wrong than its network.
const ATTEMPTS_UNHEARD: u32 = 3;
/// The longest pause that a registry may ask for.
const ASKED_MAX: Duration = Duration::from_secs(5 * 60);
/// All pauses together in which nothing came.
const WAITED_MAX: Duration = Duration::from_secs(10 * 60);
/// How often it is asked whether to go on.
pub(super) const LISTEN_EVERY: Duration = Duration::from_millis(300);

/// The lines of a `WWW-Authenticate` header.
pub(super) type Offered = Vec<String>;

/// Why a request gave nothing, or not all.
pub(super) enum Failure {
    /// It may be otherwise later; the registry may say when.
    Passing(Error, Option<Duration>),
    /// What the registry wants first.
    Unauthorized(Error, Offered),
    /// For good.
    Final(Error),
}

impl Failure {
    /// The failure that a status means (RFC 9110, section 15; RFC 6585 for 429). 400, 403 and 404 do not pass.
    pub(super) fn of(status: StatusCode, headers: &HeaderMap, error: Error) -> Self {
        match status {
            StatusCode::UNAUTHORIZED => {
                let lines = headers.get_all(WWW_AUTHENTICATE).iter();
                Self::Unauthorized(error, lines.map(|line| String::from_utf8_lossy(line.as_bytes()).into()).collect())
            }
            StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Self::Passing(error, retry_after(headers)),
            _ => Self::Final(error),
        }
    }
}

/// How long the registry asks to wait (RFC 9110, section 10.2.3): seconds, or a date. The date is compared with the answer's own
/// `Date`, by the registry's clock; without that it says nothing.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let asked = text(RETRY_AFTER)?;
    if !asked.is_empty() && asked.bytes().all(|b| b.is_ascii_digit()) {
        // More than fits is more than is waited for.
        return Some(Duration::from_secs(asked.parse().unwrap_or(u64::MAX)));
    }
    let date = |text: &str| jiff::fmt::rfc2822::parse(text).ok();
    let (then, now) = (date(asked)?, date(text(DATE)?)?);
    // What is past is no pause at all.
    Some(Duration::try_from(now.duration_until(&then)).unwrap_or_default())
}

/// How long pauses are that nobody asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pauses {
    /// The first; each is twice the one before.
    pub(super) first: Duration,
    /// The longest.
    pub(super) longest: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { first: Duration::from_millis(500), longest: Duration::from_secs(30) }
    }
}

impl Pauses {
    /// The pause before attempt `number` (from 1 on): between half and all of what doubling gives, so that many who were sent
    /// away at once do not come back at once. `chance` is any number.
    fn before(&self, number: u32, chance: u64) -> Duration {
        let doubled = self.first.saturating_mul(1 << number.saturating_sub(1).min(16)).min(self.longest);
        let part = u32::try_from(chance % 1001).unwrap_or_default();
        doubled / 2 + doubled / 2 * part / 1000
    }
}

/// What was tried already.
pub(super) struct Patience {
    pauses: Pauses,
    /// Attempts in a row of which nothing came.
    fruitless: u32,
    /// Pauses in a row.
    waited: Duration,
    /// Whether the registry has answered.
    heard: bool,
    /// Whether it was logged in for the last attempt.
    logged_in: bool,
}

impl Patience {
    /// Bytes came.
    pub(super) fn progress(&mut self) {
        *self = Self { pauses: self.pauses, fruitless: 0, waited: Duration::ZERO, heard: true, logged_in: false };
    }

    /// The pause before the next attempt; none: enough was tried.
    fn next(&mut self, asked: Option<Duration>) -> Option<Duration> {
        self.fruitless += 1;
        let attempts = if self.heard { ATTEMPTS } else { ATTEMPTS_UNHEARD };
        let chance = RandomState::new().build_hasher().finish();
        let pause = asked.unwrap_or_else(|| self.pauses.before(self.fruitless, chance));
        self.waited = self.waited.saturating_add(pause);
        let enough = self.fruitless >= attempts || asked > Some(ASKED_MAX) || self.waited > WAITED_MAX;
        (!enough).then_some(pause)
    }
}

impl Registry {
    /// Nothing was tried yet.
    pub(super) fn patience(&self) -> Patience {
        Patience { pauses: self.pauses, fruitless: 0, waited: Duration::ZERO, heard: false, logged_in: false }
    }

    /// Does what has to be done before the next attempt: waits, or logs in. `ask` is asked whether to go on, and told how long
    /// is still to be waited.
    ///
    /// # Errors
    /// The failure itself, when it is for good or enough was tried; and `ask`'s.
    pub(super) async fn after(
        &self,
        http: &Client,
        patience: &mut Patience,
        failure: Failure,
        ask: &mut dyn FnMut(Duration) -> Result<()>,
    ) -> Result<()> {
        match failure {
            Failure::Final(error) => Err(error),
            Failure::Passing(error, asked) => {
                patience.logged_in = false;
                self.wait(patience, error, asked, ask).await
            }
            // A token lives for minutes, an image may take longer: once for each attempt that came to something else.
            Failure::Unauthorized(error, _) if std::mem::replace(&mut patience.logged_in, true) => Err(error),
            Failure::Unauthorized(error, offered) => {
                patience.heard = true;
                self.log_in(http, &offered, error, ask).await
            }
        }
    }

    /// Waits before something is tried again.
    ///
    /// # Errors
    /// `error`, when enough was tried; and `ask`'s.
    pub(super) async fn wait(
        &self,
        patience: &mut Patience,
        error: Error,
        asked: Option<Duration>,
        ask: &mut dyn FnMut(Duration) -> Result<()>,
    ) -> Result<()> {
        patience.heard |= error.causes().iter().any(|cause| cause.starts_with("it answers "));
        let Some(mut pause_left) = patience.next(asked) else {
            return Err(match asked {
                Some(asked) if asked > ASKED_MAX => {
                    error.because(format!("it asks to wait {}", in_words(asked))).hint("pull again after that time")
                }
                _ => error,
            });
        };
        if let Some(watch) = &self.watch {
            watch.tell(&format!("{error}; trying again in {}", in_words(pause_left)));
        }
        loop {
            ask(pause_left)?;
            let pause = pause_left.min(LISTEN_EVERY);
            tokio::time::sleep(pause).await;
            pause_left -= pause;
            if pause_left.is_zero() {
                return ask(pause_left);
            }
        }
    }
}

/// A pause for people.
fn in_words(pause: Duration) -> String {
    match pause.as_secs() {
        0 => "less than a second".to_owned(),
        seconds @ 1..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h", seconds.div_ceil(3600)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(headers: &[(&'static str, &'static str)]) -> Option<Duration> {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        retry_after(&headers.collect())
    }

    #[test]
    fn a_registry_says_when_to_come_back_in_seconds_or_by_its_own_clock() {
        let now = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        let seconds = |n| Some(Duration::from_secs(n));
        assert_eq!(asked(&[("retry-after", "120")]), seconds(120));
        assert_eq!(asked(&[("retry-after", " 0 ")]), seconds(0));
        assert_eq!(asked(&[("retry-after", "99999999999999999999999")]), seconds(u64::MAX));
        assert_eq!(asked(&[now, ("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT")]), seconds(30));
        assert_eq!(asked(&[now, ("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")]), seconds(0));
        assert_eq!(asked(&[("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT")]), None, "without a clock");
        for nonsense in ["", "-1", "1.5", "soon", "1e9"] {
            assert_eq!(asked(&[now, ("retry-after", nonsense)]), None, "{nonsense}");
        }
    }

    #[test]
    fn pauses_double_up_to_a_limit_and_never_fall_together() {
        let pauses = Pauses::default();
        for (number, all) in [(1, 500), (2, 1000), (3, 2000), (7, 30_000), (4_000_000_000, 30_000)] {
            for chance in [0, 1, 500, 1000, u64::MAX] {
                let pause = pauses.before(number, chance).as_millis();
                assert!((all / 2..=all).contains(&pause), "{number}: {pause}");
            }
            assert_ne!(pauses.before(number, 0), pauses.before(number, 1000));
        }
    }

    #[test]
    fn patience_ends_without_a_byte_and_not_with_one() {
        let fresh = || Patience {
            pauses: Pauses::default(),
            fruitless: 0,
            waited: Duration::ZERO,
            heard: true,
            logged_in: false,
        };
        let mut patience = fresh();
        for round in 0..1000 {
            assert!((1..ATTEMPTS).all(|_| patience.next(None).is_some()), "{round}");
            patience.progress();
        }
        assert!((1..ATTEMPTS).all(|_| patience.next(None).is_some()) && patience.next(None).is_none());
        // A pause that is asked for is made; one that is too long is not, and neither are too many long ones.
        assert_eq!(fresh().next(Some(ASKED_MAX)), Some(ASKED_MAX));
        assert_eq!(fresh().next(Some(ASKED_MAX + Duration::from_secs(1))), None);
        let mut patience = fresh();
        assert!((0..2).all(|_| patience.next(Some(ASKED_MAX)).is_some()) && patience.next(Some(ASKED_MAX)).is_none());
        // A name that nobody answers to is told soon.
        let mut unheard = Patience { heard: false, ..fresh() };
        assert!((1..ATTEMPTS_UNHEARD).all(|_| unheard.next(None).is_some()) && unheard.next(None).is_none());
    }

    #[test]
    fn what_does_not_pass_is_not_tried_again() {
        let of = |status: u16| {
            let error = Error::new(crate::error::Stage::Pull, crate::error::Kind::Failed, "x");
            Failure::of(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), error)
        };
        for status in [400, 403, 404, 405, 410, 416, 418, 501, 204, 302] {
            assert!(matches!(of(status), Failure::Final(_)), "{status}");
        }
        for status in [408, 429, 500, 502, 503, 504] {
            assert!(matches!(of(status), Failure::Passing(_, None)), "{status}");
        }
        assert!(matches!(of(401), Failure::Unauthorized(_, _)));
    }
}
