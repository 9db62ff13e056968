//! Sockets of a network namespace that may not be entered: read from its tables, which are kept open.
//!
//! A read of a table is no single moment: a socket that comes or goes meanwhile can be missed, or told twice.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::{pread, retry_on_intr};
use vms_core::connection::{Connection, ConnectionFilter};
use vms_core::health::Sighting;
use vms_core::namespace::{NamespaceId, SocketTables};
use vms_netlink::io_error;

use crate::client::{MAX_FOUND, MAX_TOLD, is_same};
use crate::codec::Family;
use crate::error::Error;
use crate::proc_net::Table;

/// The kernel fills a page at a time, however large the buffer.
const PIECE_BYTES: usize = 4096;

/// The tables of one network namespace.
#[derive(Debug)]
pub(crate) struct Tables {
    pub(crate) namespace: NamespaceId,
    pub(crate) kept: Arc<SocketTables>,
}

impl Tables {
    /// What matches, sorted by cookie.
    pub(crate) fn dump(&self, filter: &ConnectionFilter) -> Result<Vec<Connection>, Error> {
        let mut found = Vec::new();
        if filter.endpoints().is_empty() || filter.states().bits() == 0 {
            return Ok(found);
        }
        let with_inet = filter.endpoints().iter().any(|endpoint| endpoint.ip().is_ipv4());
        self.read(with_inet, |connection| {
            if filter.matches(&connection) {
                found.push(connection);
            }
            if found.len() > MAX_FOUND { Err(Error::TooMany) } else { Ok(()) }
        })?;
        // By their endpoints as well: inodes are counted with 32 bits, and begin anew.
        found.sort_by_key(|connection| (connection.cookie, connection.local, connection.remote));
        found.dedup_by(|one, other| is_same(one, other));
        Ok(found)
    }

    /// Looks for all of them in one reading.
    pub(crate) fn lookup(&self, asked: &[Connection]) -> Result<Vec<Option<Sighting>>, Error> {
        let key = |connection: &Connection| (connection.cookie, connection.local, connection.remote);
        let mut sightings: HashMap<_, Option<Connection>> =
            asked.iter().map(|connection| (key(connection), None)).collect();
        let with_inet = asked.iter().any(|connection| connection.local.ip().is_ipv4());
        self.read(with_inet, |connection| {
            if let Some(slot) = sightings.get_mut(&key(&connection)) {
                *slot = Some(connection);
            }
            Ok(())
        })?;
        let sighting = |connection: &Connection| {
            let connection = sightings.get(&key(connection)).copied().flatten()?;
            Some(Sighting { connection, vitals: None })
        };
        Ok(asked.iter().map(sighting).collect())
    }

    fn read(
        &self,
        with_inet: bool,
        mut visit: impl FnMut(Connection) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let inet = with_inet.then_some((&self.kept.inet, Family::Inet));
        let inet6 = self.kept.inet6.as_ref().map(|table| (table, Family::Inet6));
        for (file, family) in inet.into_iter().chain(inet6) {
            read_table(file, Table::new(family, self.namespace), MAX_TOLD, &mut visit)?;
        }
        Ok(())
    }
}

/// Reads a table from the start, of not many more lines than `most`.
fn read_table(
    file: &OwnedFd,
    mut table: Table,
    most: u32,
    visit: &mut impl FnMut(Connection) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut piece = [0; PIECE_BYTES];
    let mut offset = 0;
    loop {
        let read = retry_on_intr(|| pread(file, &mut piece, offset));
        let read = read.map_err(|errno| Error::ReadTable(io_error(errno)))?;
        let bytes = piece.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(table.finish()?);
        }
        offset += u64::try_from(read).unwrap_or_default();
        let mut outcome = Ok(());
        table.take(bytes, |connection| {
            if outcome.is_ok() {
                outcome = visit(connection);
            }
        })?;
        outcome?;
        // A table that grows while it is read may have no end.
        if table.lines() > most {
            return Err(Error::TooMany);
        }
    }
}

#[cfg(test)]
mod tests;
