//! Words after the image that were meant for `ces`: options, and the `--` that ends them.
//!
//! Takes the arguments after the image, and whether the image has a program of its own that takes them; gives the command without a
//! leading `--`; trusts nothing; refuses an option where the program belongs, and says where it goes. Where the image has an entrypoint,
//! all arguments are its own.

use clap::Parser as _;

use crate::cli::run::OptFile;
use crate::error::{Error, Kind, Result, Stage};

/// The arguments of the command.
///
/// # Errors
/// When the first one is an option.
pub(super) fn command(image: &str, arguments: &[String]) -> Result<Vec<String>> {
    let arguments = match arguments.split_first() {
        // No program is called so.
        Some((first, rest)) if first == "--" => rest,
        _ => arguments,
    };
    match arguments.first() {
        Some(first) if first.starts_with('-') => Err(Error::new(
            Stage::Cli,
            Kind::Usage,
            format!("{first} stands after the image, where the command belongs"),
        )
        .because("options of ces run go before the image, and what follows the image is the command")
        .hint(instead(image, arguments).unwrap_or_else(|| "ces run [OPTIONS] IMAGE COMMAND [ARGS]".to_owned()))),
        _ => Ok(arguments.to_vec()),
    }
}

/// The line as it was meant; none where that cannot be told, or it would show the value of a variable.
fn instead(image: &str, arguments: &[String]) -> Option<String> {
    let is_options = |count: &usize| {
        let read = arguments.get(..*count).and_then(|options| OptFile::try_parse_from(options).ok());
        read.is_some_and(|file| file.options.env.is_empty())
    };
    let is_before_a_program = |count: &usize| arguments.get(*count).is_none_or(|next| !next.starts_with('-'));
    let count = (1..=arguments.len()).find(|count| is_options(count) && is_before_a_program(count))?;
    let (options, command) = arguments.split_at(count);
    let arguments: Vec<&str> =
        options.iter().map(String::as_str).chain([image]).chain(command.iter().map(String::as_str)).collect();
    Some(format!("write: ces run {}", arguments.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn an_option_after_the_image_is_refused_with_the_line_that_was_meant() {
        for (line, hint) in [
            ("--memory 1g ls -l", "write: ces run --memory 1g img ls -l"),
            ("-it bash", "write: ces run -it img bash"),
            ("--memory=1g --data-ro", "write: ces run --memory=1g --data-ro img"),
            ("-- --cpus 2 ls", "write: ces run --cpus 2 img ls"),
            ("--no-such ls", "ces run [OPTIONS] IMAGE COMMAND [ARGS]"),
            // Nothing that may be secret is shown again.
            ("-e TOKEN=secret ls", "ces run [OPTIONS] IMAGE COMMAND [ARGS]"),
        ] {
            let error = command("img", &split(line)).unwrap_err();
            assert_eq!((error.kind(), error.hint_text()), (Kind::Usage, Some(hint)), "{line}");
        }
    }

    #[test]
    fn a_leading_end_of_options_is_left_out_and_no_other() {
        assert_eq!(command("img", &split("-- ls -- x")).unwrap(), split("ls -- x"));
        assert_eq!(command("img", &split("ls -- x")).unwrap(), split("ls -- x"));
        assert_eq!(command("img", &[]).unwrap(), split(""));
    }
}
