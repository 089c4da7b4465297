//! Ctrl-C: the first one asks the training to save where it stands and to end, the second ends the program at once.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::output;

/// The exit status of a program that Ctrl-C ended, as shells have it.
pub const STATUS: u8 = 130;

static IS_ASKED: AtomicBool = AtomicBool::new(false);

/// From here on Ctrl-C is heeded. Where there are no checkpoints there is nothing to wait for.
pub fn heed(has_checkpoints: bool) {
    let handler = move || {
        if !has_checkpoints {
            output::message("interrupted: nothing was saved; --checkpoint FILE keeps where a training stands");
        } else if !IS_ASKED.swap(true, Ordering::Relaxed) {
            output::message("interrupted: saving where this epoch ends; Ctrl-C again ends at once");
            return;
        }
        std::process::exit(STATUS.into());
    };
    // Where Ctrl-C is ignored, as in the background of a script, it stays so.
    if let Err(error) = ctrlc::try_set_handler(handler) {
        log::debug!("Ctrl-C is not heeded: {error}");
    }
}

/// Whether Ctrl-C has asked for the end.
pub fn is_asked() -> bool {
    IS_ASKED.load(Ordering::Relaxed)
}

/// A training that Ctrl-C ended, in the place of an error.
#[derive(Debug)]
pub struct Interrupted(pub String);

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Interrupted {}

/// The command that goes on from `checkpoint`: this one, with `--resume`.
pub fn command_to_resume(checkpoint: &Path) -> String {
    let mut words: Vec<String> = std::env::args()
        .enumerate()
        .filter(|(index, word)| *index == 0 || !(word == "--resume" || word.starts_with("--resume=")))
        .map(|(_, word)| word)
        .collect();
    let has_checkpoint = words.iter().any(|word| word == "--checkpoint" || word.starts_with("--checkpoint="));
    words.push(match has_checkpoint {
        true => "--resume".to_owned(),
        false => format!("--resume={}", checkpoint.display()),
    });
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// A word as shells read it back.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_=+./:,@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_read_others() {
        assert_eq!(quoted("--l2=1e-5"), "--l2=1e-5");
        assert_eq!(quoted("two words"), "'two words'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
