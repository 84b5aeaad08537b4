//! Reads the head of an audio or video message, legacy and enhanced, into what it means.
