//! AMF0 and AMF3: the values inside RTMP commands and metadata.
