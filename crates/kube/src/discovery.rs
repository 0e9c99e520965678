//! Discovery: the kinds that a cluster serves, read in two requests, and in one for the names of its definitions.
//!
//! What was found is kept with the transport of the cluster, so a replaced connection begins anew. It is read again when
//! it is used and older than [`RECENT`], when a caller asks for a kind that it does not have, and when the server answers
//! 404 for a cached list.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream, try_join};
use http::StatusCode;
use pilothouse_core::{Error, Result, access::Permit, inventory::objects::ServedKinds};
use tokio::time::Instant;

use self::document::{Document, Group, Version, parse_definitions, parse_version, served};
use crate::{
    KubeClusters, cache::ListCache, client::ClusterClient, observe::Observer, request::Call,
    transport::Transport,
};

mod document;
mod wire;

/// Age up to which the kinds of a cluster are used without reading them again.
pub(crate) const RECENT: Duration = Duration::from_secs(30);
/// Number of versions whose kinds are read at the same time, from a server without discovery in one document.
const CONCURRENT_VERSIONS: usize = 8;

/// The kinds that a cluster serves, for one version of its connection.
#[derive(Default)]
pub(crate) struct DiscoveryCache {
    last: Mutex<Option<(Arc<ServedKinds>, Instant)>>,
    /// Held while the kinds are read.
    reading: tokio::sync::Mutex<()>,
}

impl DiscoveryCache {
    /// Forgets what was found: the next use reads it again.
    pub(crate) fn expire(&self) {
        *self.last() = None;
    }

    /// The kinds, if they were found at most `max_age` ago.
    fn younger_than(&self, max_age: Duration) -> Option<Arc<ServedKinds>> {
        let last = self.last();
        last.as_ref().filter(|(_, found)| found.elapsed() <= max_age).map(|(kinds, _)| kinds.clone())
    }

    /// The kinds, however old they are.
    fn any(&self) -> Option<Arc<ServedKinds>> {
        self.last().as_ref().map(|(kinds, _)| kinds.clone())
    }

    fn set(&self, kinds: &Arc<ServedKinds>) {
        *self.last() = Some((kinds.clone(), Instant::now()));
    }

    fn last(&self) -> MutexGuard<'_, Option<(Arc<ServedKinds>, Instant)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KubeClusters {
    /// The kinds that the permit's cluster serves, found at most `max_age` ago. Without an age, older ones are returned
    /// while they are read again for later calls.
    ///
    /// # Errors
    /// As every call to a cluster.
    pub(crate) async fn served_kinds(
        &self,
        permit: &Permit,
        max_age: Option<Duration>,
    ) -> Result<Arc<ServedKinds>> {
        let transport = self.transport(permit).await?;
        let age = max_age.unwrap_or(RECENT);
        if let Some(kinds) = transport.discovery().younger_than(age) {
            return Ok(kinds);
        }
        match transport.discovery().any() {
            Some(kinds) if max_age.is_none() => {
                // one task is enough for all callers
                if transport.discovery().reading.try_lock().is_ok() {
                    let (this, permit) = (self.clone(), permit.clone());
                    self.pool.runtime.spawn(async move {
                        if let Err(error) = this.discover(&permit, &transport, age).await {
                            tracing::debug!(%error, "cannot read the kinds that a cluster serves");
                        }
                    });
                }
                Ok(kinds)
            }
            _ => self.discover(permit, &transport, age).await,
        }
    }

    /// As [`refresh`], under a permit to read what the cluster serves.
    async fn discover(
        &self,
        permit: &Permit,
        transport: &Arc<Transport>,
        max_age: Duration,
    ) -> Result<Arc<ServedKinds>> {
        let source = Source { permit, timeout: self.deadlines().read, observer: &self.observer };
        refresh(transport, self.cache.as_deref(), max_age, source).await
    }
}

/// The parts of the client that reads the kinds.
pub(crate) struct Source<'a> {
    /// A permit for the cluster.
    pub(crate) permit: &'a Permit,
    /// Timeout of the reads.
    pub(crate) timeout: Duration,
    pub(crate) observer: &'a Arc<dyn Observer>,
}

/// Reads the kinds, unless another call has found them at most `max_age` ago. Lists of kinds that are served no more
/// leave the cache.
///
/// # Errors
/// As every call to a cluster.
pub(crate) async fn refresh(
    transport: &Arc<Transport>,
    cache: Option<&ListCache>,
    max_age: Duration,
    Source { permit, timeout, observer }: Source<'_>,
) -> Result<Arc<ServedKinds>> {
    let discovery = transport.discovery();
    let _one_at_a_time = discovery.reading.lock().await;
    if let Some(kinds) = discovery.younger_than(max_age) {
        return Ok(kinds);
    }
    let client = ClusterClient::new(transport.clone(), permit, timeout, observer)?;
    let kinds = Arc::new(read(&client).await?);
    discovery.set(&kinds);
    if let Some(cache) = cache {
        cache.retain_objects(transport, |kind| kinds.contains(kind));
    }
    Ok(kinds)
}

/// Reads all kinds.
async fn read(client: &ClusterClient<'_>) -> Result<ServedKinds> {
    let core = groups(client, Call::discover_core()?);
    let others = groups(client, Call::discover_groups()?);
    let (core, others, definitions) = try_join!(core, others, definitions(client))?;
    let groups = core.into_iter().chain(others).collect();
    Ok(served(groups, definitions.as_ref()))
}

/// The groups of a discovery document with their kinds.
async fn groups(client: &ClusterClient<'_>, call: Call) -> Result<Vec<Group>> {
    let response = client.read(&call).await.map_err(Error::from)?;
    let bytes = response.body.len();
    let document = client.run_job(bytes, move || Document::parse(&response.body)).await?;
    match document.map_err(Error::read_only)? {
        Document::Groups(groups) => Ok(groups),
        Document::Names(groups) => with_kinds(client, groups).await,
    }
}

/// The groups with their kinds, each version read by a request of its own.
async fn with_kinds(client: &ClusterClient<'_>, groups: Vec<Group>) -> Result<Vec<Group>> {
    let mut read = Vec::new();
    for Group { name, versions } in groups {
        let reads: Vec<_> = versions.into_iter().map(|version| version_of(client, &name, version)).collect();
        let versions: Vec<_> = stream::iter(reads).buffered(CONCURRENT_VERSIONS).collect().await;
        read.push(Group { name, versions });
    }
    Ok(read)
}

/// A version with its kinds. A group whose server fails does not hide the kinds of the others.
async fn version_of(client: &ClusterClient<'_>, group: &str, version: Version) -> Version {
    let resources = async {
        let Some(call) = Call::discover_version(group, &version.name)? else { return Ok(Vec::new()) };
        let response = client.read(&call).await.map_err(Error::from)?;
        parse_version(&response.body)
    };
    match resources.await {
        Ok(resources) => Version { resources, ..version },
        Err(error) => {
            tracing::debug!(%error, group, "cannot read the kinds of a group");
            Version { stale: true, ..version }
        }
    }
}

/// The names of all CustomResourceDefinitions; none if the credential may not list them, or the server does not print
/// them.
async fn definitions(client: &ClusterClient<'_>) -> Result<Option<HashSet<String>>> {
    let response = match client.read(&Call::definitions()?).await {
        Ok(response) => response,
        // without definitions, there are no custom kinds
        Err(absent) if absent.is(StatusCode::NOT_FOUND) => return Ok(Some(HashSet::new())),
        Err(refused) if refused.is(StatusCode::FORBIDDEN) || refused.is(StatusCode::NOT_ACCEPTABLE) => {
            return Ok(None);
        }
        Err(failure) => return Err(failure.into()),
    };
    let bytes = response.body.len();
    let names = client.run_job(bytes, move || parse_definitions(&response.body)).await?;
    names.map(Some).map_err(Error::read_only)
}
