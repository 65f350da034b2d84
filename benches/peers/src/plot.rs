//! Plots.
use crate::engines::Failure;
use crate::samples::Samples;
use std::path::Path;

pub fn all(_samples: &Samples, _engines: &[&str], _dir: &Path) -> Result<(), Failure> {
    Ok(())
}
