//! Ruby: `specifications/*.gemspec`, of which the comment that RubyGems itself reads first is enough ("stub:"), else the
//! assignments of name and version. Default gems are in `specifications/default`.

use super::super::package::{Package, PackageType};
use super::{Claims, licence, package, split};

/// Whether the file describes an installed gem.
pub fn describes(path: &str) -> bool {
    let (directory, name) = split(path);
    let (above, last) = split(directory);
    name.ends_with(".gemspec")
        && (last == "specifications" || (last == "default" && split(above).1 == "specifications"))
}

/// The gem, and the directories that it claims.
pub fn read(bytes: &[u8], place: &str) -> Option<(Package, Claims)> {
    let text = String::from_utf8_lossy(bytes);
    let stub = text.lines().take(10).find_map(|line| line.strip_prefix("# stub: "));
    let mut found = match stub {
        Some(stub) => {
            let mut words = stub.split(' ');
            package(PackageType::Gem, words.next()?, words.next()?, place)?
        }
        None => package(PackageType::Gem, assigned(&text, "name")?, assigned(&text, "version")?, place)?,
    };
    let licences = text.lines().find(|line| line.contains(".licenses = [") || line.contains(".license = "));
    let quoted = |line: &str| line.split('"').skip(1).step_by(2).collect::<Vec<_>>().join(", ");
    found.licence = licences.map(quoted).as_deref().and_then(licence);
    let (directory, name) = split(place);
    let root = directory.strip_suffix("/default").unwrap_or(directory).strip_suffix("/specifications")?;
    let full = name.strip_suffix(".gemspec")?;
    let claims = Claims {
        kind: PackageType::Gem,
        package: found.name.clone(),
        place: place.to_owned(),
        paths: format!("{root}/gems/{full}/\n{root}/extensions/"),
    };
    Some((found, claims))
}

/// What `s.NAME = "…"` assigns.
fn assigned<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let is_assignment = |line: &&str| {
        line.trim_start()
            .split_once('.')
            .is_some_and(|(_, rest)| rest.strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with('=')))
    };
    text.lines().find(is_assignment)?.split(['"', '\'']).nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gem_is_read_from_its_stub_or_its_assignments() {
        let place = "usr/local/bundle/specifications/nokogiri-1.15.0-x86_64-linux.gemspec";
        assert!(describes(place) && describes("usr/lib/ruby/gems/3.1.0/specifications/default/json-2.6.1.gemspec"));
        assert!(!describes("usr/local/bundle/gems/x/x.gemspec"));
        let text = b"# -*- encoding: utf-8 -*-\n# stub: nokogiri 1.15.0 x86_64-linux lib\n\nGem::Specification.new do |s|\n  s.licenses = [\"MIT\".freeze, \"X\".freeze]\n";
        let (found, claims) = read(text, place).unwrap();
        assert_eq!((found.name.as_str(), found.version.as_str()), ("nokogiri", "1.15.0"));
        assert_eq!(found.licence.as_deref(), Some("MIT, X"));
        assert!(claims.paths.starts_with("usr/local/bundle/gems/nokogiri-1.15.0-x86_64-linux/\n"));
        let (found, _) =
            read(b"Gem::Specification.new do |s|\n  s.name = \"a\".freeze\n  s.version = \"2\"\n", place).unwrap();
        assert_eq!((found.name.as_str(), found.version.as_str()), ("a", "2"));
    }
}
