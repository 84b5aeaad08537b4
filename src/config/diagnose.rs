//! An error with its line, a caret under the word and "did you mean".
