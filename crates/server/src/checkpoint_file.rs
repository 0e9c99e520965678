//! The checkpoints outside the database: a file of JSON lines that is only ever added to. To be where whoever has the
//! database cannot write, or copied there.

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

use crate::durable::sync_folder_of;

/// How often new checkpoints are copied from the database.
const PERIOD: Duration = Duration::from_secs(2);

/// No line is longer.
const LINE: u64 = 4096;

/// The file.
pub(crate) struct CheckpointFile {
    path: PathBuf,
    /// What was read of it or written to it last, once it is known.
    last: Mutex<Option<Last>>,
}

/// The last line, if there is one.
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

    /// The last whole line; what a crash left of another one is passed over.
    fn read_last(&self) -> io::Result<Last> {
        let Some(mut file) = self.open()? else { return Ok(None) };
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(4 * LINE)))?;
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
        // half a line that a crash left is none, and would be taken for a forged one
        let whole = end_of_lines(&mut file)?;
        if file.metadata()?.len() > whole {
            file.set_len(whole)?;
        }
        let mut text = String::new();
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        if is_new { sync_folder_of(&self.path) } else { Ok(()) }
    }

    fn unusable(&self, error: &io::Error) -> Error {
        Error::internal(format!("the checkpoint file {}: {error}", self.path.display()))
    }
}

/// Where the last whole line ends.
fn end_of_lines(file: &mut File) -> io::Result<u64> {
    let start = file.metadata()?.len().saturating_sub(LINE);
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
        let lines = Lines(BufReader::new(file)).map_while(|line| line.map(whole).transpose());
        let lines = lines.filter(|line| line.as_ref().map_or(true, |line| !line.is_empty()));
        Ok(Box::new(lines.map(move |line| {
            line.map_err(|error| Error::internal(format!("the checkpoint file {path}: {error}")))
        })))
    }

    fn last(&self) -> Result<Option<Checkpoint>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some(last) => Ok(last.clone()),
            None => {
                let read = self.read_last().map_err(|error| self.unusable(&error))?;
                *last = Some(read.clone());
                Ok(read)
            }
        }
    }

    fn keep(&self, lines: &[String]) -> Result<()> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*last, Some(Some(_))) && !self.path.exists() {
            // what comes next is read from the file: all of it is kept anew
            *last = None;
            return Err(Error::internal(format!(
                "the checkpoint file {} was removed while this server ran; it is written again from the database",
                self.path.display()
            )));
        }
        if let Err(error) = self.append(lines) {
            // some of them may be there: what comes next is read from the file
            *last = None;
            return Err(self.unusable(&error));
        }
        *last = Some(lines.last().and_then(|line| Checkpoint::parse(line)));
        Ok(())
    }
}

/// Lines of bounded length, each as it lies there with its end; the last one may have none.
pub(crate) struct Lines<R>(pub(crate) R);

impl<R: BufRead> Iterator for Lines<R> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        /// An entry is never longer: a request is 1 MiB at most.
        const LONGEST: u64 = 16 << 20;
        let mut line = Vec::new();
        match (&mut self.0).take(LONGEST).read_until(b'\n', &mut line) {
            Err(error) => Some(Err(error)),
            Ok(0) => None,
            Ok(_) => Some(Ok(line)),
        }
    }
}

/// A whole line's text: what is no UTF-8 is replaced, and so is no checkpoint. A line without its end is being written, or a
/// crash left it, and is none.
fn whole(mut line: Vec<u8>) -> Option<String> {
    line.pop_if(|last| *last == b'\n')?;
    Some(String::from_utf8_lossy(&line).into_owned())
}

/// Copies checkpoints until `stop`, and once more after it. A failure is told when it begins.
pub(crate) async fn keep(app: App, stop: CancellationToken) {
    if app.audit.is_truncated().await.is_ok_and(|cut| cut) {
        tracing::error!(
            "the audit trail ends before the last checkpoint in its checkpoint file: entries were removed, or an \
             older database was restored; run `pilothouse audit verify`"
        );
    }
    let mut ticks = tokio::time::interval(PERIOD);
    let mut failing = false;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => {}
        }
        // what ends leaves nothing unsigned
        let age = if stop.is_cancelled() { Duration::ZERO } else { Checkpoint::AGE };
        let kept = app.audit.keep_checkpoints(age).await;
        if let Err(error) = &kept
            && !failing
        {
            tracing::error!(%error, "cannot store checkpoints of the audit trail outside the database");
        }
        failing = kept.is_err();
        if age.is_zero() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_crash_left_of_a_line_is_no_line() {
        let folder = std::env::temp_dir().join(format!("pilothouse-checkpoints-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("file");
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
        file.keep(&[line(1), line(7)]).unwrap();
        assert_eq!(last(&file), 7);

        let half = line(9)[..40].to_owned();
        let mut written = std::fs::read_to_string(&path).unwrap();
        written.push_str(&half);
        std::fs::write(&path, written).unwrap();
        let again = CheckpointFile::new(path);
        assert_eq!((last(&again), lines(&again)), (7, vec![line(1), line(7)]));
        again.keep(&[line(9)]).unwrap();
        let three = vec![line(1), line(7), line(9)];
        assert_eq!((last(&again), lines(&again)), (9, three.clone()));

        // what was to be written may be there when writing it failed: it is not written twice
        std::fs::remove_file(&again.path).unwrap();
        let again = CheckpointFile::new(again.path);
        std::fs::create_dir(&again.path).unwrap();
        again.keep(&[line(11)]).unwrap_err();
        std::fs::remove_dir(&again.path).unwrap();
        std::fs::write(&again.path, [three, vec![line(11), String::new()]].concat().join("\n")).unwrap();
        assert_eq!(last(&again), 11);

        // removed while it is written: that is told, and then all is kept anew
        std::fs::remove_file(&again.path).unwrap();
        assert!(again.keep(&[line(13)]).unwrap_err().to_string().contains("was removed"));
        assert_eq!(last(&again), 0);
        again.keep(&[line(1), line(13)]).unwrap();
        assert_eq!(lines(&again), [line(1), line(13)]);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
