//! DNS resolver: runs outside of tokio's threads, one lookup per name at a time and a bounded number of
//! lookups in total, so that unresponsive names block neither the database nor other servers.

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

/// Duration above which a lookup counts as slow; the next lookup of the name takes a slot for slow names.
const SLOW_LOOKUP: Duration = Duration::from_secs(1);
/// Maximum number of slow names that are recorded.
const MAX_SLOW_NAMES: usize = 4096;

/// Resolves host names.
#[async_trait]
pub trait Resolver: Send + Sync + std::fmt::Debug {
    /// All current addresses of a name.
    ///
    /// # Errors
    /// When the name has no address or the lookup fails.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The system resolver (`getaddrinfo`: hosts file, search domains, name servers). It cannot be cancelled and may block
/// for minutes without a name server, so each lookup has its own thread instead of one of tokio's, which the database
/// needs; [`DnsResolver`] bounds their number.
#[derive(Clone, Copy, Debug)]
pub struct SystemResolver;

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let (answer, answered) = oneshot::channel();
        let name = name.to_owned();
        thread::Builder::new().name("dns-lookup".to_owned()).spawn(move || {
            let found = (name.as_str(), 0).to_socket_addrs();
            // fails if the caller was dropped
            let _ = answer.send(found.map(|sockets| sockets.map(|socket| socket.ip()).collect()));
        })?;
        answered.await.map_err(io::Error::other)?
    }
}

/// Limits of concurrent lookups.
#[derive(Clone, Copy, Debug)]
pub struct ResolverLimits {
    /// Maximum number of running lookups.
    pub max_running: usize,
    /// Maximum number of running lookups of names whose last lookup was slow.
    pub slow: usize,
    /// Maximum number of running and waiting lookups.
    pub max_pending: usize,
}

impl ResolverLimits {
    /// For registered clusters. Not limited in total: there is at most one name per cluster.
    pub const REGISTERED: Self = Self { max_running: 32, slow: 16, max_pending: usize::MAX };
    /// For connection tests of unregistered clusters, whose names are arbitrary.
    pub const UNREGISTERED: Self = Self { max_running: 8, slow: 8, max_pending: 64 };
}

/// Resolver with single flight and bounded concurrency.
pub struct DnsResolver {
    resolver: Arc<dyn Resolver>,
    lookups: SingleFlight<String, Vec<IpAddr>>,
    slots: Arc<Semaphore>,
    slow_slots: Arc<Semaphore>,
    slow: Arc<Mutex<HashSet<String>>>,
}

impl DnsResolver {
    /// Runs lookups on `runtime`, within these limits.
    pub fn new(resolver: Arc<dyn Resolver>, lookups: ResolverLimits, runtime: Handle) -> Self {
        Self {
            resolver,
            lookups: SingleFlight::new(lookups.max_pending, runtime),
            slots: Arc::new(Semaphore::new(lookups.max_running)),
            slow_slots: Arc::new(Semaphore::new(lookups.slow)),
            slow: Arc::default(),
        }
    }

    /// All current addresses of a name, from the running lookup or a new one. A lookup continues when its callers are
    /// dropped; the next caller joins it.
    ///
    /// # Errors
    /// `Unreachable` when the name has no address or the lookup fails; `Overloaded` when too many other names are being
    /// looked up.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>> {
        self.lookups.join(name.to_owned(), Duration::ZERO, || Ok(self.lookup(name.to_owned())))?.await
    }

    fn lookup(&self, name: String) -> impl Future<Output = Result<Vec<IpAddr>>> + Send + 'static {
        let (resolver, slow) = (self.resolver.clone(), self.slow.clone());
        let (slots, slow_slots) = (self.slots.clone(), self.slow_slots.clone());
        async move {
            let is_slow = lock(&slow).contains(&name);
            // neither semaphore is ever closed
            let _slow_slot = if is_slow { slow_slots.acquire_owned().await.ok() } else { None };
            let _slot = slots.acquire_owned().await.ok();
            let began = Instant::now();
            let found = resolver.resolve(&name).await;
            record_duration(&mut lock(&slow), &name, began.elapsed() >= SLOW_LOOKUP);
            found.map_err(|error| {
                tracing::debug!(%error, "cannot resolve a host name");
                Error::new(Cause::Unreachable)
            })
        }
    }
}

fn record_duration(slow: &mut HashSet<String>, name: &str, is_slow: bool) {
    if !is_slow {
        slow.remove(name);
    } else if !slow.contains(name) {
        if slow.len() >= MAX_SLOW_NAMES {
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

    const TEST_TIMEOUT: Duration = Duration::from_secs(10);

    /// Resolver stub: answers every name at once, except names that begin with `hang`, which block until they are
    /// released.
    #[derive(Debug, Default)]
    struct PartlyHanging {
        running: Mutex<HashMap<String, usize>>,
        release: Notify,
    }

    #[async_trait]
    impl Resolver for PartlyHanging {
        async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
            if name.starts_with("hang") {
                let released = self.release.notified();
                *lock(&self.running).entry(name.to_owned()).or_default() += 1;
                released.await;
                lock(&self.running).remove(name);
                return Err(io::Error::other("no name server responds"));
            }
            Ok(vec![[192, 0, 2, 1].into()])
        }
    }

    impl PartlyHanging {
        fn running(&self) -> Vec<usize> {
            lock(&self.running).values().copied().collect()
        }
    }

    fn resolver(lookups: ResolverLimits) -> (Arc<PartlyHanging>, DnsResolver) {
        let stub = Arc::new(PartlyHanging::default());
        (stub.clone(), DnsResolver::new(stub, lookups, Handle::current()))
    }

    async fn wait_until(what: &str, condition: impl Fn() -> bool) {
        let polling = async {
            while !condition() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(TEST_TIMEOUT, polling).await.unwrap_or_else(|_| panic!("{what} before the deadline"));
    }

    /// Starts lookups of `count` hanging names, each by two callers that are dropped at once.
    async fn start_hanging_lookups(resolver: &DnsResolver, count: usize) {
        for number in 0..2 * count {
            let name = format!("hang-{}", number / 2);
            assert!(poll_immediate(resolver.resolve(&name)).await.is_none());
        }
    }

    async fn resolves(resolver: &DnsResolver, name: &str) -> bool {
        timeout(TEST_TIMEOUT, resolver.resolve(name)).await.is_ok_and(|found| found.is_ok())
    }

    #[tokio::test]
    async fn hanging_name_takes_one_lookup_for_any_number_of_callers() {
        let (stub, resolver) = resolver(ResolverLimits::REGISTERED);
        for _ in 0..100 {
            let waiting = (0..10).map(|_| resolver.resolve("hang"));
            assert!(poll_immediate(join_all(waiting)).await.is_none());
        }
        wait_until("one lookup runs", || stub.running() == [1]).await;
        stub.release.notify_waiters();
        wait_until("the lookup has ended", || stub.running().is_empty()).await;
    }

    /// Looks up one hanging name less than the limit. None of these names was slow before.
    #[tokio::test]
    async fn hanging_names_do_not_block_other_names() {
        let (stub, resolver) = resolver(ResolverLimits::REGISTERED);
        let hanging = ResolverLimits::REGISTERED.max_running - 1;
        start_hanging_lookups(&resolver, hanging).await;
        wait_until("all lookups hang", || stub.running().len() == hanging).await;
        assert!(resolves(&resolver, "well.example.com").await);
        assert_eq!(stub.running(), vec![1; hanging]);
    }

    /// Looks up more hanging names than the limit. Their first lookups delay other names; later lookups do not.
    #[tokio::test]
    async fn slow_names_take_at_most_their_share_of_the_lookups() {
        let lookups = ResolverLimits { max_running: 4, slow: 2, max_pending: usize::MAX };
        let (stub, resolver) = resolver(lookups);
        let count = 2 * lookups.max_running;
        start_hanging_lookups(&resolver, count).await;
        for _ in 0..2 {
            wait_until("all slots are taken", || stub.running().len() == lookups.max_running).await;
            sleep(SLOW_LOOKUP).await;
            let hung: Vec<_> = lock(&stub.running).keys().cloned().collect();
            stub.release.notify_waiters();
            wait_until("the lookups end", || !lock(&stub.running).keys().any(|name| hung.contains(name)))
                .await;
        }
        start_hanging_lookups(&resolver, count).await;
        wait_until("hanging lookups reach the limit", || stub.running().len() == lookups.slow).await;
        assert!(resolves(&resolver, "well.example.com").await);
        assert_eq!(stub.running(), vec![1; lookups.slow]);
    }

    #[tokio::test]
    async fn lookups_of_unregistered_names_are_limited() {
        let (stub, resolver) = resolver(ResolverLimits::UNREGISTERED);
        let ResolverLimits { max_running, max_pending, .. } = ResolverLimits::UNREGISTERED;
        start_hanging_lookups(&resolver, max_pending).await;
        wait_until("hanging lookups reach the limit", || stub.running().len() == max_running).await;
        assert_eq!(resolver.resolve("another").await.unwrap_err().cause, Cause::Overloaded);
    }

    /// SQLite runs on the runtime's blocking threads: the only one is occupied here.
    #[test]
    fn system_resolver_uses_no_blocking_thread_of_the_runtime() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(1).build().unwrap();
        let (end, ended) = mpsc::channel::<()>();
        let occupied = runtime.spawn_blocking(move || ended.recv());
        let found =
            runtime.block_on(async { timeout(TEST_TIMEOUT, SystemResolver.resolve("localhost")).await });
        assert!(found.expect("lookup without a blocking thread").unwrap().iter().all(IpAddr::is_loopback));
        drop(end);
        assert!(runtime.block_on(occupied).unwrap().is_err());
    }
}
