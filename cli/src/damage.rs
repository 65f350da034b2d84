//! Damaged and lost places, as text and as JSON.

use crate::output::{self, Bytes};
use serde::Serialize;
use std::io::Write;
use stratalog::Damage;

/// A place, as JSON.
#[derive(Debug, Serialize)]
pub struct Place<'a> {
    segment: String,
    offset: u64,
    id: Option<Bytes<'a>>,
    reason: &'a str,
}

impl<'a> From<&'a Damage> for Place<'a> {
    fn from(damage: &'a Damage) -> Self {
        Self {
            segment: damage.path.display().to_string(),
            offset: damage.offset,
            id: damage.id.as_deref().map(Bytes::new),
            reason: &damage.reason,
        }
    }
}

/// All of them, as JSON.
pub fn places(damages: &[Damage]) -> Vec<Place<'_>> {
    damages.iter().map(Place::from).collect()
}

/// A line for each.
pub fn print(damages: &[Damage], out: &mut impl Write) -> anyhow::Result<()> {
    for damage in damages {
        let id = damage.id.as_deref().map(|id| output::printable(id, false));
        let id = match id {
            Some(id) => format!("id {id}: "),
            // The file as a whole.
            None if damage.offset == 0 => String::new(),
            None => "id unknown: ".to_owned(),
        };
        let (segment, offset) = (damage.path.display(), damage.offset);
        writeln!(out, "{segment}: byte {offset}: {id}{}", damage.reason)?;
    }
    Ok(())
}
