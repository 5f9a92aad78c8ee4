//! Small files in which one process tells something to whoever asks later: readable for everybody, and there as a whole or not at all.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::error::{Error, Result};

/// Writes the file, with the folders that it needs. `flushed`: it is on the disk afterwards, as a restart may follow.
pub(crate) fn write(path: &Path, content: &[u8], flushed: bool) -> Result<()> {
    let directory = path.parent().ok_or_else(|| Error::failed("It has no directory"))?;
    std::fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(content)?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    if flushed {
        file.as_file().sync_all()?;
    }
    file.persist(path).map_err(|e| e.error)?;
    Ok(())
}
