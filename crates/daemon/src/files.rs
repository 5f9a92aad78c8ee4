//! Package files that callers hand over as open files. They are copied before anything looks at them, so that nobody can change
//! them afterwards, and the worker never opens a path that a caller named.
//!
//! Layout: `RUNTIME/files-…/N/NAME.deb`, gone when the transaction is over.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, fstat};
use tempfile::TempDir;

use crate::foreign::Foreign;
use crate::job::Job;
use crate::refusal::{Answer, Refusal};

/// Of all files of a call.
const MAX_BYTES: u64 = 8 << 30;

const MAX_FILES: usize = 64;

/// Copies the files of a job, and makes its requests name the copies.
pub(crate) async fn stage(job: &mut Job, runtime: &Path) -> Answer<Option<TempDir>> {
    if job.files.is_empty() {
        return Ok(None);
    }
    if job.files.len() > MAX_FILES {
        return Err(Refusal::invalid(format!("More than {MAX_FILES} package files")));
    }
    let files = std::mem::take(&mut job.files);
    let mut paths: Vec<&mut PathBuf> = job.requests.iter_mut().flat_map(|r| r.verb.local_files()).collect();
    if paths.len() != files.len() {
        return Err(Refusal::invalid(format!("{} files came for {} local packages", files.len(), paths.len())));
    }
    let names: Vec<String> = paths.iter().map(|path| safe_name(path)).collect();
    let runtime = runtime.to_owned();
    let (folder, copies) = tokio::task::spawn_blocking(move || copy(files, &names, &runtime))
        .await
        .map_err(|e| Refusal::failed(e.to_string()))??;
    paths.iter_mut().zip(copies).for_each(|(path, copy)| **path = copy);
    Ok(Some(folder))
}

/// Removes what an earlier service could not.
pub(crate) fn clean(runtime: &Path) {
    for entry in std::fs::read_dir(runtime).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("files-") {
            // The next one tries again.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn copy(files: Vec<Arc<Foreign>>, names: &[String], runtime: &Path) -> Answer<(TempDir, Vec<PathBuf>)> {
    let failed = |what: &str, e: &dyn std::fmt::Display| Refusal::failed(format!("{what}: {e}. Nothing was changed"));
    let folder = tempfile::Builder::new()
        .prefix("files-")
        .tempdir_in(runtime)
        .map_err(|e| failed("Making a folder for package files", &e))?;
    let (mut copies, mut left) = (Vec::new(), MAX_BYTES);
    for (number, (file, name)) in files.into_iter().zip(names).enumerate() {
        let kind = fstat(file.as_fd()).map(|s| FileType::from_raw_mode(s.st_mode));
        if kind != Ok(FileType::RegularFile) {
            return Err(Refusal::invalid(format!("{name} is not a regular file")));
        }
        let place = folder.path().join(number.to_string());
        std::fs::create_dir(&place).map_err(|e| failed("Making a folder for package files", &e))?;
        let path = place.join(name);
        let mut copy = File::create_new(&path).map_err(|e| failed(&format!("Copying {name}"), &e))?;
        // One byte more tells whether the file is too big.
        let copied = std::io::copy(&mut (&*file).take(left + 1), &mut copy);
        let copied = copied.map_err(|e| failed(&format!("Copying {name}"), &e))?;
        left = left.checked_sub(copied).ok_or_else(|| Refusal::invalid("The package files are too big"))?;
        copies.push(path);
    }
    Ok((folder, copies))
}

/// The last part of a path, which is shown in messages, with plain characters only.
fn safe_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "._+-~=:%".contains(c);
    let mut name: String = name.chars().filter(|c| plain(*c)).take(200).collect();
    name = name.trim_start_matches('.').to_owned();
    if name.ends_with(".deb") && name.len() > 4 { name } else { format!("{name}package.deb") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (path, name) in [
            ("/x/htop_3.4-1_amd64.deb", "htop_3.4-1_amd64.deb"),
            ("../../etc/passwd", "passwdpackage.deb"),
            ("", "package.deb"),
            ("/a/..", "package.deb"),
            ("/a/b c\n.deb", "bc.deb"),
            (".deb", "debpackage.deb"),
        ] {
            assert_eq!(safe_name(Path::new(path)), name, "{path:?}");
        }
    }
}
