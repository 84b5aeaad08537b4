//! Who may: allow and deny rules by address.
