//! Which of several images is meant: in a layout, in an archive.
//!
//! Takes what each image is called there, and what the user asked for; gives a place in the list.
//! Trusts nothing: names are text from outside, and are compared, never followed.
//! Refuses where nothing matches, and where more than one does; both errors list what there is.

use super::reference::Pick;
use crate::error::{Error, Kind, Result, Stage};

/// Whether a name is the one that is wanted.
type Form = fn(&str, &str) -> bool;

/// How names are compared, the closest form first.
const FORMS: [Form; 3] = [
    |name, wanted| name == wanted,
    |name, wanted| whole(name) == whole(wanted),
    |name, wanted| tag(name) == Some(wanted),
];

/// As many images are listed.
const LISTED_MAX: usize = 20;

/// The place of the image that is meant; `holder` is what they are in, for messages.
///
/// A name is compared as podman compares it: as it stands; then with what docker leaves out (`docker.io/library/`,
/// `:latest`); then its tag alone.
///
/// # Errors
/// When none is meant, or more than one.
pub fn choose(images: &[&[String]], pick: &Pick, holder: &str) -> Result<usize> {
    let there_are = || format!("there are: {}", list(images));
    let found: Vec<usize> = match pick {
        Pick::Only => (0..images.len()).collect(),
        Pick::At(place) => (0..images.len()).filter(|known| known == place).collect(),
        Pick::Named(wanted) => {
            let matching = |form: &Form| -> Vec<usize> {
                let named = |names: &[String]| names.iter().any(|name| form(name, wanted));
                (0..images.len()).filter(|place| images.get(*place).is_some_and(|names| named(names))).collect()
            };
            FORMS.iter().map(matching).find(|found| !found.is_empty()).unwrap_or_default()
        }
    };
    match (found.as_slice(), pick) {
        ([place], _) => Ok(*place),
        ([], Pick::Only) => Err(Error::new(Stage::Pull, Kind::Missing, format!("{holder} has no image"))
            .hint("the archive lists no image; save it again")),
        ([], _) => Err(Error::new(Stage::Pull, Kind::Missing, format!("{holder} has no image \"{pick}\""))
            .because(there_are())
            .hint("choose one of these: add its name, or @ and its number, after a colon")),
        (_, Pick::Only) => Err(Error::new(Stage::Pull, Kind::Usage, format!("{holder} has {} images", images.len()))
            .because(there_are())
            .hint("choose one: add its name, or @ and its number, after a colon")),
        _ => Err(Error::new(Stage::Pull, Kind::Usage, format!("\"{pick}\" stands for {} images here", found.len()))
            .because(there_are())
            .hint("choose one by its whole name, or by @ and its number")),
    }
}

/// What the image is called that was chosen: the name that was meant, else the first.
pub fn own_name<'a>(names: &'a [String], pick: &Pick) -> Option<&'a String> {
    let meant = match pick {
        Pick::Named(wanted) => FORMS.iter().find_map(|form| names.iter().find(|name| form(name, wanted))),
        Pick::Only | Pick::At(_) => None,
    };
    meant.or_else(|| names.first())
}

/// The images with their numbers and names.
fn list(images: &[&[String]]) -> String {
    let one = |(place, names): (usize, &&[String])| {
        let names = if names.is_empty() { "without a name".to_owned() } else { names.join(" = ") };
        format!("@{place} {names}")
    };
    let mut all: Vec<String> = images.iter().enumerate().take(LISTED_MAX).map(one).collect();
    if images.len() > LISTED_MAX {
        all.push(format!("and {} more", images.len() - LISTED_MAX));
    }
    all.join(", ")
}

/// A name with what docker leaves out of it.
fn whole(name: &str) -> String {
    let with_host = match name.split_once('/') {
        Some((first, _)) if super::reference::looks_like_host(first) => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    };
    if tag(&with_host).is_some() { with_host } else { format!("{with_host}:latest") }
}

/// What stands after the colon of a name's last part.
fn tag(name: &str) -> Option<&str> {
    name.rsplit('/').next()?.split_once(':').map(|(_, tag)| tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_chosen_by_name_by_tag_or_by_number() {
        let images: [&[String]; 4] = [
            &["docker.io/library/debian:12".to_owned()],
            &["localhost/lab/tool:1".to_owned(), "localhost/lab/tool:latest".to_owned()],
            &["ghcr.io/lab/tool".to_owned()],
            &[],
        ];
        let place = |pick: Pick| choose(&images, &pick, "it").ok();
        let named = |name: &str| place(Pick::Named(name.to_owned()));
        for name in ["debian:12", "library/debian:12", "docker.io/library/debian:12", "12"] {
            assert_eq!(named(name), Some(0), "{name}");
        }
        for name in ["localhost/lab/tool:1", "1", "localhost/lab/tool", "latest"] {
            assert_eq!(named(name), Some(1), "{name}");
        }
        assert_eq!((named("ghcr.io/lab/tool:latest"), named("ghcr.io/lab/tool")), (Some(2), Some(2)));
        for name in ["debian", "lab/tool:1", "tool", "", "docker.io/library/debian:13", "localhost/lab"] {
            assert_eq!(named(name), None, "{name}");
        }
        assert_eq!((place(Pick::At(3)), place(Pick::At(4)), place(Pick::Only)), (Some(3), None, None));
    }

    #[test]
    fn several_images_are_listed_with_the_numbers_that_choose_them() {
        let many: Vec<Vec<String>> = (0..25).map(|n| vec![format!("t/x:{n}")]).collect();
        let many: Vec<&[String]> = many.iter().map(Vec::as_slice).collect();
        let report = choose(&many, &Pick::Only, "the archive").unwrap_err().report();
        assert!(report.contains("the archive has 25 images") && report.contains("@1 t/x:1,"), "{report}");
        assert!(report.contains("and 5 more") && report.contains("hint: choose one"), "{report}");
        let twice: [&[String]; 2] = [&["a/x:1".to_owned()], &["b/x:1".to_owned()]];
        let report = choose(&twice, &Pick::Named("1".to_owned()), "it").unwrap_err().report();
        assert!(report.contains("\"1\" stands for 2 images") && report.contains("@0 a/x:1, @1 b/x:1"), "{report}");
        let report = choose(&[], &Pick::Only, "the layout").unwrap_err().report();
        assert!(report.contains("the layout has no image"), "{report}");
    }
}
