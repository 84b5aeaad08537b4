//! What a daemon does with its process: background, pid file, user, limits, signals.
