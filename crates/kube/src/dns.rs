//! Name resolution for clusters: outside of the runtime's threads, one lookup at a time of each name and a bounded number of
//! lookups in all, so that names without an answer block neither the database nor other clusters.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, ToSocketAddrs},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use pilothouse_core::{Cause, Error, Result};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, oneshot},
    time::Instant,
};

use crate::single_flight::SingleFlight;

/// A lookup that took longer is slow, and so will be the next one of that name.
const SLOW: Duration = Duration::from_secs(1);
/// Slow names that are remembered.
const MOST_SLOW: usize = 4096;

/// Turns names into addresses.
#[async_trait]
pub trait Resolver: Send + Sync + std::fmt::Debug {
    /// All addresses that a name has now.
    ///
    /// # Errors
    /// When it has none, or the lookup fails.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The system's resolver (`getaddrinfo`: hosts file, search domains, name servers). It cannot be cancelled and may take
/// minutes without a name server, so each lookup has a thread of its own and none of tokio's, which the database needs;
/// [`crate::KubeClusters`] bounds how many there are.
#[derive(Clone, Copy, Debug)]
pub struct SystemResolver;

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let (answer, answered) = oneshot::channel();
        let name = name.to_owned();
        thread::Builder::new().name("dns-lookup".to_owned()).spawn(move || {
            let found = (name.as_str(), 0).to_socket_addrs();
            // the caller may have given up
            let _ = answer.send(found.map(|sockets| sockets.map(|socket| socket.ip()).collect()));
        })?;
        answered.await.map_err(io::Error::other)?
    }
}

/// How many lookups there may be at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResolverLimits {
    /// Running.
    pub(crate) at_once: usize,
    /// Running, of names whose last lookup was slow.
    pub(crate) slow: usize,
    /// Running or waiting.
    pub(crate) most: usize,
}

impl ResolverLimits {
    /// Of registered clusters. None is refused: there is at most one a cluster.
    pub(crate) const REGISTERED: Self = Self { at_once: 32, slow: 16, most: usize::MAX };
    /// Of connections that are being tested and are not registered: any number of names.
    pub(crate) const UNREGISTERED: Self = Self { at_once: 8, slow: 8, most: 64 };
}

/// Looks names up.
pub(crate) struct DnsResolver {
    resolver: Arc<dyn Resolver>,
    lookups: SingleFlight<String, Vec<IpAddr>>,
    places: Arc<Semaphore>,
    slow_places: Arc<Semaphore>,
    slow: Arc<Mutex<HashSet<String>>>,
}

impl DnsResolver {
    pub(crate) fn new(resolver: Arc<dyn Resolver>, lookups: ResolverLimits, runtime: Handle) -> Self {
        Self {
            resolver,
            lookups: SingleFlight::new(lookups.most, runtime),
            places: Arc::new(Semaphore::new(lookups.at_once)),
            slow_places: Arc::new(Semaphore::new(lookups.slow)),
            slow: Arc::default(),
        }
    }

    /// All addresses that a name has now, from the lookup that is under way, else from a new one. A lookup goes on when its
    /// callers have given up; the next caller waits for the same.
    ///
    /// # Errors
    /// `Unreachable` when it has none or the lookup fails; `Overloaded` when too many other names are being looked up.
    pub(crate) async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>> {
        self.lookups.join(name.to_owned(), Duration::ZERO, || Ok(self.lookup(name.to_owned())))?.await
    }

    fn lookup(&self, name: String) -> impl Future<Output = Result<Vec<IpAddr>>> + Send + 'static {
        let (resolver, slow) = (self.resolver.clone(), self.slow.clone());
        let (places, slow_places) = (self.places.clone(), self.slow_places.clone());
        async move {
            let is_slow = lock(&slow).contains(&name);
            // neither semaphore is ever closed
            let _slow_place = if is_slow { slow_places.acquire_owned().await.ok() } else { None };
            let _place = places.acquire_owned().await.ok();
            let began = Instant::now();
            let found = resolver.resolve(&name).await;
            note(&mut lock(&slow), &name, began.elapsed() >= SLOW);
            found.map_err(|error| {
                tracing::debug!(%error, "cannot resolve the host name of a cluster");
                Error::new(Cause::Unreachable)
            })
        }
    }
}

fn note(slow: &mut HashSet<String>, name: &str, is_slow: bool) {
    if !is_slow {
        slow.remove(name);
    } else if !slow.contains(name) {
        if slow.len() >= MOST_SLOW {
            slow.clear();
        }
        slow.insert(name.to_owned());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::mpsc};

    use futures_util::future::{join_all, poll_immediate};
    use tokio::{
        sync::Notify,
        time::{sleep, timeout},
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Answers for every name but those that begin with `hang`: these hang until they are let go.
    #[derive(Debug, Default)]
    struct Partly {
        running: Mutex<HashMap<String, usize>>,
        release: Notify,
    }

    #[async_trait]
    impl Resolver for Partly {
        async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
            if name.starts_with("hang") {
                let released = self.release.notified();
                *lock(&self.running).entry(name.to_owned()).or_default() += 1;
                released.await;
                lock(&self.running).remove(name);
                return Err(io::Error::other("no name server answers"));
            }
            Ok(vec![[192, 0, 2, 1].into()])
        }
    }

    impl Partly {
        fn running(&self) -> Vec<usize> {
            lock(&self.running).values().copied().collect()
        }
    }

    fn names(lookups: ResolverLimits) -> (Arc<Partly>, DnsResolver) {
        let partly = Arc::new(Partly::default());
        (partly.clone(), DnsResolver::new(partly, lookups, Handle::current()))
    }

    async fn until(what: &str, holds: impl Fn() -> bool) {
        let held = async {
            while !holds() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, held).await.unwrap_or_else(|_| panic!("in time: {what}"));
    }

    /// Asks for so many names that hang, each by two callers who give up at once.
    async fn ask_for_hanging(names: &DnsResolver, count: usize) {
        for number in 0..2 * count {
            let name = format!("hang-{}", number / 2);
            assert!(poll_immediate(names.resolve(&name)).await.is_none());
        }
    }

    async fn answers(names: &DnsResolver, name: &str) -> bool {
        timeout(PATIENCE, names.resolve(name)).await.is_ok_and(|found| found.is_ok())
    }

    #[tokio::test]
    async fn a_name_that_hangs_takes_one_lookup_however_many_callers_give_up() {
        let (partly, names) = names(ResolverLimits::REGISTERED);
        for _ in 0..100 {
            let waiting = (0..10).map(|_| names.resolve("hang"));
            assert!(poll_immediate(join_all(waiting)).await.is_none());
        }
        until("one lookup", || partly.running() == [1]).await;
        partly.release.notify_waiters();
        until("it has ended", || partly.running().is_empty()).await;
    }

    /// One less than there may be lookups at once, and they have never been seen to hang before.
    #[tokio::test]
    async fn names_that_hang_keep_no_other_name_from_being_resolved() {
        let (partly, names) = names(ResolverLimits::REGISTERED);
        let hanging = ResolverLimits::REGISTERED.at_once - 1;
        ask_for_hanging(&names, hanging).await;
        until("each of them hangs", || partly.running().len() == hanging).await;
        assert!(answers(&names, "well.example.com").await);
        assert_eq!(partly.running(), vec![1; hanging]);
    }

    /// More than there may be lookups at once: while they hang for the first time they do hold up others, never again.
    #[tokio::test]
    async fn names_that_have_hung_take_half_of_the_lookups_however_many_they_are() {
        let lookups = ResolverLimits { at_once: 4, slow: 2, most: usize::MAX };
        let (partly, names) = names(lookups);
        let count = 2 * lookups.at_once;
        ask_for_hanging(&names, count).await;
        for _ in 0..2 {
            until("all places are taken", || partly.running().len() == lookups.at_once).await;
            sleep(SLOW).await;
            let hung: Vec<_> = lock(&partly.running).keys().cloned().collect();
            partly.release.notify_waiters();
            until("they end", || !lock(&partly.running).keys().any(|name| hung.contains(name))).await;
        }
        ask_for_hanging(&names, count).await;
        until("as many hang as may", || partly.running().len() == lookups.slow).await;
        assert!(answers(&names, "well.example.com").await);
        assert_eq!(partly.running(), vec![1; lookups.slow]);
    }

    #[tokio::test]
    async fn lookups_of_unregistered_names_are_refused_beyond_a_limit() {
        let (partly, names) = names(ResolverLimits::UNREGISTERED);
        let ResolverLimits { at_once, most, .. } = ResolverLimits::UNREGISTERED;
        ask_for_hanging(&names, most).await;
        until("as many hang as may", || partly.running().len() == at_once).await;
        assert_eq!(names.resolve("another").await.unwrap_err().cause, Cause::Overloaded);
    }

    /// SQLite runs on the runtime's blocking threads: here is one, and it is taken.
    #[test]
    fn the_system_is_asked_outside_of_the_runtimes_blocking_threads() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(1).build().unwrap();
        let (end, ended) = mpsc::channel::<()>();
        let taken = runtime.spawn_blocking(move || ended.recv());
        let found = runtime.block_on(async { timeout(PATIENCE, SystemResolver.resolve("localhost")).await });
        assert!(found.expect("it does not wait for a thread").unwrap().iter().all(IpAddr::is_loopback));
        drop(end);
        assert!(runtime.block_on(taken).unwrap().is_err());
    }
}
