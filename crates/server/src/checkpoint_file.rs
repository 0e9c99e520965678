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
    audit::{Checkpoint, Witness},
};
use tokio_util::sync::CancellationToken;

/// How often new checkpoints are copied from the database.
const PERIOD: Duration = Duration::from_secs(2);

/// No line is longer.
const LINE: u64 = 4096;

/// The file.
pub(crate) struct CheckpointFile {
    path: PathBuf,
    /// The last entry covered, once it is known.
    last: Mutex<Option<i64>>,
}

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

    /// The last whole line that is a checkpoint; what a crash left of another one is passed over.
    fn read_last(&self) -> io::Result<i64> {
        let Some(mut file) = self.open()? else { return Ok(0) };
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(4 * LINE)))?;
        let mut end = Vec::new();
        file.read_to_end(&mut end)?;
        let lines = end.split(|byte| *byte == b'\n').rev();
        let read = |line: &[u8]| Checkpoint::parse(str::from_utf8(line).ok()?);
        Ok(lines.filter_map(read).map(|checkpoint| checkpoint.sequence).next().unwrap_or(0))
    }

    fn append(&self, lines: &[String]) -> io::Result<()> {
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&self.path)?;
        let mut text = String::new();
        if !ends_with_line(&mut file)? {
            // half a line that a crash left stays a line of its own, which is none
            text.push('\n');
        }
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }

    fn unusable(&self, error: &io::Error) -> Error {
        Error::internal(format!("the checkpoint file {}: {error}", self.path.display()))
    }
}

fn ends_with_line(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

impl Witness for CheckpointFile {
    fn lines(&self) -> Result<Box<dyn Iterator<Item = Result<String>> + Send>> {
        let Some(file) = self.open().map_err(|error| self.unusable(&error))? else {
            return Ok(Box::new(std::iter::empty()));
        };
        let path = self.path.display().to_string();
        let lines =
            Lines(BufReader::new(file)).filter(|line| line.as_ref().map_or(true, |line| !line.is_empty()));
        Ok(Box::new(lines.map(move |line| {
            line.map_err(|error| Error::internal(format!("the checkpoint file {path}: {error}")))
        })))
    }

    fn last(&self) -> Result<i64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match *last {
            Some(last) => Ok(last),
            None => {
                let read = self.read_last().map_err(|error| self.unusable(&error))?;
                *last = Some(read);
                Ok(read)
            }
        }
    }

    fn keep(&self, lines: &[String]) -> Result<()> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        self.append(lines).map_err(|error| self.unusable(&error))?;
        *last = lines.last().and_then(|line| Checkpoint::parse(line)).map(|checkpoint| checkpoint.sequence);
        Ok(())
    }
}

/// Whole lines, each of bounded length; what is no UTF-8 is replaced, and so is no checkpoint. A last line without its end
/// was being written, and is left out.
pub(crate) struct Lines<R>(pub(crate) R);

impl<R: BufRead> Iterator for Lines<R> {
    type Item = io::Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        /// An entry is never longer: a request is 1 MiB at most.
        const LONGEST: u64 = 16 << 20;
        let mut line = Vec::new();
        match (&mut self.0).take(LONGEST).read_until(b'\n', &mut line) {
            Err(error) => Some(Err(error)),
            Ok(_) if line.last() == Some(&b'\n') => {
                line.pop();
                Some(Ok(String::from_utf8_lossy(&line).into_owned()))
            }
            Ok(_) if line.len() as u64 == LONGEST => Some(Err(io::Error::other("a line is too long"))),
            Ok(_) => None,
        }
    }
}

/// Copies checkpoints until `stop`, and once more after it. A failure is told when it begins.
pub(crate) async fn keep(app: App, stop: CancellationToken) {
    if app.audit.is_cut().await.is_ok_and(|cut| cut) {
        tracing::error!(
            "the audit trail ends before what its checkpoint file knows of: entries were removed, or an older \
             database was restored; see `pilothouse audit verify`"
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
            tracing::error!(%error, "cannot keep checkpoints of the audit trail outside the database");
        }
        failing = kept.is_err();
        if age.is_zero() {
            return;
        }
    }
}
