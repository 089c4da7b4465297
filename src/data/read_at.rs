//! Reading at a position, which several threads can do at once, from a file that stays what it is.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::SystemTime;

#[cfg(unix)]
use std::os::unix::fs::FileExt;
#[cfg(windows)]
use std::os::windows::fs::FileExt;

use crate::error::{Error, Place};

/// Length and time of the last change, by which a file that was written to in the meantime is known.
pub(super) type Stamp = (u64, Option<SystemTime>);

pub(super) fn stamp(file: &File) -> io::Result<Stamp> {
    let metadata = file.metadata()?;
    Ok((metadata.len(), metadata.modified().ok()))
}

pub(super) fn changed(path: &Path) -> Error {
    let problem = "it was changed while it was in use; begin again when it is whole";
    Error::malformed(Place::file(path), problem)
}

/// Fills `into` from byte `offset` on, whatever other threads read; how many bytes there were, fewer where the file ends.
pub(super) fn read_at(file: &File, offset: u64, into: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < into.len() {
        let (into, offset) = (&mut into[n..], offset + n as u64);
        #[cfg(unix)]
        let read = file.read_at(into, offset);
        #[cfg(windows)]
        let read = file.seek_read(into, offset);
        match read {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(n)
}
