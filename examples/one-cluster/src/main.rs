//! Pilothouse's core and Kubernetes client without HTTP and database: lists the workloads of the cluster of a
//! kubeconfig, scales one through the gate, and prints the audit trail. The operation's id is the `Audit-ID` in the
//! cluster's own audit log.
//!
//! `cargo run -p example-one-cluster -- KUBECONFIG NAMESPACE DEPLOYMENT REPLICAS`
#![allow(clippy::print_stdout, reason = "a command-line program")]

use std::{env, error::Error as StdError, fs, sync::Arc};

use example_in_memory::{Memory, Process};
use pilothouse_core::{
    access::Caller,
    audit::{AuditQuery, OperationQuery},
    cluster::{ClusterName, ClusterPorts, Clusters, CredentialInput, NewCluster, RegistryNames},
    connection::AuthType,
    gate::Gate,
    inventory::{List, Lists},
    name::{Namespace, ObjectName},
    object::Labels,
    workload::{Replicas, WorkloadRef, WorkloadType, Workloads},
};
use pilothouse_kube::{EgressRules, KubeClusters, KubeSettings};

/// The use cases of this program.
struct Pilothouse {
    clusters: Clusters,
    lists: Lists,
    workloads: Workloads,
    trail: Arc<Memory>,
}

impl Pilothouse {
    fn new() -> Self {
        let (process, memory) = (Arc::new(Process::default()), Arc::new(Memory::default()));
        // a user who can read the kubeconfig can reach a cluster on this machine anyway
        let egress = EgressRules { allow_loopback: true, ..EgressRules::default() };
        let settings = KubeSettings { egress, ..KubeSettings::default() };
        let kube = Arc::new(KubeClusters::new(settings, memory.clone(), process.clone()));
        let gate = Gate::new(
            memory.clone(),
            Arc::new(RegistryNames(memory.clone())),
            process.clone(),
            process.clone(),
            process.clone(),
        );
        let ports =
            ClusterPorts { registry: memory.clone(), connections: memory.clone(), probe: kube.clone() };
        Self {
            clusters: Clusters::new(gate.clone(), ports, process.clone(), false),
            lists: Lists::new(gate.clone(), kube.clone()),
            workloads: Workloads::new(gate, kube, process),
            trail: memory,
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let [_, kubeconfig, namespace, name, replicas] = &env::args().collect::<Vec<_>>()[..] else {
        return Err("usage: example-one-cluster KUBECONFIG NAMESPACE DEPLOYMENT REPLICAS".into());
    };
    let namespace = Namespace::new(namespace).map_err(|reason| format!("the namespace is {reason}"))?;
    let deployment = WorkloadRef {
        namespace: namespace.clone(),
        kind: WorkloadType::Deployment,
        name: ObjectName::new(name).map_err(|reason| format!("the name is {reason}"))?,
    };
    let replicas = Replicas::try_from(replicas.parse::<i64>()?)
        .map_err(|reason| format!("the number of replicas is {reason}"))?;
    let kubeconfig = fs::read_to_string(kubeconfig)?;

    let pilothouse = Pilothouse::new();
    let caller = Caller::command_line("example");

    // the connection is tested first; if the test fails nothing is stored
    let cluster = NewCluster {
        name: ClusterName::new("mine").map_err(|reason| format!("the cluster's name is {reason}"))?,
        description: String::new(),
        labels: Labels::default(),
        credential: CredentialInput {
            auth_type: Some(AuthType::Kubeconfig),
            kubeconfig: Some(kubeconfig.into()),
            ..CredentialInput::default()
        },
        skip_test: false,
    };
    let cluster = pilothouse.clusters.create(&caller, cluster).await?.value;
    println!("cluster {} {}", cluster.name, cluster.version.unwrap_or_default());

    // the query parameters of `GET /api/k8s/workloads`
    let query = [
        ("cluster_id".to_owned(), cluster.id.to_string()),
        ("namespace".to_owned(), namespace.to_string()),
        ("sort".to_owned(), "name".to_owned()),
    ];
    let query = List::Workloads.parse_page(&query)?;
    for row in pilothouse.lists.page(&caller, cluster.id, List::Workloads, &query).await?.listing.rows {
        let fields: serde_json::Value = row.parse()?;
        println!("{} {}: {} wanted, {}", fields["type"], row.name(), fields["replicas"], fields["status"]);
    }

    let changed = pilothouse.workloads.scale(&caller, cluster.id, &deployment, replicas).await;
    match &changed {
        Ok(changed) => println!("{} scaled to {}", changed.value.name, replicas.get()),
        Err(refused) => println!("not scaled: {refused}"),
    }

    // the trail contains the outcome of the change in either case
    for row in pilothouse.trail.operations(&OperationQuery::parse(&[])?).await?.logs {
        let what = format!("{} {}", row.operation_type, row.resource_name.unwrap_or_default());
        println!("{} {}: {what}, {}", row.operation_id, row.username, row.status.as_str());
    }
    changed?;
    Ok(())
}
