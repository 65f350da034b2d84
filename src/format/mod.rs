//! Pure bytes: what lies in the files, and nothing that touches a file. Every number is
//! little-endian, written field by field, and checked on decoding before anything relies on it.

pub mod bytes;
pub mod checksum;
pub mod frame;
pub mod header;
pub mod ids;
pub mod manifest;
pub mod slot;
