//! Files that are never half-written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Writes a file beside `path` and, once it is complete and on the disk, renames it to `path`: readers see the old file
/// or the new one, never a part, also after a power failure. On failure the old file stays. A file that is there already keeps
/// its permissions, and a link leads to the new file.
///
/// # Errors
/// [`Error::Io`] when the folder cannot be written, the file is there and read-only, the disk is full, or `content` fails.
pub fn write_atomically(path: impl AsRef<Path>, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let path = path.as_ref();
    write(path, content).map_err(|source| Error::io("write", path, source))
}

fn write(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    // Where a link leads; a file that is not there yet is where it says.
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = path.file_name().ok_or(io::Error::new(io::ErrorKind::InvalidInput, "not a file name"))?;
    let old = fs::metadata(path).ok();
    match &old {
        Some(old) if old.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
        Some(old) if old.permissions().readonly() => return Err(io::ErrorKind::PermissionDenied.into()),
        _ => {}
    }
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut part = name.to_owned();
    part.push(format!(".part-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let part = path.with_file_name(part);

    let fill = |file: File| -> io::Result<()> {
        if let Some(old) = &old {
            file.set_permissions(old.permissions())?;
        }
        let mut writer = BufWriter::new(file);
        content(&mut writer)?;
        writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    };
    let file = OpenOptions::new().write(true).create_new(true).open(&part)?;
    let result = fill(file).and_then(|()| fs::rename(&part, path));
    if result.is_err() {
        // The error that is reported is the first one; a part that cannot be removed adds nothing to it.
        let _ = fs::remove_file(&part);
    }
    result.and_then(|()| sync_folder(path))
}

/// Brings the new name to the disk. Some file systems have no such thing for folders, and Windows opens none.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        // A folder in which one may write but that one may not list.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result,
    }
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

        let mut permissions = fs::metadata(&path).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(&path, permissions).unwrap();
        assert!(write_atomically(&path, |writer| writer.write_all(b"new")).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn permissions_and_links_stay() {
        use std::os::unix::fs::PermissionsExt;
        let folder = std::env::temp_dir().join(format!("softreg-links-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (path, link) = (folder.join("model"), folder.join("link"));
        fs::write(&path, b"old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink("model", &link).unwrap();
        write_atomically(&link, |writer| writer.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        fs::remove_dir_all(&folder).unwrap();
    }
}
