//! Files that are never half-written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// Writes a file beside `path` and, once it is complete and on the disk, renames it to `path`: readers see the old file
/// or the new one, never a part. On failure the old file stays.
///
/// # Errors
/// [`Error::Io`] when the folder cannot be written, the disk is full, or `content` fails.
pub fn write_atomically(path: impl AsRef<Path>, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let path = path.as_ref();
    let failed = |source| Error::io("write", path, source);
    let name =
        path.file_name().ok_or_else(|| failed(io::Error::new(io::ErrorKind::InvalidInput, "not a file name")))?;
    if path.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    let mut part = name.to_owned();
    part.push(format!(".part-{}", std::process::id()));
    let part = path.with_file_name(part);

    let write = |file: File| -> io::Result<()> {
        let mut writer = BufWriter::new(file);
        content(&mut writer)?;
        writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    };
    let result = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&part)
        .and_then(write)
        .and_then(|()| fs::rename(&part, path));
    result.map_err(|source| {
        // The error that is reported is the first one; a part that cannot be removed adds nothing to it.
        let _ = fs::remove_file(&part);
        failed(source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_keeps_the_old_file_and_leaves_no_part() {
        let folder = std::env::temp_dir().join(format!("softreg-write-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("model");
        write_atomically(&path, |writer| writer.write_all(b"old")).unwrap();
        let error = write_atomically(&path, |writer| {
            writer.write_all(b"ne")?;
            Err(io::Error::other("disk full"))
        });
        assert!(matches!(error, Err(Error::Io { action: "write", .. })));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        assert!(write_atomically(&folder, |_| Ok(())).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }
}
