//! A store on disk: its directory and files, the segments in them, and the manifest.

pub mod fs;
mod live_manifest;
mod segment_files;

pub use live_manifest::{DiskEngine, LiveManifest, Retained, remove_dropped};
pub use segment_files::SegmentFiles;
