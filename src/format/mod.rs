//! Pure bytes: what lies in the files, and nothing that touches a file.

pub mod ids;
