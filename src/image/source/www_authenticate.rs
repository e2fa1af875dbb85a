//! The grammar of `WWW-Authenticate` (RFC 9110, sections 5.6 and 11).
//!
//! Takes the values of one or several header lines; gives the challenges in them, in their order.
//! Trusts nothing: a value that is cut off, or says a thing twice, gives no challenge from there on.
//! Refuses nothing: what cannot be read is left out, and whoever asked finds nothing that it knows.
//!
//! ```text
//! challenge   = auth-scheme [ 1*SP ( token68 / #auth-param ) ]
//! auth-param  = token BWS "=" BWS ( token / quoted-string )
//! ```
//!
//! A comma separates parameters as well as challenges: a word is a parameter's name if an equals sign follows it, and else
//! the scheme of the next challenge.

/// As many challenges are read; nobody sends more.
const CHALLENGES_MAX: usize = 16;

/// One way to log in, as the registry words it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawChallenge {
    /// The scheme, in lower case.
    pub scheme: String,
    /// Names, in lower case, and values without quotes.
    parameters: Vec<(String, String)>,
}

impl RawChallenge {
    /// The value of a parameter; none if it is missing, or there twice with two values.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let mut all = self.parameters.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let first = all.next()?;
        all.all(|other| other == first).then_some(first)
    }
}

/// The challenges in the lines, up to the first thing that is none in each.
pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<RawChallenge> {
    let mut all = Vec::new();
    for line in lines {
        let mut rest = Rest(line);
        while all.len() < CHALLENGES_MAX {
            rest.separators();
            let Some(challenge) = rest.challenge() else { break };
            all.push(challenge);
        }
    }
    all
}

/// What is still to be read of a line.
#[derive(Clone, Copy)]
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    /// Blanks (SP and HTAB).
    fn blanks(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t']);
    }

    /// Blanks and commas: a list may have empty elements (RFC 9110, section 5.6.1.2).
    fn separators(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t', ',']);
    }

    fn character(&mut self, wanted: char) -> bool {
        let after = self.0.strip_prefix(wanted);
        self.0 = after.unwrap_or(self.0);
        after.is_some()
    }

    /// All that `belongs`, at least one.
    fn word(&mut self, belongs: impl Fn(char) -> bool) -> Option<&'a str> {
        let end = self.0.find(|c| !belongs(c)).unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at_checked(end).filter(|(word, _)| !word.is_empty())?;
        self.0 = rest;
        Some(word)
    }

    /// `token` (section 5.6.2).
    fn token(&mut self) -> Option<&'a str> {
        self.word(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
    }

    /// Whether an element of a list ends here.
    fn is_at_end(&self) -> bool {
        self.0.trim_start_matches([' ', '\t']).chars().next().is_none_or(|c| c == ',')
    }

    /// `quoted-string` (section 5.6.4), without its quotes and escapes; none if it is cut off.
    fn quoted(&mut self) -> Option<String> {
        let mut out = String::new();
        let mut characters = self.0.strip_prefix('"')?.chars();
        loop {
            match characters.next()? {
                '"' => break,
                '\\' => out.push(characters.next()?),
                c => out.push(c),
            }
        }
        self.0 = characters.as_str();
        Some(out)
    }

    /// `auth-param`; nothing is read if there is none.
    fn parameter(&mut self) -> Option<(String, String)> {
        let mut rest = *self;
        let name = rest.token()?.to_ascii_lowercase();
        rest.blanks();
        if !rest.character('=') {
            return None;
        }
        rest.blanks();
        let value = match rest.0.starts_with('"') {
            true => rest.quoted()?,
            false => rest.token()?.to_owned(),
        };
        // `a=b==` is no parameter: it is what follows a scheme as token68.
        rest.is_at_end().then(|| *self = rest)?;
        Some((name, value))
    }

    fn challenge(&mut self) -> Option<RawChallenge> {
        let scheme = self.token()?.to_ascii_lowercase();
        if !self.0.starts_with([' ', '\t']) && !self.is_at_end() {
            return None;
        }
        self.blanks();
        let mut parameters = Vec::new();
        // Some write a comma after the scheme already.
        loop {
            let mut ahead = *self;
            ahead.separators();
            let Some(parameter) = ahead.parameter() else { break };
            *self = ahead;
            parameters.push(parameter);
        }
        if parameters.is_empty() {
            self.token68();
        }
        // Something that is neither: whatever it says about this challenge is not known.
        self.is_at_end().then_some(RawChallenge { scheme, parameters })
    }

    /// `token68` (section 11.2): of no use to any scheme that is known here, but it may stand there.
    fn token68(&mut self) {
        let mut rest = *self;
        if rest.word(|c| c.is_ascii_alphanumeric() || "-._~+/".contains(c)).is_some() {
            rest.word(|c| c == '=');
            if rest.is_at_end() {
                *self = rest;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(lines: &[&str]) -> Vec<String> {
        let all = parse(lines.iter().copied());
        all.iter()
            .map(|challenge| {
                let parameters: Vec<_> =
                    challenge.parameters.iter().map(|(name, value)| format!("{name}<{value}>")).collect();
                format!("{} {}", challenge.scheme, parameters.join(" ")).trim().to_owned()
            })
            .collect()
    }

    #[test]
    fn challenges_are_read_in_every_form_that_the_grammar_has() {
        let table: [(&[&str], &[&str]); 18] = [
            (&[r#"Bearer realm="https://a/t",service="s""#], &["bearer realm<https://a/t> service<s>"]),
            (&["BEARER Realm=x,SERVICE=y"], &["bearer realm<x> service<y>"]),
            (&[r#"Bearer realm = "x" ,	service	=	y"#], &["bearer realm<x> service<y>"]),
            (
                &[r#"Bearer realm="a\"b\\c",scope="x:y,z:pull,push""#],
                &[r#"bearer realm<a"b\c> scope<x:y,z:pull,push>"#],
            ),
            (&[r#"Basic realm="r", Bearer realm="t",service=s"#], &["basic realm<r>", "bearer realm<t> service<s>"]),
            (&["Basic", r#"Bearer realm="t""#], &["basic", "bearer realm<t>"]),
            (&["Negotiate, Basic realm=x"], &["negotiate", "basic realm<x>"]),
            (&["Negotiate YWJj==, Bearer realm=t"], &["negotiate", "bearer realm<t>"]),
            (&["NTLM TlRMTVNTUAAB=, Basic"], &["ntlm", "basic"]),
            (&[" , ,Bearer realm=t, ,service=s, ,"], &["bearer realm<t> service<s>"]),
            (&["Bearer,realm=t"], &["bearer realm<t>"]),
            (&[r#"Bearer realm="""#], &["bearer realm<>"]),
            (
                &[r#"Newauth realm="apps", type=1, title="Login to \"apps\"", Basic realm="simple""#],
                &[r#"newauth realm<apps> type<1> title<Login to "apps">"#, "basic realm<simple>"],
            ),
            // Cut off, or no challenge at all.
            (&[r#"Bearer realm="x"#], &[]),
            (&[r#"Basic realm=x, Bearer realm="x"#], &["basic realm<x>"]),
            (&[r#"Bearer realm="x"service="y""#], &[]),
            (&["=", "\"x\"", "Bearer=x", "a/b"], &[]),
            (&["", " ", ","], &[]),
        ];
        for (lines, challenges) in table {
            assert_eq!(read(lines), challenges, "{lines:?}");
        }
    }

    #[test]
    fn what_is_said_twice_in_two_ways_is_not_said() {
        let all = parse(["Bearer realm=a,realm=b,service=s,service=s"]);
        assert_eq!((all[0].parameter("realm"), all[0].parameter("service")), (None, Some("s")));
    }

    proptest! {
        #[test]
        fn nothing_that_a_registry_sends_stops_the_reader(text in r#"([ -~\t]|\\|"|,|=|Bearer |realm=|é){0,80}"#) {
            prop_assert!(parse([text.as_str()]).len() <= CHALLENGES_MAX);
        }

        #[test]
        fn a_challenge_that_is_written_is_read_as_it_was(
            name in "[a-z]{1,8}", value in "[ -~]{0,40}", other in "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,10}", gap in "[ \t]{0,3}",
        ) {
            let quoted: String = value.chars().flat_map(|c| matches!(c, '"' | '\\').then_some('\\').into_iter().chain([c])).collect();
            let text = format!("Bearer {name}{gap}={gap}\"{quoted}\"{gap},{gap}x{name}={other}, Basic realm=z");
            let all = parse([text.as_str()]);
            prop_assert_eq!(all.len(), 2, "{}", text);
            prop_assert_eq!(all[0].parameter(&name), Some(value.as_str()));
            prop_assert_eq!(all[0].parameter(&format!("x{name}")), Some(other.as_str()));
        }
    }
}
