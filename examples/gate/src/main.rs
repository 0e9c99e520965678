//! Authorises and records the operations of a program with `pilothouse-gate` alone: roles, permits and the audit trail
//! are Pilothouse's; the objects and their storage are the program's own.
//!
//! `cargo run -p example-gate`
#![allow(clippy::print_stdout, reason = "a command-line program")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use example_gate::Process;
use pilothouse_gate::{
    access::{AccessRequest, Caller, Origin, Permit, Resource, Verb},
    gate::{Changed, ClusterNames, Gate},
    operation::{AuditWriter, Operation, Outcome},
};
use pilothouse_types::{
    Error, Result,
    ids::{ClusterId, OperationId, UserId},
    kind::Kind,
    name::Namespace,
    role::Role,
};

const CLUSTER: ClusterId = ClusterId(1);

/// The only cluster.
struct OneCluster;

#[async_trait]
impl ClusterNames for OneCluster {
    async fn name(&self, id: ClusterId) -> Result<Option<String>> {
        Ok((id == CLUSTER).then(|| "prod".to_owned()))
    }

    async fn all(&self) -> Result<Vec<(ClusterId, String)>> {
        Ok(vec![(CLUSTER, "prod".to_owned())])
    }
}

/// An audit trail on standard output. In a service, an entry is durable when the call returns.
struct PrintedTrail;

fn describe(operation: &Operation) -> String {
    let Operation { username, operation_type, resource_type, .. } = operation;
    let name = operation.resource_name.as_deref().unwrap_or_default();
    format!("{username} {operation_type} {resource_type} {name}")
}

#[async_trait]
impl AuditWriter for PrintedTrail {
    async fn begin(&self, operation: &Operation) -> Result<()> {
        println!("audit: {}: pending", describe(operation));
        Ok(())
    }

    async fn finish(&self, _: OperationId, outcome: &Outcome) -> Result<()> {
        println!("audit: {}: {}", outcome.details.as_deref().unwrap_or_default(), outcome.status.as_str());
        Ok(())
    }

    async fn record(&self, operation: &Operation, outcome: &Outcome) -> Result<()> {
        println!("audit: {}: {}", describe(operation), outcome.status.as_str());
        Ok(())
    }
}

/// Replicas of deployments, by namespace. Each method takes a permit and uses its namespace, so no caller can omit the
/// check or use the permit elsewhere.
#[derive(Default)]
struct Deployments(Mutex<BTreeMap<Namespace, BTreeMap<String, i64>>>);

impl Deployments {
    fn scale(&self, permit: &Permit, name: &str, replicas: i64) -> Result<()> {
        let namespace = permit.namespace()?.clone();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(namespace).or_default().insert(name.to_owned(), replicas);
        Ok(())
    }

    fn list(&self, permit: &Permit) -> Result<BTreeMap<String, i64>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(all.get(permit.namespace()?).cloned().unwrap_or_default())
    }
}

/// A caller whom the program has authenticated by its own means.
fn caller(id: i64, name: &str, role: Role) -> Caller {
    Caller { user_id: Some(UserId(id)), ..Caller::anonymous(name, Origin::default()).with_role(role) }
}

#[tokio::main]
async fn main() -> Result<()> {
    let process = Arc::new(Process::default());
    let gate =
        Gate::new(Arc::new(PrintedTrail), Arc::new(OneCluster), process.clone(), process.clone(), process);
    let deployments = Arc::new(Deployments::default());
    let shop = Namespace::new("shop").map_err(|reason| Error::invalid("namespace", reason))?;
    let to = |verb| {
        AccessRequest::to(verb, Resource::Kind(Kind::Deployment)).in_cluster(CLUSTER).in_namespace(&shop)
    };
    let (ann, bob) = (caller(1, "ann", Role::OpsAdmin), caller(2, "bob", Role::Viewer));

    for (caller, replicas) in [(&ann, 5), (&bob, 0)] {
        let deployments = deployments.clone();
        let scale = to(Verb::Scale).named("web").with("replicas", replicas);
        let work = async move |permit: Permit| deployments.scale(&permit, "web", replicas).map(Changed::from);
        match gate.change(caller, scale, work).await {
            Ok(_) => println!("{} scaled web to {replicas}", caller.username),
            Err(refusal) => println!("{} is refused: {refusal}", caller.username),
        }
    }
    let permit = gate.allow(&bob, to(Verb::List)).await?;
    println!("bob reads {:?}", deployments.list(&permit)?);
    Ok(())
}
