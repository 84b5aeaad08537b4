//! The command line, spelled as nginx spells it.
