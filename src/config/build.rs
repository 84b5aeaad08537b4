//! The tree and the table to the structs of [`super`].

use std::path::{Path, PathBuf};

use super::{Config, diagnose::ConfigError};

/// What the command line says about a configuration file.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// `-p`; None: made from the path of the file.
    pub prefix: Option<PathBuf>,
    /// `-g`: directives in front of the file's.
    pub globals: Option<String>,
}

impl Config {
    /// Reads a file and everything it includes. Nothing is bound, opened for writing or changed.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Self, ConfigError> {
        let _ = options;
        Err(ConfigError { message: format!("reading {} is not built yet", path.display()), detail: String::new() })
    }
}
