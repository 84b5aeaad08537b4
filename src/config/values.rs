//! Times, sizes, flags, addresses: types that cannot be wrong.
