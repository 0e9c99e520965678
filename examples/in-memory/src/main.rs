//! A service that embeds `pilothouse-core` and provides everything else itself. Roles, the gate and the audit trail
//! are Pilothouse's; the "cluster" is a list of namespaces in memory. It implements only the ports of the use cases
//! that it needs.
//!
//! `cargo run -p example-in-memory`
#![allow(clippy::print_stdout, reason = "a command-line program")]

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use example_in_memory::{Memory, Process};
use pilothouse_core::{
    Cause, Error, Result,
    access::{Caller, Origin, Permit},
    audit::{AuditQuery, OperationQuery},
    clock::Clock,
    cluster::{
        ClusterName, ClusterPorts, ClusterProbe, Clusters, CredentialInput, NewCluster, Permission,
        ProbeTarget, Probed, RegistryNames, Report,
    },
    connection::{ApiServer, AuthType, Connection},
    gate::Gate,
    ids::{ClusterId, UserId},
    inventory::{Inventory, List, Listing, Lists},
    kind::Kind,
    name::Namespace,
    namespace::{NamespaceApi, NamespaceRow, Namespaces},
    object::{Labels, parse},
    role::Role,
    rows::{ListQuery, Row, select},
};
use serde_json::{json, value::to_raw_value};

/// A toy cluster: the names of its namespaces.
struct Toy {
    namespaces: Mutex<BTreeSet<String>>,
    clock: Arc<Process>,
}

impl Toy {
    /// A namespace as a Kubernetes API server would return it; core projects it to its row.
    fn row(name: &str) -> Result<NamespaceRow> {
        let object = json!({"metadata": {"name": name}, "status": {"phase": "Active"}});
        let object = to_raw_value(&object).map_err(|error| Error::internal(error.to_string()))?;
        Ok(NamespaceRow::project(parse(&object)?))
    }
}

#[async_trait]
impl Inventory for Toy {
    async fn page(&self, permit: &Permit, list: List, query: &ListQuery) -> Result<Listing> {
        permit.covers(Kind::Namespace)?;
        let names = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let known = if list == List::Namespaces { names } else { BTreeSet::new() };
        let rows = known.iter().map(|name| Row::of(&Self::row(name)?)).collect::<Result<_>>()?;
        let (rows, pagination) = select(rows, &query.within(permit.namespaces()));
        Ok(Listing { rows, pagination, as_of: self.clock.now(), stale: false, warnings: Vec::new() })
    }
}

#[async_trait]
impl NamespaceApi for Toy {
    async fn create(&self, permit: &Permit, _: &Labels) -> Result<NamespaceRow> {
        // the permit determines what may be done and where; only the gate creates permits
        let name = permit.namespace()?.to_string();
        let mut namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        if !namespaces.insert(name.clone()) {
            return Err(Error::new(Cause::AlreadyExists).resource("namespace").name(name));
        }
        Self::row(&name)
    }

    async fn delete(&self, permit: &Permit) -> Result<()> {
        let name = permit.namespace()?.to_string();
        let removed = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        let absent = || Error::new(Cause::NotFoundInCluster).resource("namespace").name(name);
        removed.then_some(()).ok_or_else(absent)
    }
}

#[async_trait]
impl ClusterProbe for Toy {
    fn check(&self, _: &Connection) -> Result<()> {
        Ok(())
    }

    async fn probe(&self, _: &Permit, _: ProbeTarget) -> Result<Probed> {
        let namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner).len();
        let report = Report {
            version: "v0.0.1-toy".to_owned(),
            latency: Duration::ZERO,
            identity: None,
            nodes: None,
            pods: None,
            namespaces: i64::try_from(namespaces).ok(),
            certificates: Vec::new(),
        };
        Ok(Probed { at: self.clock.now(), record: true, result: Ok(report) })
    }

    async fn permissions(&self, _: &Permit, _: ProbeTarget) -> Result<Vec<Permission>> {
        Ok(Vec::new())
    }

    async fn connection_changed(&self, _: ClusterId) {}
}

/// A caller whom this service has authenticated by its own means.
fn caller(id: i64, name: &str, role: Role) -> Caller {
    Caller { user_id: Some(UserId(id)), ..Caller::anonymous(name, Origin::default()).with_role(role) }
}

#[tokio::main]
async fn main() -> Result<()> {
    let (process, memory) = (Arc::new(Process::default()), Arc::new(Memory::default()));
    let toy = Arc::new(Toy { namespaces: Mutex::new(["default".to_owned()].into()), clock: process.clone() });
    let gate = Gate::new(
        memory.clone(),
        Arc::new(RegistryNames(memory.clone())),
        process.clone(),
        process.clone(),
        process.clone(),
    );
    let ports = ClusterPorts { registry: memory.clone(), connections: memory.clone(), probe: toy.clone() };
    let clusters = Clusters::new(gate.clone(), ports, process, false);
    let lists = Lists::new(gate.clone(), toy.clone());
    let namespaces = Namespaces::new(gate, toy);

    let (ann, bob) = (caller(1, "ann", Role::OpsAdmin), caller(2, "bob", Role::Viewer));
    let toy_town = NewCluster {
        name: ClusterName::new("toy town").map_err(|reason| Error::invalid("name", reason))?,
        description: String::new(),
        labels: Labels::default(),
        credential: CredentialInput {
            auth_type: Some(AuthType::Token),
            api_server: ApiServer::new("https://toy.example").ok(),
            token: Some("not-a-secret".into()),
            ..CredentialInput::default()
        },
        skip_test: false,
    };
    let cluster = clusters.create(&ann, toy_town).await?.value;
    println!("registered {} ({}), {:?}", cluster.name, cluster.version.unwrap_or_default(), cluster.status);

    let payments = Namespace::new("payments").map_err(|reason| Error::invalid("name", reason))?;
    let made = namespaces.create(&ann, cluster.id, &payments, Labels::default()).await?.value;
    println!("made {} ({})", made.name, made.status);
    if let Err(refused) = namespaces.delete(&bob, cluster.id, &payments).await {
        println!("bob is refused: {refused}");
    }

    let page = lists.page(&bob, cluster.id, List::Namespaces, &ListQuery::default()).await?;
    for row in &page.listing.rows {
        println!("namespace {}: {}", row.name(), row.json());
    }

    for row in memory.operations(&OperationQuery::parse(&[])?).await?.logs {
        println!(
            "audit {}: {} {} {} {} -> {}",
            row.id,
            row.username,
            row.operation_type,
            row.resource_type,
            row.resource_name.unwrap_or_default(),
            row.status.as_str(),
        );
    }
    Ok(())
}
