//! SQLite (bundled), a WAL and 2 GiB of cache. Buffered: `synchronous = OFF`, the file in the page
//! cache; durable: `FULL`. A connection serves one thread at a time.

use super::{Engine, Failure, Mode, missing};
use crate::data::{See, Values, id, split};
use rusqlite::Connection;
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;

/// One table, the id its key.
pub struct Sqlite(Mutex<Connection>);

impl Sqlite {
    fn with<R>(&self, work: impl FnOnce(&Connection) -> Result<R, Failure>) -> Result<R, Failure> {
        let connection = self.0.lock().map_err(|_poisoned| "another thread panicked")?;
        work(&connection)
    }
}

fn put(connection: &Connection, values: &Values, n: u64) -> Result<(), Failure> {
    let mut put = connection.prepare_cached("INSERT OR REPLACE INTO records VALUES (?1, ?2)")?;
    put.execute((&id(n)[..], &values.of(n).joined[..]))?;
    Ok(())
}

fn get(connection: &Connection, n: u64, see: &impl See) -> Result<f32, Failure> {
    let mut get = connection.prepare_cached("SELECT value FROM records WHERE id = ?1")?;
    let mut rows = get.query((&id(n)[..],))?;
    let row = rows.next()?.ok_or_else(|| missing(n))?;
    let (embedding, content) = split(row.get_ref(0)?.as_blob()?);
    Ok(see.see(embedding, content))
}

impl Engine for Sqlite {
    const NAME: &'static str = "SQLite";
    const KEEPS: &'static str = "kill: all; power loss: may damage the store";

    fn open(dir: &Path, mode: Mode, _records: u64) -> Result<Self, Failure> {
        let connection = Connection::open(dir.join("records.sqlite"))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "cache_size", -2_000_000)?;
        let synchronous = if mode == Mode::Synced { "FULL" } else { "OFF" };
        connection.pragma_update(None, "synchronous", synchronous)?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS records (id BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID",
        )?;
        Ok(Self(Mutex::new(connection)))
    }

    fn put(&self, values: &Values, n: u64) -> Result<(), Failure> {
        self.with(|connection| put(connection, values, n))
    }

    fn put_many(&self, values: &Values, mut records: Range<u64>) -> Result<(), Failure> {
        self.with(|connection| {
            connection.execute_batch("BEGIN")?;
            records.try_for_each(|n| put(connection, values, n))?;
            Ok(connection.execute_batch("COMMIT")?)
        })
    }

    fn get(&self, n: u64, see: &impl See) -> Result<f32, Failure> {
        self.with(|connection| get(connection, n, see))
    }

    fn get_many(&self, records: &[u32], see: &impl See) -> Result<f32, Failure> {
        self.with(|connection| {
            connection.execute_batch("BEGIN")?;
            let all = records.iter();
            let sum: Result<f32, Failure> = all.map(|&n| get(connection, n.into(), see)).sum();
            connection.execute_batch("COMMIT")?;
            sum
        })
    }

    fn scan(&self, see: &impl See) -> Result<(u64, f32), Failure> {
        self.with(|connection| {
            let mut all = connection.prepare_cached("SELECT value FROM records")?;
            let (mut rows, mut records, mut sum) = (all.query(())?, 0, 0.0);
            while let Some(row) = rows.next()? {
                let (embedding, content) = split(row.get_ref(0)?.as_blob()?);
                records += 1;
                sum += see.see(embedding, content);
            }
            Ok((records, sum))
        })
    }

    fn quiesce(&self) -> Result<(), Failure> {
        self.with(|connection| {
            let done = |_: &rusqlite::Row<'_>| Ok(());
            Ok(connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), done)?)
        })
    }
}
