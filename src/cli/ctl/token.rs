//! The token of the API as `livemill ctl` finds it: given in the environment, or in the server's file.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::client::AskError;
use crate::cli::publish_key::API_TOKEN_VARIABLE;

/// What the API wants to see before it answers.
pub struct Token {
    pub token: String,
    /// Where it is from.
    pub origin: String,
}

impl Token {
    /// In the environment.
    pub fn given(given: &OsStr) -> Result<Self, AskError> {
        let token = given.to_str().filter(|token| is_sendable(token));
        let token = token.ok_or_else(|| AskError::Token(format!("{API_TOKEN_VARIABLE} holds no token")))?;
        Ok(Self { token: token.to_owned(), origin: API_TOKEN_VARIABLE.to_owned() })
    }

    /// Unlike a server, this makes no token where there is none, and whoever may read the file may use it.
    pub fn read(path: &Path) -> Result<Self, AskError> {
        let shown = path.display();
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(LONGEST_TOKEN_FILE).read_to_string(&mut text));
        let instead = "set LIVEMILL_API_TOKEN, or name the server's file with --token-file";
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(AskError::Token(format!("there is no token: there is no file \"{shown}\"; {instead}")))
            }
            Err(error) => {
                let why = crate::log::queue::describe(&error);
                Err(AskError::Token(format!("cannot read the token in \"{shown}\": {why}; {instead}")))
            }
            Ok(_) if !is_sendable(text.trim_end()) => Err(AskError::Token(format!("\"{shown}\" holds no token"))),
            Ok(_) => Ok(Self { token: text.trim_end().to_owned(), origin: format!("\"{shown}\"") }),
        }
    }
}

/// It stands in a line of a request.
fn is_sendable(token: &str) -> bool {
    !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic())
}

const LONGEST_TOKEN_FILE: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_where_it_is_said_to_be_or_the_reason_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let find = || Token::read(&path).map(|token| token.token).map_err(|error| error.to_string());
        assert!(find().unwrap_err().starts_with("there is no token: "));
        for (text, expected) in
            [("s3cret\n", Ok("s3cret")), ("", Err("")), ("two words", Err("")), ("a\r\nX: b", Err(""))]
        {
            std::fs::write(&path, text).unwrap();
            match expected {
                Ok(token) => assert_eq!(find().as_deref(), Ok(token)),
                Err(_) => assert!(find().unwrap_err().ends_with(" holds no token"), "{text:?}"),
            }
        }
    }
}
