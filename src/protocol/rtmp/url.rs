//! Names out of tcUrl, app and stream name, as every client splits them.
