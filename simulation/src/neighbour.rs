//! Another store of the same name in another directory, which nobody touches.

use stratalog::{Compaction, Error, Options};

const PATH: &str = "/elsewhere/store";
const CONTENT: &str = "as it was";

/// Makes it.
pub fn make() -> Result<(), Error> {
    let options = Options::new().dimension(1).segment_size(16 << 10).flush_interval(None);
    let store = options.compaction(Compaction::Manual).open(PATH)?;
    store.put("neighbour", &[1.0], CONTENT)?;
    store.close()
}

/// Returns whether it is as it was.
pub fn look() -> Result<(), Error> {
    let store = Options::new().read_only(true).open(PATH)?;
    let found = store.pin().get("neighbour")?.map(|record| record.to_owned());
    let is_there = found.is_some_and(|record| record.content == CONTENT.as_bytes());
    store.close()?;
    if is_there { Ok(()) } else { Err(Error::InvalidOption("the neighbour has changed".into())) }
}
