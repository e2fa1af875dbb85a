//! Licences as declared, and as SPDX expressions where that can be proved.
//!
//! Takes the text that a package declares; gives the SPDX expression (SPDX 2.3, Annex D) that it certainly means, or nothing: "BSD"
//! and "Apache" name several licences. What a package declares is not what it is.

use super::package::PackageType;

/// No declared licence that means something is longer.
const LONGEST: usize = 2_000;

/// The expression that `declared` certainly means.
pub fn expression(kind: PackageType, declared: &str) -> Option<String> {
    let text = declared.trim();
    if text.is_empty() || text.len() > LONGEST || text.chars().any(char::is_control) {
        return None;
    }
    valid(text).or_else(|| named(text)).or_else(|| match kind {
        PackageType::Cran => of_r(text),
        PackageType::Rpm => of_fedora(text),
        _ => None,
    })
}

/// An expression already.
fn valid(text: &str) -> Option<String> {
    let parsed = spdx::Expression::parse_mode(text, spdx::ParseMode::STRICT).ok()?;
    (parsed.requirements().count() > 0).then(|| text.to_owned())
}

/// Names that mean one licence wherever they stand: of the licence itself, and Python's classifiers.
fn named(text: &str) -> Option<String> {
    let name = text.rsplit(" :: ").next().unwrap_or(text);
    let name = name.strip_prefix("The ").or_else(|| name.strip_prefix("the ")).unwrap_or(name);
    let known = match name.to_ascii_lowercase().replace(", version", "").replace(" version", "").as_str() {
        "mit license" | "mit licence" | "expat" => "MIT",
        "apache license 2.0" | "apache 2.0" | "apache-2" | "apache2.0" | "apache software license 2.0" | "asl 2.0" => {
            "Apache-2.0"
        }
        "isc license" | "isc license (iscl)" => "ISC",
        "python software foundation license" => "PSF-2.0",
        "mozilla public license 2.0 (mpl 2.0)" | "mozilla public license 2.0" | "mpl 2.0" => "MPL-2.0",
        "gnu general public license v2 (gplv2)" => "GPL-2.0-only",
        "gnu general public license v2 or later (gplv2+)" => "GPL-2.0-or-later",
        "gnu general public license v3 (gplv3)" => "GPL-3.0-only",
        "gnu general public license v3 or later (gplv3+)" => "GPL-3.0-or-later",
        "gnu lesser general public license v3 (lgplv3)" => "LGPL-3.0-only",
        "gnu lesser general public license v3 or later (lgplv3+)" => "LGPL-3.0-or-later",
        "gnu affero general public license v3" => "AGPL-3.0-only",
        "the unlicense (unlicense)" | "unlicense (unlicense)" => "Unlicense",
        "bsd 3-clause" | "3-clause bsd license" | "bsd-3-clause license" | "new bsd license" => "BSD-3-Clause",
        "bsd 2-clause" | "2-clause bsd license" | "simplified bsd license" => "BSD-2-Clause",
        "boost software license 1.0 (bsl-1.0)" => "BSL-1.0",
        _ => return None,
    };
    Some(known.to_owned())
}

/// "Writing R Extensions", 1.1.2: alternatives with `|`; the standard names of R's `share/licenses`.
fn of_r(text: &str) -> Option<String> {
    let alternatives: Option<Vec<String>> = text
        .split('|')
        .map(|one| {
            // `+ file LICENSE` gives the holders of MIT's and BSD's, and restrictions of others.
            let (name, file) = match one.trim().split_once('+') {
                Some((name, file)) if ["file LICENSE", "file LICENCE"].contains(&file.trim()) => (name.trim(), true),
                Some(_) => return None,
                None => (one.trim(), false),
            };
            let plain: String = name.chars().filter(|c| !c.is_whitespace()).collect();
            Some(
                match plain.as_str() {
                    "MIT" if file => "MIT",
                    "BSD_2_clause" if file => "BSD-2-Clause",
                    "BSD_3_clause" if file => "BSD-3-Clause",
                    _ if file => return None,
                    "GPL-2" => "GPL-2.0-only",
                    "GPL-3" => "GPL-3.0-only",
                    "GPL(>=2)" | "GPL(>=2.0)" => "GPL-2.0-or-later",
                    "GPL(>=3)" | "GPL(>=3.0)" => "GPL-3.0-or-later",
                    "LGPL-2" => "LGPL-2.0-only",
                    "LGPL-2.1" => "LGPL-2.1-only",
                    "LGPL-3" => "LGPL-3.0-only",
                    "LGPL(>=2)" => "LGPL-2.0-or-later",
                    "LGPL(>=2.1)" => "LGPL-2.1-or-later",
                    "LGPL(>=3)" => "LGPL-3.0-or-later",
                    "AGPL-3" => "AGPL-3.0-only",
                    "Artistic-2.0" => "Artistic-2.0",
                    "ApacheLicense2.0" | "ApacheLicense(==2.0)" => "Apache-2.0",
                    "CC0" => "CC0-1.0",
                    _ => return None,
                }
                .to_owned(),
            )
        })
        .collect();
    Some(alternatives?.join(" OR "))
}

/// Fedora's short names of before it took SPDX's: those that mean one licence, with `and`, `or` and parentheses.
fn of_fedora(text: &str) -> Option<String> {
    let spaced = text.replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut out = Vec::new();
    let mut at = words.as_slice();
    while let Some((word, rest)) = at.split_first() {
        at = rest;
        out.push(match *word {
            "(" | ")" => *word,
            "and" => "AND",
            "or" => "OR",
            "GPLv2" => "GPL-2.0-only",
            "GPLv2+" => "GPL-2.0-or-later",
            "GPLv3" => "GPL-3.0-only",
            "GPLv3+" => "GPL-3.0-or-later",
            "LGPLv2" => "LGPL-2.0-only",
            "LGPLv2+" => "LGPL-2.0-or-later",
            "LGPLv3" => "LGPL-3.0-only",
            "LGPLv3+" => "LGPL-3.0-or-later",
            "AGPLv3" => "AGPL-3.0-only",
            "AGPLv3+" => "AGPL-3.0-or-later",
            "MPLv1.1" => "MPL-1.1",
            "MPLv2.0" => "MPL-2.0",
            "Boost" => "BSL-1.0",
            "zlib" => "Zlib",
            "ISC" => "ISC",
            "Unlicense" => "Unlicense",
            "ASL" if rest.first() == Some(&"2.0") => {
                at = rest.get(1..).unwrap_or_default();
                "Apache-2.0"
            }
            // `MIT` and `BSD` were names of families there.
            _ => return None,
        });
    }
    valid(&out.join(" ").replace("( ", "(").replace(" )", ")"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_licence_is_an_expression_only_where_that_is_certain() {
        for (kind, declared, means) in [
            (PackageType::Pypi, "MIT", "MIT"),
            (
                PackageType::Apk,
                "MIT AND (BSD-3-Clause OR GPL-2.0-or-later)",
                "MIT AND (BSD-3-Clause OR GPL-2.0-or-later)",
            ),
            (PackageType::Pypi, "License :: OSI Approved :: MIT License", "MIT"),
            (PackageType::Maven, "The Apache License, Version 2.0", "Apache-2.0"),
            (PackageType::Cran, "GPL (>= 2)", "GPL-2.0-or-later"),
            (PackageType::Cran, "GPL-2 | GPL-3", "GPL-2.0-only OR GPL-3.0-only"),
            (PackageType::Cran, "MIT + file LICENSE", "MIT"),
            (PackageType::Rpm, "GPLv2+ and (ASL 2.0 or zlib)", "GPL-2.0-or-later AND (Apache-2.0 OR Zlib)"),
        ] {
            assert_eq!(expression(kind, declared).as_deref(), Some(means), "{declared}");
        }
        for (kind, declared) in [
            (PackageType::Pypi, "BSD"),
            (PackageType::Pypi, "License :: OSI Approved :: BSD License"),
            (PackageType::Pypi, "License :: OSI Approved :: Apache Software License"),
            (PackageType::Cran, "GPL"),
            (PackageType::Cran, "GPL-3 + file LICENSE"),
            (PackageType::Rpm, "GPLv2+ and Public Domain"),
            (PackageType::Npm, "SEE LICENSE IN LICENSE.txt"),
            (PackageType::Npm, ""),
            (PackageType::Npm, "MIT\u{1b}[2J"),
            (PackageType::Npm, "MIT AND"),
        ] {
            assert_eq!(expression(kind, declared), None, "{declared}");
        }
    }
}
