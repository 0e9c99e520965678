//! Objects of any kind on the in-memory ports: what the rights of a caller reach, what is refused, and what is masked.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use futures_executor::block_on;
use futures_util::StreamExt;
use jiff::Timestamp;
use pilothouse_core::{
    Cause, Error, Result,
    access::Caller,
    app::{App, AppSettings},
    dynamic_kind::DynamicKind,
    error::Reason,
    ids::ClusterId,
    inventory::{
        ChangeKind, Listing, WatchEvent, WatchQuery,
        objects::{
            MockObjectApi, ObjectDetail, ObjectListing, ObjectPage, ObjectParts, ObjectQuery, ObjectRef,
            ServedKind, ServedKinds,
        },
    },
    kind::Kind,
    name::{Namespace, PathName},
    rights::{ClusterLabels, EffectiveGrant, GrantRef, Labels, Reach, Rights, RoleRules},
    role::Role,
    rows::Pagination,
    streams::{StreamEnd, StreamEvent},
    testing::{fake::Fake, new_cluster},
};
use serde_json::{Value, json, value::to_raw_value};

const BOATS: &str = "boats.day2.example.org";

struct Fixture {
    fake: Fake,
    app: App,
    cluster: ClusterId,
}

/// A custom kind, as the fake serves it.
fn served(plural: &str, namespaced: bool) -> ServedKind {
    ServedKind {
        group: "day2.example.org".to_owned(),
        version: "v1".to_owned(),
        plural: plural.to_owned(),
        kind: "Boat".to_owned(),
        namespaced,
        custom: true,
        verbs: ["get", "list", "watch"].map(str::to_owned).into(),
        ..ServedKind::default()
    }
}

fn kind(plural: &str, namespaced: bool) -> Kind {
    let kind = Kind::Dynamic(DynamicKind::new(served(plural, namespaced).names()).unwrap());
    assert_eq!(served(plural, namespaced).to_kind(), Some(kind));
    kind
}

impl Fixture {
    /// A cluster with boats in three namespaces, and a dock, whose kind has no namespaces.
    fn new() -> Self {
        let fake = Fake::default();
        let masked_fields = "/spec/password".parse().unwrap();
        let app = App::new(fake.ports(), AppSettings { masked_fields, ..AppSettings::default() });
        let cluster = block_on(app.clusters.create(&Caller::system(), new_cluster("one"))).unwrap().value.id;
        fake.clusters.serve(served("boats", true));
        fake.clusters.serve(served("docks", false));
        for namespace in ["shop", "team-a", "team-b"] {
            let metadata = json!({"name": "ship", "namespace": namespace, "uid": format!("u-{namespace}"), "labels": {"place": namespace},
                "creationTimestamp": "1969-12-31T23:59:00Z"});
            let spec =
                json!({"password": "canary-field", "env": [{"name": "TOKEN", "value": "canary-literal"}]});
            let boat = json!({"apiVersion": "day2.example.org/v1", "kind": "Boat", "metadata": metadata, "spec": spec});
            fake.clusters.put(cluster, kind("boats", true), boat);
            let event = json!({"metadata": {"name": format!("ship-{namespace}"), "namespace": namespace}, "reason": "Sailed",
                "involvedObject": {"kind": "Boat", "name": "ship"}});
            fake.clusters.put(cluster, Kind::Event, event);
            fake.clusters.put(cluster, Kind::Namespace, json!({"metadata": {"name": namespace}}));
        }
        fake.clusters.put(cluster, kind("docks", false), json!({"metadata": {"name": "system:dock"}}));
        fake.clusters.put(
            cluster,
            Kind::Secret,
            json!({"metadata": {"name": "pass", "namespace": "shop"}, "data": {"a": "Y2FuYXJ5"}}),
        );
        fake.clusters.calls();
        Self { fake, app, cluster }
    }

    /// A caller of the role `none` with these rights: verbs and resources; in these namespaces, or in the whole cluster.
    fn caller(&self, rules: &[(&str, &str)], namespaces: Option<&[&str]>) -> Caller {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let rules: Vec<_> = rules
            .iter()
            .map(|(verbs, resources)| json!({"verbs": words(verbs), "resources": words(resources)}))
            .collect();
        let grant = EffectiveGrant {
            grant: GrantRef { id: None, role: "own".to_owned(), via_group: None, until: None },
            rules: Arc::new(RoleRules::new(serde_json::from_value(rules.into()).unwrap()).unwrap()),
            clusters: serde_json::from_value(json!({"ids": [self.cluster]})).unwrap(),
            reach: namespaces.map_or(Reach::Cluster, |names| serde_json::from_value(json!(names)).unwrap()),
            from: Timestamp::UNIX_EPOCH,
            revoked: false,
        };
        let clusters = ClusterLabels::from([(self.cluster, Labels::new())]);
        let rights = Rights::compile(&[grant], &clusters, Timestamp::UNIX_EPOCH);
        Caller::system().with_rights(Role::None, Arc::new(rights))
    }

    fn pairs(&self, resource: &str, more: &[(&str, &str)]) -> Vec<(String, String)> {
        let id = self.cluster.to_string();
        let pairs = [&[("cluster_id", &*id), ("resource", resource)][..], more].concat();
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn page(&self, caller: &Caller, resource: &str, more: &[(&str, &str)]) -> Result<ObjectPage> {
        let query = ObjectQuery::parse(&self.pairs(resource, more))?;
        block_on(self.app.objects.page(caller, &query))
    }

    fn detail(
        &self,
        caller: &Caller,
        resource: &str,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<ObjectDetail> {
        let object = ObjectRef {
            resource: resource.parse().unwrap(),
            namespace: namespace.map(|name| Namespace::new(name).unwrap()),
            name: PathName::new(name).unwrap(),
        };
        block_on(self.app.objects.detail(caller, self.cluster, &object))
    }

    fn calls(&self) -> Vec<String> {
        self.fake.clusters.calls()
    }
}

/// The objects of a page as `namespace/name`.
fn names(page: &ObjectPage) -> Vec<String> {
    let rows = page.page.listing.rows.iter().map(|row| row.parse::<Value>().unwrap());
    rows.map(|row| format!("{}/{}", row["namespace"].as_str().unwrap_or("-"), row["name"].as_str().unwrap()))
        .collect()
}

fn viewer() -> Caller {
    Caller::system().with_role(Role::Viewer)
}

#[test]
fn page_has_the_rows_and_columns_of_the_kind() {
    let fixture = Fixture::new();
    let page = fixture
        .page(&viewer(), BOATS, &[("namespace", "*"), ("sort", "-namespace"), ("label", "place!=team-a")])
        .unwrap();
    assert_eq!(names(&page), ["team-b/ship", "shop/ship"]);
    let columns: Vec<_> = page.page.columns.iter().map(|column| &*column.name).collect();
    assert_eq!(columns, ["Name", "Age"]);
    let row: Value = page.page.listing.rows[1].parse().unwrap();
    assert_eq!(
        row,
        json!({"name": "ship", "namespace": "shop", "uid": "u-shop", "labels": {"place": "shop"},
            "created_at": "1969-12-31T23:59:00Z", "cells": ["ship", "60s"]})
    );
    // kinds with a list of their own are kinds, too
    assert_eq!(
        names(&fixture.page(&viewer(), "namespaces", &[("search", "team")]).unwrap()),
        ["-/team-a", "-/team-b"]
    );
}

#[test]
fn rows_are_cut_to_the_rights_on_the_group_of_the_kind() {
    let fixture = Fixture::new();
    let boats = |rules: &[(&str, &str)], namespaces: Option<&[&str]>, namespace: &str| {
        let page = fixture.page(&fixture.caller(rules, namespaces), BOATS, &[("namespace", namespace)]);
        page.map(|page| (names(&page), page.scope.complete)).map_err(|error| error.cause)
    };
    let all = vec!["shop/ship".to_owned(), "team-a/ship".to_owned(), "team-b/ship".to_owned()];
    let custom = [("list", "custom:day2.example.org")];
    assert_eq!(boats(&custom, None, "*"), Ok((all.clone(), true)));
    assert_eq!(boats(&[("list", "custom")], None, "*"), Ok((all.clone(), true)));
    assert_eq!(boats(&custom, Some(&["team-*"]), "*"), Ok((all[1..].to_vec(), false)));
    assert_eq!(boats(&custom, Some(&["team-*"]), "team-a"), Ok((all[1..2].to_vec(), true)));
    for (rules, namespaces, namespace) in [
        (&custom, Some(&["team-*"][..]), "shop"),
        (&[("list", "custom:other.example.org")], None, "*"),
        (
            &[(
                "list",
                "workloads config network storage events quotas platform access volumes nodes secrets",
            )],
            None,
            "*",
        ),
        (&[("get", "custom")], None, "*"),
    ] {
        fixture.calls();
        assert_eq!(boats(rules, namespaces, namespace), Err(Cause::RoleTooLow), "{rules:?} {namespace}");
        assert_eq!(fixture.calls(), ["get cluster kinds"], "only the kinds were read");
    }
    // a kind without namespaces takes the whole cluster
    let docks = |namespaces: Option<&[&str]>| {
        let page = fixture.page(&fixture.caller(&custom, namespaces), "docks.day2.example.org", &[]);
        page.map(|page| names(&page)).map_err(|error| error.cause)
    };
    assert_eq!(docks(None), Ok(vec!["-/system:dock".to_owned()]));
    assert_eq!(docks(Some(&["*"])), Err(Cause::RoleTooLow));
}

#[test]
fn kinds_are_shown_to_everyone_with_a_right_in_the_cluster() {
    let fixture = Fixture::new();
    let caller = fixture.caller(&[("list", "events")], Some(&["shop"]));
    let (kinds, _) = block_on(fixture.app.objects.kinds(&caller, fixture.cluster)).unwrap();
    let boats = kinds.iter().find(|kind| kind.resource == BOATS).unwrap();
    assert!(boats.custom && boats.namespaced);
    assert!(kinds.iter().any(|kind| kind.resource == "deployments.apps" && !kind.custom));
    let stranger = Caller::system().with_rights(
        Role::None,
        Arc::new(Rights::compile(&[], &ClusterLabels::new(), Timestamp::UNIX_EPOCH)),
    );
    let error = block_on(fixture.app.objects.kinds(&stranger, fixture.cluster)).unwrap_err();
    assert_eq!(error.cause, Cause::NotFound);
    let query = ObjectQuery::parse(&fixture.pairs(BOATS, &[("namespace", "*")])).unwrap();
    assert_eq!(block_on(fixture.app.objects.page(&stranger, &query)).unwrap_err().cause, Cause::NotFound);
}

#[test]
fn secrets_are_refused_before_anything_is_read() {
    let fixture = Fixture::new();
    let admin = Caller::system();
    fixture.calls();
    let refused = fixture.page(&admin, "secrets", &[("namespace", "shop")]).unwrap_err();
    assert_eq!(refused.cause, Cause::SecretRefused);
    assert_eq!(
        fixture.detail(&admin, "secrets", Some("shop"), "pass").unwrap_err().cause,
        Cause::SecretRefused
    );
    let watch = WatchQuery::parse(&fixture.pairs("secrets", &[("namespace", "shop")])).unwrap_err();
    assert_eq!(watch.cause, Cause::SecretRefused);
    assert_eq!(fixture.calls(), Vec::<String>::new());
}

#[test]
fn kind_that_is_not_served_is_looked_up_again() {
    let fixture = Fixture::new();
    fixture.calls();
    let refused = fixture.page(&viewer(), "ships.day2.example.org", &[("namespace", "*")]).unwrap_err();
    assert_eq!(
        (refused.cause, refused.context.resource.as_deref()),
        (Cause::KindNotServed, Some("ships.day2.example.org"))
    );
    assert_eq!(fixture.calls(), ["get cluster kinds", "get cluster kinds"]);
    fixture.fake.clusters.serve(served("ships", true));
    assert_eq!(
        names(&fixture.page(&viewer(), "ships.day2.example.org", &[("namespace", "*")]).unwrap()),
        Vec::<String>::new()
    );
    // a kind that cannot be listed is not served for a list
    fixture.fake.clusters.serve(ServedKind { verbs: vec!["create".to_owned()], ..served("reviews", false) });
    let refused = fixture.page(&viewer(), "reviews.day2.example.org", &[]).unwrap_err();
    assert_eq!(refused.cause, Cause::KindNotServed);
}

#[test]
fn version_that_is_gone_is_looked_up_again() {
    let mut api = MockObjectApi::new();
    // the kinds that are known have another version than those that are read again
    api.expect_kinds().returning(|_, max_age| {
        let version = if max_age.is_none() { "v1" } else { "v2" };
        let boats = ServedKind { version: version.to_owned(), ..served("boats", true) };
        Ok(Arc::new(ServedKinds { kinds: vec![boats], warnings: Vec::new() }))
    });
    api.expect_page().returning(|_, served, _| {
        if served.version == "v1" {
            return Err(Error::new(Cause::KindNotServed));
        }
        let listing = Listing {
            rows: Vec::new(),
            pagination: Pagination::default(),
            as_of: Timestamp::UNIX_EPOCH,
            stale: false,
            warnings: Vec::new(),
        };
        Ok(ObjectListing { columns: Arc::from([]), listing })
    });
    api.expect_get().returning(|permit, name| {
        let kind = permit.kind()?;
        if kind.info().version == "v1" || name.as_str() != "ship" {
            return Ok(None);
        }
        let object = json!({"apiVersion": kind.api_version(), "kind": "Boat", "metadata": {"name": "ship"}});
        let object = to_raw_value(&object).unwrap();
        let parts = ObjectParts { object, events: Vec::new(), warnings: Vec::new() };
        ObjectDetail::assemble(kind, "ship", parts, Timestamp::UNIX_EPOCH).map(Some)
    });
    let fake = Fake::default();
    let mut ports = fake.ports();
    ports.objects.objects = Arc::new(api);
    let app = App::new(ports, AppSettings::default());
    let cluster = block_on(app.clusters.create(&Caller::system(), new_cluster("one"))).unwrap().value.id;
    let fixture = Fixture { fake, app, cluster };
    assert!(fixture.page(&viewer(), BOATS, &[("namespace", "*")]).is_ok());
    let ship = fixture.detail(&viewer(), BOATS, Some("shop"), "ship").unwrap();
    assert_eq!(ship.object["apiVersion"], "day2.example.org/v2");
    let absent = fixture.detail(&viewer(), BOATS, Some("shop"), "raft").unwrap_err();
    assert_eq!(absent.cause, Cause::NotFoundInCluster);
}

#[test]
fn namespace_belongs_to_namespaced_kinds_only() {
    let fixture = Fixture::new();
    let refused = |result: Result<ObjectDetail>| {
        let error = result.unwrap_err();
        error.context.fields.iter().map(|field| (field.name.clone(), field.reason)).next()
    };
    let required = Some(("namespace".to_owned(), Reason::Required));
    let unknown = Some(("namespace".to_owned(), Reason::Unknown));
    assert_eq!(refused(fixture.detail(&viewer(), BOATS, None, "ship")), required);
    assert_eq!(
        refused(fixture.detail(&viewer(), "docks.day2.example.org", Some("shop"), "system:dock")),
        unknown
    );
    let page = |resource: &str, more: &[(&str, &str)]| {
        let error = fixture.page(&viewer(), resource, more).unwrap_err();
        error.context.fields.iter().map(|field| (field.name.clone(), field.reason)).next()
    };
    assert_eq!(page(BOATS, &[]), required);
    assert_eq!(page("nodes", &[("namespace", "*")]), unknown);
    assert!(fixture.detail(&viewer(), "docks.day2.example.org", None, "system:dock").is_ok());
    assert_eq!(
        fixture.detail(&viewer(), "namespaces", None, "shop").unwrap().object["metadata"]["name"],
        "shop"
    );
}

#[test]
fn details_are_masked_by_the_rights_on_the_object() {
    let fixture = Fixture::new();
    let ship = |rules: &[(&str, &str)], namespaces: Option<&[&str]>| {
        let detail = fixture.detail(&fixture.caller(rules, namespaces), BOATS, Some("shop"), "ship");
        serde_json::to_string(&detail.unwrap()).unwrap()
    };
    let reads = ("get", "custom:day2.example.org");
    for (rules, shown) in [
        (&[reads][..], false),
        (&[reads, ("update", "custom:day2.example.org")], true),
        (&[reads, ("exec", "workloads")], true),
        (&[reads, ("update", "workloads config")], false),
    ] {
        let text = ship(rules, Some(&["shop"]));
        assert_eq!(text.contains("canary-literal"), shown, "{rules:?}: {text}");
        assert_eq!(text.contains("canary-field"), shown, "{rules:?}: {text}");
        assert!(text.contains("yaml") && text.contains("TOKEN"), "{text}");
    }
    // a kind without namespaces is updated in the whole cluster
    let dock = fixture.caller(&[("get update", "custom")], None);
    assert!(fixture.detail(&dock, "docks.day2.example.org", None, "system:dock").is_ok());
    let absent = fixture.detail(&viewer(), BOATS, Some("shop"), "raft").unwrap_err();
    assert_eq!((absent.cause, absent.context.name.as_deref()), (Cause::NotFoundInCluster, Some("raft")));
}

#[test]
fn details_have_the_events_that_the_caller_may_list() {
    let fixture = Fixture::new();
    let events = |rules: &[(&str, &str)]| {
        let caller = fixture.caller(rules, Some(&["shop"]));
        let detail = fixture.detail(&caller, BOATS, Some("shop"), "ship").unwrap();
        (detail.events.into_iter().map(|event| event.name).collect::<Vec<_>>(), detail.warnings.len())
    };
    assert_eq!(events(&[("get", "custom"), ("list", "events")]), (vec!["ship-shop".to_owned()], 0));
    assert_eq!(events(&[("get", "custom")]), (vec![], 1));
}

#[test]
fn objects_are_watched_like_any_list() {
    let fixture = Fixture::new();
    let caller = fixture.caller(&[("list", "custom")], Some(&["team-*"]));
    let watch = |resource: &str, more: &[(&str, &str)]| {
        let query = WatchQuery::parse(&fixture.pairs(resource, more))?;
        block_on(fixture.app.watches.watch(&caller, query))
    };
    let mut stream = watch(BOATS, &[("namespace", "*")]).unwrap();
    let Some(StreamEvent::Next(WatchEvent::Rows(rows))) = block_on(stream.next()) else { panic!("no rows") };
    let found: Vec<_> =
        rows.iter().map(|(change, row)| (*change, row.namespace().unwrap().to_owned())).collect();
    assert_eq!(found, [(ChangeKind::Added, "team-a".to_owned()), (ChangeKind::Added, "team-b".to_owned())]);
    let mut page = watch(BOATS, &[("namespace", "*"), ("page", "2"), ("per_page", "1")]).unwrap();
    let Some(StreamEvent::Next(WatchEvent::Window { rows, pagination, .. })) = block_on(page.next()) else {
        panic!("no window")
    };
    assert_eq!((rows.len(), pagination.total), (1, 2));
    assert_eq!(
        watch("deployments.apps", &[("namespace", "*")]).err().map(|error| error.cause),
        Some(Cause::RoleTooLow)
    );
    fixture.fake.clusters.serve(ServedKind { verbs: vec!["list".to_owned()], ..served("floats", true) });
    let refused = watch("floats.day2.example.org", &[("namespace", "*")]).err().map(|error| error.cause);
    assert_eq!(refused, Some(Cause::NotCached));
}

#[test]
fn one_refused_watch_of_objects_does_not_end_a_live_stream() {
    let fixture = Fixture::new();
    let watches = ["ships.day2.example.org", BOATS]
        .map(|resource| WatchQuery::parse(&fixture.pairs(resource, &[("namespace", "shop")])).unwrap());
    let mut stream = fixture.app.watches.live(&viewer(), watches.into()).unwrap();
    let mut seen = (false, false);
    while seen != (true, true) {
        let Some(StreamEvent::Next(event)) = block_on(stream.next()) else { panic!("the stream ended") };
        match (event.sub, event.event) {
            (0, StreamEvent::End(StreamEnd::Failed(error))) => {
                assert_eq!(error.cause, Cause::KindNotServed);
                seen.0 = true;
            }
            (1, StreamEvent::Next(WatchEvent::Rows(rows))) => {
                assert_eq!(rows.len(), 1);
                seen.1 = true;
            }
            _ => {}
        }
    }
}
