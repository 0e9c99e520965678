//! The ports towards clusters, over kube-rs: its types, parameters and request builders. The way to the cluster is our
//! own (`stack.rs`), so of kube-rs no client, no retry and no reading of kubeconfigs is even compiled.
//!
//! A call goes one way: a port's method builds a `Call` (`request.rs`: a path from validated names only), a `Visit`
//! (`visit.rs`) holds it against the permit, sends it within the deadline and with the operation's id, through the
//! cluster's `Breaker` (`breaker.rs`) over its `Stack` (`stack.rs`: guarded dialer, TLS, HTTP/1.1), and `error.rs` turns
//! what is refused into the core's errors. What is read is counted (`budget.rs`), and large answers are parsed on blocking
//! threads. Lists are kept (`kept.rs`) where they can be. Nothing of a library's or a certificate's text is ever part of one.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::HeaderValue;
use jiff::Timestamp;
use pilothouse_core::{
    Result,
    access::Permit,
    clock::Clock,
    cluster::{Connection, Connections},
};
use tokio::runtime::Handle;

mod breaker;
mod budget;
mod changes;
mod clients;
mod config;
mod dial;
mod direct;
mod egress;
mod error;
mod inventory;
mod kept;
mod list;
mod namespace;
mod observe;
mod permissions;
mod pod;
mod probe;
mod replace;
mod request;
mod secret;
mod stack;
mod tls;
mod visit;
mod workload;

pub use budget::{Limits, Reads};
pub use dial::{Resolver, SystemResolver};
pub use egress::{EgressRules, Networks, NotNetworks, OwnSocket};
pub use kept::{Keeping, KeptFigures};
pub use observe::{Exchange, Observer, Unobserved};

use crate::{budget::Budget, clients::Clients, dial::Guard, kept::Kept, stack::Stack, visit::Visit};

/// How long a cluster may take to answer. Connecting alone may take 3 s, of these.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// A read, such as a page of a list with all its chunks.
    pub read: Duration,
    /// A change, with the reads around it.
    pub write: Duration,
    /// The test of a cluster, with all its questions.
    pub test: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { read: Duration::from_secs(10), write: Duration::from_secs(30), test: Duration::from_secs(5) }
    }
}

/// What an operator may set.
#[derive(Clone, Debug)]
pub struct KubeSettings {
    /// How long a cluster may take to answer.
    pub deadlines: Deadlines,
    /// Which addresses a cluster may have.
    pub egress: EgressRules,
    /// Who says which addresses a cluster's name has.
    pub resolver: Arc<dyn Resolver>,
    /// Who we say we are: `pilothouse/1.2.3`.
    pub user_agent: HeaderValue,
    /// Told of every request to a cluster.
    pub observer: Arc<dyn Observer>,
    /// Which lists are kept; without it every list is read from its cluster each time.
    pub keeping: Option<Keeping>,
    /// What may be read from clusters at once, and for one request.
    pub reads: Reads,
}

impl Default for KubeSettings {
    fn default() -> Self {
        Self {
            deadlines: Deadlines::default(),
            egress: EgressRules::default(),
            resolver: Arc::new(SystemResolver),
            user_agent: HeaderValue::from_static(concat!("pilothouse/", env!("CARGO_PKG_VERSION"))),
            observer: Arc::new(Unobserved),
            keeping: None,
            reads: Reads::default(),
        }
    }
}

/// Every port towards clusters: `Inventory`, `WorkloadApi`, `PodApi`, `NamespaceApi`, `ConfigApi`, `SecretApi`,
/// `ClusterProbe`.
/// Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct KubeClusters {
    clients: Arc<Clients>,
    clock: Arc<dyn Clock>,
    deadlines: Deadlines,
    observer: Arc<dyn Observer>,
    kept: Option<Arc<Kept>>,
}

impl fmt::Debug for KubeClusters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubeClusters").field("deadlines", &self.deadlines).finish_non_exhaustive()
    }
}

impl KubeClusters {
    /// The clusters of `connections`. Nothing is connected before it is asked for.
    ///
    /// # Panics
    /// Outside a tokio runtime: connections live on the one it is called in.
    pub fn new(settings: KubeSettings, connections: Arc<dyn Connections>, clock: Arc<dyn Clock>) -> Self {
        let KubeSettings { deadlines, egress, resolver, user_agent, observer, keeping, reads } = settings;
        let budget = Budget::new(reads, keeping.unwrap_or_default().fills, Handle::current());
        let kept = keeping.map(|keeping| {
            Kept::new(keeping, connections.clone(), clock.clone(), observer.clone(), deadlines.read)
        });
        let guard = Guard { rules: Arc::new(egress), resolver };
        let stacks = Mutex::new(HashMap::new());
        let clients = Clients { connections, guard, user_agent, runtime: Handle::current(), budget, stacks };
        Self { clients: Arc::new(clients), clock, deadlines, observer, kept }
    }

    /// What there is of each kept list, over all clusters.
    pub fn kept(&self) -> Vec<KeptFigures> {
        self.kept.as_ref().map(|kept| kept.figures()).unwrap_or_default()
    }

    /// The way to the permit's cluster.
    async fn stack(&self, permit: &Permit) -> Result<Arc<Stack>> {
        self.clients.of(permit.cluster()?).await
    }

    /// A visit to the permit's cluster.
    async fn visit<'a>(&self, permit: &'a Permit, at_most: Duration) -> Result<Visit<'a>> {
        Visit::new(self.stack(permit).await?, permit, at_most, &self.observer)
    }

    /// A visit over a connection that may not be registered, never over a warm one: what is tested is the connection.
    fn first_visit<'a>(&self, permit: &'a Permit, connection: &Connection) -> Result<Visit<'a>> {
        let Clients { guard, user_agent, runtime, budget, .. } = &*self.clients;
        let stack = Stack::new(connection, guard, user_agent, runtime, budget)?;
        Visit::new(Arc::new(stack), permit, self.deadlines.test, &self.observer)
    }

    fn deadlines(&self) -> Deadlines {
        self.deadlines
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}
