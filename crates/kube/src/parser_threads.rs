//! Threads that parse large responses, at a low scheduling priority. Requests for other clusters are processed first when
//! all processors are busy.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use pilothouse_core::{Error, Result};
use tokio::sync::oneshot;

/// Nice value of the threads, from 0 (normal priority) to 19 (lowest). At 10, Linux gives a thread about a tenth of the
/// time that it gives a thread of normal priority on the same processor.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

type Job = Box<dyn FnOnce() + Send>;

/// A fixed number of parser threads. They end when this value is dropped and the queue is empty.
pub(crate) struct ParserThreads {
    queue: mpsc::Sender<Job>,
}

impl ParserThreads {
    /// Starts `count` threads.
    ///
    /// # Panics
    /// When the operating system starts no thread.
    pub(crate) fn start(count: usize) -> Self {
        let (queue, jobs) = mpsc::channel();
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..count {
            let jobs = jobs.clone();
            let started = thread::Builder::new().name("parser".to_owned()).spawn(move || run_jobs(&jobs));
            started.expect("the operating system starts a parser thread");
        }
        Self { queue }
    }

    /// Runs a job on one of the threads, after the jobs that were queued before.
    ///
    /// # Errors
    /// `Internal` when the job panics.
    pub(crate) async fn run<R: Send + 'static>(&self, job: impl FnOnce() -> R + Send + 'static) -> Result<R> {
        let (sender, result) = oneshot::channel();
        let job = move || {
            // the receiver is gone when the request was cancelled
            let _ = sender.send(job());
        };
        // without threads the job is dropped, and the receiver reports that
        let _ = self.queue.send(Box::new(job));
        result.await.map_err(|_| Error::internal("parsing a response panicked"))
    }
}

fn run_jobs(jobs: &Mutex<mpsc::Receiver<Job>>) {
    // without the right to lower the priority, the thread keeps the normal one. On Linux this sets the priority of the
    // thread, on other systems it would set that of the process.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, NICE);
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        // a panic drops the job's sender, so the caller receives an error
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

#[cfg(test)]
mod tests {
    use pilothouse_core::Cause;

    use super::*;

    #[tokio::test]
    async fn job_that_panics_is_an_error_and_the_thread_goes_on() {
        let threads = ParserThreads::start(1);
        let panicking = threads.run(|| panic!("on purpose")).await;
        assert_eq!(panicking.map_err(|error| error.cause), Err::<(), _>(Cause::Internal));
        assert_eq!(threads.run(|| 7).await.unwrap(), 7);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn threads_have_a_low_priority_and_the_caller_keeps_its_own() {
        let priority = || rustix::process::getpriority_process(None).unwrap();
        let before = priority();
        let threads = ParserThreads::start(1);
        assert_eq!(threads.run(priority).await.unwrap(), NICE.max(before));
        assert_eq!(priority(), before);
    }
}
