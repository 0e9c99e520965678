//! Tests of the adapter against a real control plane. The results are compared with plain reads of the API server.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[path = "../common/mod.rs"]
mod common;

mod cache;
mod configuration;
mod definitions;
mod kinds;
mod objects;
mod printed;
mod probe;
mod rollouts;
mod small_changes;
mod workloads;

use std::{
    collections::{BTreeMap, BTreeSet},
    process,
    time::Duration,
};

use common::{by_token, clusters, object, permissions, permit, permit_all, probe};
use pilothouse_core::{
    Cause, Result,
    access::{Permit, Verb},
    config::{ConfigApi, ConfigMapRow, NewConfigMap},
    connection::Connection,
    gate::Warning,
    inventory::{Inventory, List, Listing},
    kind::Kind,
    kubeconfig::Kubeconfig,
    namespace::NamespaceApi,
    namespaces::NamespaceScope,
    object::Labels,
    pod::{LogOptions, PodApi},
    rows::{ListQuery, Row},
    workload::{Replicas, WorkloadApi, WorkloadType},
};
use pilothouse_kube::{Deadlines, KubeClusters};
use pilothouse_testbed::{Admin, ControlPlane, shared, shared_has_node, workloads as samples};
use serde_json::{Value, json};

const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A new namespace, the adapter, and a client for plain reads.
async fn fixture(name: &str) -> (&'static ControlPlane, KubeClusters, Admin, String) {
    let plane = shared().await.unwrap();
    let namespace = format!("kube-{name}-{}", process::id());
    let admin = plane.client();
    admin.apply(&samples::namespace(&namespace)).await.unwrap();
    let (adapter, _) = clusters(admin_connection(plane), Deadlines::default());
    (plane, adapter, admin, namespace)
}

fn admin_connection(plane: &ControlPlane) -> Connection {
    by_token(plane.server(), Some(plane.ca_pem()), plane.admin_token())
}

/// Whether the cluster's audit log has this write under the permit's operation id; true for a cluster without an
/// accessible audit log.
fn audited(plane: &ControlPlane, permit: &Permit, verb: &str, name: &str) -> bool {
    let id = permit.operation_id().unwrap().to_string();
    let Ok(events) = plane.audit_events() else { return true };
    let is_pilothouse = |agent: &String| agent.starts_with("pilothouse/");
    events.iter().any(|event| {
        event.audit_id == id
            && event.verb == verb
            && event.user_agent.as_ref().is_some_and(is_pilothouse)
            && event.object_ref.as_ref().is_some_and(|object| object.name.as_deref() == Some(name))
    })
}

async fn page(adapter: &KubeClusters, list: List, namespace: &str) -> Listing {
    let kind = list.info().kinds[0];
    let namespaces = NamespaceScope::One(common::namespace(namespace));
    let query = ListQuery { namespaces, kinds: list.info().kinds.to_vec(), ..ListQuery::default() };
    adapter.page(&permit(Verb::List, kind, namespace), list, &query).await.unwrap()
}

fn names(listing: &Listing) -> Vec<&str> {
    listing.rows.iter().map(Row::name).collect()
}

async fn create(adapter: &KubeClusters, namespace: &str, name: &str) -> Result<ConfigMapRow> {
    create_under(adapter, &permit(Verb::Create, Kind::ConfigMap, namespace), name).await
}

async fn create_under(adapter: &KubeClusters, permit: &Permit, name: &str) -> Result<ConfigMapRow> {
    let data = BTreeMap::from([("greeting".to_owned(), "你好".to_owned())]);
    let configmap = NewConfigMap {
        name: object(name),
        data,
        labels: Labels::from([("app".to_owned(), "web".to_owned())]),
    };
    adapter.create_configmap(permit, &configmap).await
}
