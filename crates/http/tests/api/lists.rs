//! List responses: entity tags, 304 and compression.

use actix_web::{http::StatusCode, test::TestRequest};
use pilothouse_core::{
    Cause,
    ids::ClusterId,
    inventory::{LISTS, List},
    kind::Kind,
    rows::ListScope,
    testing::fake::Condition,
};
use serde_json::json;

use crate::test_app::{Reply, SignedIn, TestApp};

const PODS: &str = "/api/k8s/pods";

/// Additional request headers.
type Headers<'a> = &'a [(&'a str, &'a str)];

impl TestApp {
    /// Sends a GET with these headers.
    async fn get_with(&self, signed_in: &SignedIn, target: &str, headers: Headers<'_>) -> Reply {
        let credentials = signed_in.credentials.headers();
        let own = credentials.iter().map(|(name, value)| (*name, value.as_str()));
        let all = [("accept-language", "en")].into_iter().chain(own).chain(headers.iter().copied());
        self.send(all.fold(TestRequest::get().uri(target), actix_web::test::TestRequest::append_header)).await
    }

    fn pods(&self, count: usize) -> String {
        for n in 0..count {
            let metadata = json!({"name": format!("more-{n}"), "namespace": "shop"});
            self.fake.clusters.put(ClusterId(self.cluster), Kind::Pod, json!({"metadata": metadata}));
        }
        format!("{PODS}?cluster_id={}&namespace=shop&per_page=500", self.cluster)
    }
}

#[actix_web::test]
async fn every_list_is_304_for_a_matching_etag() {
    let api = TestApp::new().await;
    let signed_in = api.login("super").await;
    for info in LISTS {
        let of_cluster = info.scope != ListScope::Local;
        let mut target = format!("{}?per_page=7", info.path);
        if of_cluster {
            target.push_str(&format!("&cluster_id={}", api.cluster));
        }
        if info.scope == ListScope::Namespaced {
            target.push_str("&namespace=*");
        }
        if info.owner.is_some() {
            target.push_str("&name=web");
        }
        if info.list == List::Who {
            target.push_str("&verb=list&resource=workloads");
        }
        let whole = api.get_with(&signed_in, &target, &[]).await;
        let tag = whole.header("etag").unwrap_or_else(|| panic!("{target} has no etag")).to_owned();
        assert!(tag.starts_with("W/\"") && tag.len() == 36, "{target}: {tag}");
        let data = whole.data();
        assert_eq!(whole.header("x-as-of"), data["as_of"].as_str(), "{target}");
        assert_eq!(whole.header("x-as-of").is_some(), of_cluster, "{target}");

        let again = api.get_with(&signed_in, &target, &[("if-none-match", &tag)]).await;
        assert_eq!((again.status, again.text.as_str()), (StatusCode::NOT_MODIFIED, ""), "{target}");
        assert_eq!(again.header("content-type"), None, "{target}");
        for name in ["etag", "cache-control", "vary", "x-as-of", "x-content-type-options"] {
            assert_eq!(again.header(name), whole.header(name), "{target}: {name}");
        }
        assert_eq!(again.header("cache-control"), Some("private, no-cache"), "{target}");
        assert!(again.header("x-request-id").is_some(), "{target}");
    }
}

#[actix_web::test]
async fn page_of_objects_is_304_for_a_matching_etag() {
    let api = TestApp::new().await;
    let signed_in = api.login("viewer").await;
    let target = format!("/api/k8s/objects?cluster_id={}&resource=pods&namespace=*", api.cluster);
    let whole = api.get_with(&signed_in, &target, &[]).await;
    let tag = whole.header("etag").unwrap().to_owned();
    assert_eq!(whole.header("x-as-of"), whole.data()["as_of"].as_str());
    let again = api.get_with(&signed_in, &target, &[("if-none-match", &tag)]).await;
    assert_eq!((again.status, again.text.as_str()), (StatusCode::NOT_MODIFIED, ""));
    assert_eq!(again.header("cache-control"), Some("private, no-cache"));
    api.pods(1);
    let changed = api.get_with(&signed_in, &target, &[("if-none-match", &tag)]).await;
    assert_eq!(changed.status, StatusCode::OK);
}

#[actix_web::test]
async fn changed_page_is_sent_and_page_with_only_a_later_as_of_is_304() {
    let api = TestApp::new().await;
    let signed_in = api.login("viewer").await;
    let target = api.pods(1);
    let tag = api.get_with(&signed_in, &target, &[]).await.header("etag").unwrap().to_owned();
    let get = async |target: &str, headers: Headers<'_>| {
        let headers = [headers, &[("if-none-match", tag.as_str())]].concat();
        api.get_with(&signed_in, target, &headers).await
    };
    let cluster = ClusterId(api.cluster);
    let set_freshness = |as_of: &str, stale| {
        api.fake.clusters.set(cluster, Condition::Cached { as_of: as_of.parse().unwrap(), stale });
    };
    set_freshness("2026-02-03T04:05:06.5Z", false);
    let later = get(&target, &[]).await;
    assert_eq!(later.status, StatusCode::NOT_MODIFIED);
    assert_eq!(later.header("x-as-of"), Some("2026-02-03T04:05:06.5Z"));

    assert_eq!(
        get(&target, &[("accept-language", "zh")]).await.status,
        StatusCode::NOT_MODIFIED,
        "the first language is still en"
    );
    assert_eq!(get(&format!("{target}&sort=-name"), &[]).await.status, StatusCode::OK);
    assert_eq!(get(&format!("{target}&search=more"), &[]).await.status, StatusCode::OK);
    assert_eq!(get(&target.replace("500", "499"), &[]).await.status, StatusCode::OK);
    set_freshness("2026-02-03T04:05:06.5Z", true);
    let stale = get(&target, &[]).await;
    assert_eq!((stale.status, &stale.data()["stale"]), (StatusCode::OK, &json!(true)));
    set_freshness("2026-02-03T04:05:06.5Z", false);
    assert_eq!(get(&target, &[]).await.status, StatusCode::NOT_MODIFIED);
    api.pods(2);
    assert_eq!(get(&target, &[]).await.status, StatusCode::OK, "a pod was added");
}

#[actix_web::test]
async fn if_none_match_discloses_nothing_without_permission() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let any: Headers<'_> = &[("if-none-match", "*")];
    assert_eq!(api.get_with(&viewer, "/api/auth/users", any).await.status, StatusCode::FORBIDDEN);
    let absent = format!("{PODS}?cluster_id=999999&namespace=*");
    assert_eq!(api.get_with(&viewer, &absent, any).await.status, StatusCode::NOT_FOUND);
    let target = api.pods(0);
    assert_eq!(api.get_with(&viewer, &target, any).await.status, StatusCode::NOT_MODIFIED);
    api.fake.clusters.fail(Some(Cause::ForbiddenByCluster));
    let refused = api.get_with(&viewer, &target, any).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(refused.header("cache-control"), Some("no-store"));
    assert_eq!(refused.header("etag"), None);
    let anonymous = SignedIn { credentials: Default::default(), ..viewer };
    assert_eq!(api.get_with(&anonymous, &target, any).await.status, StatusCode::UNAUTHORIZED);
}

#[actix_web::test]
async fn large_page_is_compressed_if_the_client_accepts_gzip() {
    let api = TestApp::new().await;
    let signed_in = api.login("viewer").await;
    let target = api.pods(60);
    let plain = api.get_with(&signed_in, &target, &[]).await;
    assert_eq!(plain.header("content-encoding"), None);
    let gzip: Headers<'_> = &[("accept-encoding", "gzip, deflate, br, zstd")];
    let first = api.get_with(&signed_in, &target, gzip).await;
    assert_eq!(first.header("content-encoding"), Some("gzip"));
    assert!(first.bytes.len() * 4 < plain.bytes.len(), "{} of {}", first.bytes.len(), plain.bytes.len());
    assert_eq!(first.text, plain.text);
    assert_eq!(first.header("etag"), plain.header("etag"));
    assert_eq!(first.header("vary"), plain.header("vary"));
    assert!(plain.header("vary").unwrap().contains("Accept-Encoding"));

    // the same rows with a later as_of
    let as_of = "2026-02-03T04:05:06Z".parse().unwrap();
    api.fake.clusters.set(ClusterId(api.cluster), Condition::Cached { as_of, stale: false });
    let later = api.get_with(&signed_in, &target, gzip).await;
    assert_eq!(later.text, api.get_with(&signed_in, &target, &[]).await.text);
    assert_eq!(later.data()["as_of"], "2026-02-03T04:05:06Z");

    let small = target.replace("per_page=500", "per_page=3");
    assert_eq!(api.get_with(&signed_in, &small, gzip).await.header("content-encoding"), None);
    let only: Headers<'_> = &[("accept-encoding", "gzip, identity;q=0")];
    let small = api.get_with(&signed_in, &small, only).await;
    assert_eq!(small.header("content-encoding"), Some("gzip"));
    assert_eq!(small.data()["pods"].as_array().unwrap().len(), 3);
}

#[actix_web::test]
async fn only_lists_have_etag_and_compression() {
    let api = TestApp::new().await;
    let signed_in = api.login("super").await;
    for target in ["/api/openapi.json", "/api/auth/me"] {
        let reply =
            api.get_with(&signed_in, target, &[("accept-encoding", "gzip"), ("if-none-match", "*")]).await;
        assert_eq!(reply.status, StatusCode::OK, "{target}");
        assert_eq!((reply.header("etag"), reply.header("content-encoding")), (None, None), "{target}");
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{target}");
    }
}
