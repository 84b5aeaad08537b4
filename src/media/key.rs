//! Stream names: parsed once, safe as a file name from then on.
