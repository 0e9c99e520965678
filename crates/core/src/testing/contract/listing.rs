//! Contract of operation lists: results equal those of the reference implementation of a query.

use std::time::Duration;

use super::StorePorts;
use crate::{
    access::{AccessRequest, Resource, Verb},
    audit::{AuditedClusters, OperationQuery, OperationRow},
    ids::{ClusterId, GrantId, TokenId, UserId},
    inventory::List,
    kind::Kind,
    namespaces::{NamespacePattern, NamespaceSet},
    operation::{Operation, Outcome, Status},
    role::Role,
    rows::{ListQuery, Pagination, Row, select},
};

impl StorePorts {
    /// Operations with values that are difficult to sort, search and filter. Each optional field is absent at least
    /// once.
    async fn varied_operations(&self) -> Vec<OperationRow> {
        let names = [
            None,
            Some("web"),
            Some("Web"),
            Some("100%"),
            Some("a_b"),
            Some("ÄPFEL"),
            Some("b\\c"),
            Some("部署"),
        ];
        let namespaces = [None, Some("default"), Some("kube-system")];
        let permit = self.permit(AccessRequest::to(Verb::Scale, Resource::Kind(Kind::Deployment)));
        for n in 0..48_usize {
            let operation = Operation {
                id: self.permit(AccessRequest::to(Verb::Scale, Resource::Operation)).operation_id().unwrap(),
                operation_type: ["scale", "restart", "delete"][n % 3].to_owned(),
                resource_type: ["deployment", "configmap"][n % 2].to_owned(),
                cluster_id: (n % 5 > 0).then_some(ClusterId([2, 10][n % 2])),
                cluster_name: (n % 5 > 0).then(|| ["two", "Ten"][n % 2].to_owned()),
                namespace: namespaces[n % 3].map(str::to_owned),
                resource_name: names[n % 8].map(str::to_owned),
                user_id: (n % 7 > 0).then_some(UserId([4, 30][n % 2])),
                username: ["admin", "Ops", "cli:root"][n % 3].to_owned(),
                role: [None, Some(Role::Viewer), Some(Role::SuperAdmin)][n % 3],
                grant_id: (n % 4 > 0).then_some(GrantId([9, 10][n % 2])),
                token_id: (n % 5 > 2).then_some(TokenId([9, 10][n % 2])),
                reason: (n % 4 > 2).then(|| ["release 4.2", "Rollback"][n % 8 / 4].to_owned()),
                source_ip: (n % 4 > 0).then(|| format!("192.0.2.{n}").parse().unwrap()),
                request_id: (n % 4 > 1).then(|| format!("request-{n}")),
                created_at: self.now() + Duration::from_secs((n as u64 * 7) % 48),
                ..permit.operation().unwrap().clone()
            };
            let status = [Status::Pending, Status::Success, Status::Failed, Status::Unknown][n % 4];
            if status == Status::Pending {
                self.writer.begin(&operation).await.unwrap();
                continue;
            }
            let outcome = Outcome {
                status,
                error_code: (n % 3 > 0).then(|| "CONFLICT_ERROR".to_owned()),
                details: (n % 6 > 3).then(|| format!("details {}", n % 5)),
                duration_ms: [9, 10, 100][n % 3],
                finished_at: operation.created_at + Duration::from_millis((n as u64 * 13) % 50),
            };
            self.writer.record(&operation, &outcome).await.unwrap();
        }
        self.operations().await
    }

    /// The ids of a page, and its pagination.
    async fn page(&self, query: &OperationQuery) -> (Vec<i64>, Pagination) {
        let page = self.query.operations(query).await.unwrap();
        (page.logs.iter().map(|row| row.id).collect(), page.pagination)
    }

    async fn assert_matches_reference(&self, rows: &[OperationRow], pairs: &[(&str, &str)]) {
        let query = query(pairs);
        let projected = rows.iter().map(|row| Row::of(row).unwrap()).collect();
        let (expected, pagination) = select(projected, &query.list);
        let id = |row: &Row| {
            serde_json::from_str::<serde_json::Value>(row.json()).unwrap()["id"].as_i64().unwrap()
        };
        let expected = expected.iter().map(id).collect::<Vec<_>>();
        assert_eq!(self.page(&query).await, (expected, pagination), "{pairs:?}");
    }
}

fn query(pairs: &[(&str, &str)]) -> OperationQuery {
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    OperationQuery::parse(&pairs).unwrap()
}

pub(super) async fn every_sort_order_matches_the_reference(ports: &StorePorts) {
    let rows = ports.varied_operations().await;
    for field in (List::Operations.info().fields)().iter().filter(|field| field.sorts) {
        for sort in [field.name.to_owned(), format!("-{}", field.name)] {
            ports.assert_matches_reference(&rows, &[("sort", &sort), ("per_page", "500")]).await;
        }
    }
    let by_namespace = OperationQuery { list: ListQuery { sort: None, ..query(&[]).list }, ..query(&[]) };
    let first = &ports.query.operations(&by_namespace).await.unwrap().logs[0];
    assert_eq!((first.namespace.as_deref(), first.resource_name.as_deref()), (None, None));
}

pub(super) async fn every_filter_matches_the_reference(ports: &StorePorts) {
    let rows = ports.varied_operations().await;
    for filter in [
        ("cluster_id", "10"),
        ("cluster_id", "11"),
        ("cluster_id", "10,2,7"),
        ("operation_type", "restart"),
        ("operation_type", "Restart"),
        ("operation_type", "scale,restart"),
        ("resource_type", "configmap"),
        ("resource_type", "configmap,deployment,x"),
        ("namespace", "kube-system"),
        ("namespace", "kube-system,default"),
        ("status", "pending"),
        ("status", "unknown"),
        ("status", "failed,success"),
        ("username", "Ops"),
        ("username", "ops"),
        ("username", "ops,Ops"),
        ("search", "WEB"),
        ("search", "%"),
        ("search", "_"),
        ("search", "\\"),
        ("search", "äpf"),
        ("search", "署"),
        ("search", "'"),
    ] {
        ports.assert_matches_reference(&rows, &[filter, ("per_page", "500")]).await;
    }
    let combined = [("status", "success"), ("namespace", "default"), ("search", "e"), ("sort", "-username")];
    ports.assert_matches_reference(&rows, &combined).await;
    // a filter that is no query parameter
    let field = (List::Operations.info().fields)().iter().position(|field| field.name == "resource_name");
    let all = query(&[("per_page", "500"), ("sort", "id")]);
    for names in [&["web"][..], &["Web", "部署", "x"]] {
        let values: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let filters = vec![(field.unwrap(), values)];
        let named = OperationQuery { list: ListQuery { filters, ..all.list.clone() }, ..all.clone() };
        let has_name =
            |row: &&OperationRow| row.resource_name.as_deref().is_some_and(|name| names.contains(&name));
        let expected: Vec<_> = rows.iter().filter(has_name).map(|row| row.id).collect();
        assert!(!expected.is_empty());
        assert_eq!(ports.page(&named).await.0, expected, "{names:?}");
    }
}

pub(super) async fn pages_match_the_reference(ports: &StorePorts) {
    let rows = ports.varied_operations().await;
    let last = i64::MAX.to_string();
    for (page, per_page) in [("1", "1"), ("1", "20"), ("3", "20"), ("4", "20"), ("2", "48"), (&last, "500")] {
        ports.assert_matches_reference(&rows, &[("page", page), ("per_page", per_page)]).await;
        ports
            .assert_matches_reference(&rows, &[("page", page), ("per_page", per_page), ("sort", "namespace")])
            .await;
    }
}

pub(super) async fn time_range_and_cursor_limit_the_list(ports: &StorePorts) {
    let rows = ports.varied_operations().await;
    let (from, to) = (ports.now() + Duration::from_secs(10), ports.now() + Duration::from_secs(20));
    let before = rows[30].id;
    let all = query(&[("per_page", "500"), ("sort", "id")]);
    type Predicate = fn(&OperationRow, &OperationQuery) -> bool;
    let bounds: [(OperationQuery, Predicate); 5] = [
        (OperationQuery { from: Some(from), ..all.clone() }, |row, q| Some(row.created_at) >= q.from),
        (OperationQuery { from: Some(from), to: Some(to), ..all.clone() }, |row, q| {
            Some(row.created_at) >= q.from && q.to.is_some_and(|to| row.created_at < to)
        }),
        (OperationQuery { before: Some(before), ..all.clone() }, |row, q| {
            q.before.is_some_and(|id| row.id < id)
        }),
        (OperationQuery { after: Some(before), ..all.clone() }, |row, q| {
            q.after.is_some_and(|id| row.id > id)
        }),
        (OperationQuery { user_id: Some(UserId(30)), ..all }, |row, q| row.user_id == q.user_id),
    ];
    for (query, matches) in bounds {
        let expected: Vec<_> = rows.iter().filter(|row| matches(row, &query)).map(|row| row.id).collect();
        assert!(!expected.is_empty() && expected.len() < rows.len());
        let (ids, pagination) = ports.page(&query).await;
        assert_eq!((ids, pagination.total), (expected.clone(), expected.len() as u64), "{query:?}");
    }
}

pub(super) async fn audited_clusters_add_rows_of_other_users(ports: &StorePorts) {
    let rows = ports.varied_operations().await;
    let set = |texts: &[&str]| {
        NamespaceSet::new(texts.iter().map(|text| NamespacePattern::parse(text).expect("valid pattern")))
    };
    let part = |ids: &[i64], namespaces| AuditedClusters {
        clusters: ids.iter().copied().map(ClusterId).collect(),
        namespaces,
    };
    let all = query(&[("per_page", "500"), ("sort", "id")]);
    let every: Vec<i64> = (1..=1100).collect();
    let many = |prefixes: u32, names: u32| {
        let prefixes = (0..prefixes).map(|n| format!("team-{n}-*"));
        let texts = prefixes.chain((0..names).map(|n| format!("shop-{n}"))).chain(["default".to_owned()]);
        texts.map(|text| NamespacePattern::parse(&text).expect("valid pattern")).collect::<Vec<_>>()
    };
    let cases = [
        vec![],
        vec![part(&[2], None)],
        vec![part(&[2, 10], None)],
        vec![part(&[2], Some(set(&["default"])))],
        vec![part(&[2, 10], Some(set(&["*"])))],
        vec![part(&[10], Some(set(&["kube-*", "def-*"])))],
        vec![part(&[2], Some(set(&["default", "kube-system"]))), part(&[10], None)],
        vec![part(&[7], None)],
        // more variables and a deeper expression than SQLite allows, if each pattern and each part were one
        vec![part(&every, Some(NamespaceSet::new(many(1, 41_000))))],
        vec![part(&every[..400], Some(NamespaceSet::new(many(82, 18)))), part(&[10], Some(set(&["def-*"])))],
        every[..400]
            .iter()
            .map(|id| part(&[*id], Some(set(&[format!("team-{id}-*").as_str(), "kube-*"]))))
            .collect(),
    ];
    for (n, audited) in cases.into_iter().enumerate() {
        for user in [UserId(30), UserId(99)] {
            let query = OperationQuery { user_id: Some(user), audited: audited.clone(), ..all.clone() };
            let is_visible = |row: &&OperationRow| {
                let contains =
                    |part: &AuditedClusters| part.contains(row.cluster_id, row.namespace.as_deref());
                row.user_id == Some(user) || audited.iter().any(contains)
            };
            let expected: Vec<_> = rows.iter().filter(is_visible).map(|row| row.id).collect();
            let (ids, pagination) = ports.page(&query).await;
            assert_eq!((ids, pagination.total), (expected.clone(), expected.len() as u64), "{n}: {query:?}");
            // another condition still restricts the list
            let scaled = OperationQuery {
                list: self::query(&[("operation_type", "scale"), ("sort", "id")]).list,
                ..query
            };
            let types: Vec<_> = ports.query.operations(&scaled).await.unwrap().logs;
            assert!(types.iter().all(|row| row.operation_type == "scale"), "{n}");
        }
    }
}
