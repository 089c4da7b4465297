//! Where output goes: files that are whole or not there, standard output, and messages.

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Result, bail};
use softreg::{Error, write_atomically};

/// A line to standard error. That nobody reads it is no reason to fail.
pub fn message(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// `-` is standard output.
pub fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

/// Finds out whether `path` can be written, before there is anything to write: makes a file beside it, as the writing
/// will, and removes it.
pub fn check_writable(path: &Path) -> Result<()> {
    if is_stdout(path) || is_special(path) {
        return Ok(());
    }
    let failed = |source| Error::io("write", path, source);
    let Some(name) = path.file_name().filter(|_| !path.is_dir()) else {
        return Err(failed(io::ErrorKind::IsADirectory.into()).into());
    };
    let mut probe = name.to_owned();
    probe.push(format!(".probe-{}", std::process::id()));
    let probe = path.with_file_name(probe);
    OpenOptions::new().write(true).create_new(true).open(&probe).map_err(failed)?;
    fs::remove_file(&probe).map_err(failed)?;
    Ok(())
}

/// Whether two outputs are the same file, there already or not.
pub fn is_same(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        path.canonicalize().ok().or_else(|| Some(folder.canonicalize().ok()?.join(path.file_name()?)))
    };
    a == b || place(a).is_some_and(|a| place(b).is_some_and(|b| a == b))
}

/// Refuses an output that is one of the inputs.
pub fn check_is_no_input(output: &Path, inputs: &[Option<&Path>]) -> Result<()> {
    let Ok(output_file) = output.canonicalize() else { return Ok(()) };
    if inputs.iter().flatten().any(|input| input.canonicalize().is_ok_and(|input| input == output_file)) {
        bail!("{} would be overwritten: it is an input; choose another name for the output", output.display());
    }
    Ok(())
}

/// Writes to standard output for `-`, otherwise a file, whole or not at all.
pub fn write(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    if is_stdout(path) {
        let result = write_to(io::stdout().lock(), content);
        return Ok(result.map_err(|source| Error::io("write", "to standard output", source))?);
    }
    if is_special(path) {
        let result = OpenOptions::new().write(true).open(path).and_then(|file| write_to(file, content));
        return Ok(result.map_err(|source| Error::io("write", path, source))?);
    }
    Ok(write_atomically(path, content)?)
}

fn write_to(out: impl Write, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::new(out);
    content(&mut out)?;
    out.flush()
}

/// Whether something is there that is neither file nor folder, such as `/dev/null` or a pipe: it is written to, not
/// replaced.
pub fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
}
