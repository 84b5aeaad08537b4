//! The PROXY protocol header, versions 1 and 2: who is really calling.
