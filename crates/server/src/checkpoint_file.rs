//! Checkpoint file: an append-only file of JSON lines with the checkpoints of the audit trail, outside the database.
//! The file should be on storage, or be copied to storage, that a person with access to the database cannot write.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use pilothouse_core::{
    Error, Result,
    app::App,
    audit::{Checkpoint, CheckpointSink},
};
use tokio_util::sync::CancellationToken;

use crate::durable::sync_directory_of;

/// Interval of copying new checkpoints from the database.
const COPY_INTERVAL: Duration = Duration::from_secs(2);

/// Upper bound of the length of a checkpoint line.
const MAX_CHECKPOINT_BYTES: u64 = 4096;

/// [`CheckpointSink`] over a file.
pub(crate) struct CheckpointFile {
    path: PathBuf,
    /// The last line read or written. `None`: the file has not been read since the start or since a failure.
    last: Mutex<Option<Last>>,
}

/// The checkpoint of the last line; `None` for an empty or missing file.
type Last = Option<Checkpoint>;

impl CheckpointFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, last: Mutex::new(None) }
    }

    fn open(&self) -> io::Result<Option<File>> {
        match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => file.map(Some),
        }
    }

    /// The checkpoint of the last complete line. A partial line left by a crash is skipped.
    fn read_last(&self) -> io::Result<Last> {
        let Some(mut file) = self.open()? else { return Ok(None) };
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(4 * MAX_CHECKPOINT_BYTES)))?;
        let mut end = Vec::new();
        file.read_to_end(&mut end)?;
        let lines = end.split(|byte| *byte == b'\n').rev();
        let read = |line: &[u8]| Checkpoint::parse(str::from_utf8(line).ok()?);
        Ok(lines.filter_map(read).next())
    }

    fn append(&self, lines: &[String]) -> io::Result<()> {
        let is_new = !self.path.exists();
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&self.path)?;
        // a partial line left by a crash is removed: with text after it, it would look like a forged checkpoint
        let end = end_of_lines(&mut file)?;
        if file.metadata()?.len() > end {
            file.set_len(end)?;
        }
        let mut text = String::new();
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        if is_new { sync_directory_of(&self.path) } else { Ok(()) }
    }

    fn unusable(&self, error: &io::Error) -> Error {
        Error::internal(format!(
            "cannot use the checkpoint file {} ({error}): check the path and its permissions",
            self.path.display()
        ))
    }
}

/// Offset of the end of the last complete line, in bytes.
fn end_of_lines(file: &mut File) -> io::Result<u64> {
    let start = file.metadata()?.len().saturating_sub(MAX_CHECKPOINT_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    let after_last = end.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    Ok(start + after_last as u64)
}

impl CheckpointSink for CheckpointFile {
    fn lines(&self) -> Result<Box<dyn Iterator<Item = Result<String>> + Send>> {
        let Some(file) = self.open().map_err(|error| self.unusable(&error))? else {
            return Ok(Box::new(std::iter::empty()));
        };
        let path = self.path.display().to_string();
        let lines = Lines(BufReader::new(file)).map_while(|line| line.map(complete_line).transpose());
        let lines = lines.filter(|line| line.as_ref().map_or(true, |line| !line.is_empty()));
        Ok(Box::new(lines.map(move |line| {
            line.map_err(|error| Error::internal(format!("cannot read the checkpoint file {path}: {error}")))
        })))
    }

    fn last(&self) -> Result<Option<Checkpoint>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = &*last {
            Ok(last.clone())
        } else {
            let read = self.read_last().map_err(|error| self.unusable(&error))?;
            *last = Some(read.clone());
            Ok(read)
        }
    }

    fn store(&self, lines: &[String]) -> Result<()> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*last, Some(Some(_))) && !self.path.exists() {
            // the next copy reads the missing file and writes all checkpoints again
            *last = None;
            return Err(Error::internal(format!(
                "the checkpoint file {} was removed while this server ran; it is written again from the database",
                self.path.display()
            )));
        }
        if let Err(error) = self.append(lines) {
            // some lines may have been written: the next copy reads the file first
            *last = None;
            return Err(self.unusable(&error));
        }
        *last = Some(lines.last().and_then(|line| Checkpoint::parse(line)));
        Ok(())
    }
}

/// Iterator over lines of bounded length, each with its line feed; the last line may lack it.
pub(crate) struct Lines<R>(pub(crate) R);

impl<R: BufRead> Iterator for Lines<R> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        /// Upper bound of an entry: a request has at most 1 MiB.
        const MAX_LINE_BYTES: u64 = 16 << 20;
        let mut line = Vec::new();
        match (&mut self.0).take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
            Err(error) => Some(Err(error)),
            Ok(0) => None,
            Ok(_) => Some(Ok(line)),
        }
    }
}

/// The text of a complete line. Invalid UTF-8 is replaced, so it does not parse as a checkpoint. `None` for a line
/// without line feed, which is being written or was left by a crash.
fn complete_line(mut line: Vec<u8>) -> Option<String> {
    line.pop_if(|last| *last == b'\n')?;
    Some(String::from_utf8_lossy(&line).into_owned())
}

/// Copies checkpoints to the file until `stop`, and once more after it. Logs the first of consecutive failures.
pub(crate) async fn copy_checkpoints(app: App, stop: CancellationToken) {
    if app.audit.is_truncated().await.is_ok_and(|cut| cut) {
        tracing::error!(
            "the audit trail ends before the last checkpoint in its checkpoint file: entries were removed, or an \
             older database was restored; run `pilothouse audit verify`"
        );
    }
    let mut ticks = tokio::time::interval(COPY_INTERVAL);
    let mut failing = false;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => {}
        }
        // at shutdown, entries of any age are signed
        let age = if stop.is_cancelled() { Duration::ZERO } else { Checkpoint::AGE };
        let copied = app.audit.update_checkpoints(age).await;
        if let Err(error) = &copied
            && !failing
        {
            tracing::error!(%error, "cannot store checkpoints of the audit trail outside the database");
        }
        failing = copied.is_err();
        if age.is_zero() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_line_after_crash_is_ignored_and_removed() {
        let directory = std::env::temp_dir().join(format!("pilothouse-checkpoints-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("file");
        let line = |sequence: i64| {
            let (hash, signature) = ("0".repeat(64), "0".repeat(128));
            format!(
                "{{\"trail\":\"t\",\"sequence\":{sequence},\"hash\":\"{hash}\",\"time\":\"2026-01-01T00:00:00Z\",\"signature\":\"{signature}\"}}"
            )
        };
        let lines = |file: &CheckpointFile| file.lines().unwrap().collect::<Result<Vec<_>>>().unwrap();
        let last = |file: &CheckpointFile| file.last().unwrap().map_or(0, |last| last.sequence);
        let file = CheckpointFile::new(path.clone());
        assert_eq!((last(&file), lines(&file).len()), (0, 0), "no file yet");
        file.store(&[line(1), line(7)]).unwrap();
        assert_eq!(last(&file), 7);

        let partial = line(9)[..40].to_owned();
        let mut written = std::fs::read_to_string(&path).unwrap();
        written.push_str(&partial);
        std::fs::write(&path, written).unwrap();
        let reopened = CheckpointFile::new(path);
        assert_eq!((last(&reopened), lines(&reopened)), (7, vec![line(1), line(7)]));
        reopened.store(&[line(9)]).unwrap();
        let three = vec![line(1), line(7), line(9)];
        assert_eq!((last(&reopened), lines(&reopened)), (9, three.clone()));

        // lines of a failed write may be in the file: the next copy reads them first, so no line is written twice
        std::fs::remove_file(&reopened.path).unwrap();
        let reopened = CheckpointFile::new(reopened.path);
        std::fs::create_dir(&reopened.path).unwrap();
        reopened.store(&[line(11)]).unwrap_err();
        std::fs::remove_dir(&reopened.path).unwrap();
        std::fs::write(&reopened.path, [three, vec![line(11), String::new()]].concat().join("\n")).unwrap();
        assert_eq!(last(&reopened), 11);

        // the file is removed while the server runs: one error, then all checkpoints are written again
        std::fs::remove_file(&reopened.path).unwrap();
        reopened.store(&[line(13)]).unwrap_err();
        assert_eq!(last(&reopened), 0);
        reopened.store(&[line(1), line(13)]).unwrap();
        assert_eq!(lines(&reopened), [line(1), line(13)]);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
