//! Expected texts, a file for each case below `tests/golden`. With `CES_REWRITE_GOLDEN=1` they are written anew from what is printed:
//! read the difference before you commit it.

use std::fs;
use std::path::Path;

/// Holds `text` against the file of that name.
#[track_caller]
pub fn is_as_expected(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("CES_REWRITE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory of expected texts");
        fs::write(&path, text).expect("an expected text");
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == text,
        "tests/golden/{name} says\n{expected}\nand printed was\n{text}\n(CES_REWRITE_GOLDEN=1 takes what is printed)"
    );
}
