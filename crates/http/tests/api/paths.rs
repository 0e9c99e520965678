//! Routing: for every route, other methods, other spellings of its path, and headers and parameters that some servers
//! interpret as a method override. Sent as bytes by a signed-in super admin, with an input that would succeed.

use std::collections::BTreeSet;

use pilothouse_http::{HttpSettings, endpoints};

use crate::{
    socket::{RawResponse, Running},
    table::good_inputs,
};

const OVERRIDES: [&str; 5] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-method",
    "x-forwarded-method",
];

/// A server, the headers of a super admin, and the number of audit entries so far.
struct RouteClient {
    running: Running,
    headers: Vec<(&'static str, String)>,
    entries: usize,
}

impl RouteClient {
    fn start() -> Self {
        let running = Running::start(HttpSettings::default());
        let headers = running.login("super").headers();
        let entries = running.fake.store.entries().len();
        Self { running, headers, entries }
    }

    /// Sends an input of a route to another target or by another method, and checks that it has no effect.
    fn send(&self, method: &str, target: &str, more: &[(&'static str, String)], body: &str) -> RawResponse {
        let headers = [&self.headers[..], more].concat();
        let response = self.running.request(method, target, &headers, body);
        let calls = self.running.fake.clusters.calls();
        let listed = response.status == 200 && calls.iter().all(|call| call.starts_with("list "));
        assert!(calls.is_empty() || listed, "{method} {target} {more:?} called {calls:?}");
        let entries = self.running.fake.store.entries().len();
        assert_eq!(entries, self.entries, "{method} {target} {more:?} wrote an audit entry");
        let cached = if response.header("etag").is_some() { "private, no-cache" } else { "no-store" };
        for (name, value) in [("x-content-type-options", "nosniff"), ("cache-control", cached)] {
            assert_eq!(response.header(name), Some(value), "{method} {target}");
        }
        assert!(response.header("x-request-id").is_some(), "{method} {target}");
        response
    }

    /// Query and body of a request that succeeds for a super admin.
    fn input(&self, method: &str, path: &str) -> (String, String) {
        let mut input = good_inputs(method, path).swap_remove(0).input;
        for placeholder in [
            "{cluster}",
            "{user}",
            "{session}",
            "{grant}",
            "{request}",
            "{own request}",
            "{token}",
            "{account}",
            "{enrolled}",
            "{absent}",
        ] {
            input = input.replace(placeholder, &self.running.cluster.to_string());
        }
        input = input.replace("{role}", "first-aid");
        match method {
            "GET" if !input.is_empty() => (format!("?{input}"), String::new()),
            "GET" => Default::default(),
            _ => (String::new(), input),
        }
    }
}

fn methods(path: &str) -> BTreeSet<String> {
    endpoints().into_iter().filter(|(_, route_path)| *route_path == path).map(|(method, _)| method).collect()
}

fn paths() -> BTreeSet<&'static str> {
    endpoints().into_iter().map(|(_, path)| path).collect()
}

#[test]
fn unsupported_methods_are_405_with_allow_header() {
    let client = RouteClient::start();
    for path in paths() {
        let allowed = methods(path);
        let input = allowed.iter().next().map(|method| client.input(method, path)).unwrap();
        for method in [
            "GET", "POST", "HEAD", "OPTIONS", "TRACE", "PUT", "PATCH", "DELETE", "PROPFIND", "QUERY", "get",
            "Post", "X",
        ] {
            if allowed.contains(method) {
                continue;
            }
            let response = client.send(method, &format!("{path}{}", input.0), &[], &input.1);
            assert_eq!(response.status, 405, "{method} {path}");
            let allow: BTreeSet<_> =
                response.header("allow").unwrap().split(", ").map(str::to_owned).collect();
            assert_eq!(allow, allowed, "{method} {path}");
            // the response to a HEAD has no body
            assert!(method == "HEAD" || response.error().1 == "method_not_allowed", "{method} {path}");
        }
    }
}

#[test]
fn other_spellings_of_a_path_are_404() {
    let client = RouteClient::start();
    for (method, path) in endpoints() {
        let (query, body) = client.input(&method, path);
        let (parent, last) = path.rsplit_once('/').unwrap();
        let spellings = [
            format!("{path}/"),
            format!("{path}//"),
            format!("/{path}"),
            format!("{parent}//{last}"),
            format!("{parent}/./{last}"),
            format!("{parent}/%2e/{last}"),
            format!("{parent}/x/../{last}"),
            format!("{parent}/x/%2e%2e/{last}"),
            format!("{parent}/x%2f..%2f{last}"),
            format!("{parent}%2f{last}"),
            format!("{parent}%2F{last}"),
            format!("{parent}%5c{last}"),
            format!("{parent}/{last};a=b"),
            format!("{parent};a=b/{last}"),
            format!("{path}%00"),
            format!("{path}%0a"),
            format!("{path}%20"),
            format!("{path}%3f"),
            format!("{path}%23"),
            format!("{path}.json"),
            format!("{path}/1"),
            format!("{path}%"),
            format!("{path}%zz"),
            format!("{path}%ff"),
            path.to_uppercase(),
        ];
        // a target without a leading slash is not a valid request
        for target in spellings.into_iter().filter(|target| target.starts_with('/')) {
            let response = client.send(&method, &format!("{target}{query}"), &[], &body);
            assert_eq!(response.error(), (404, "unknown_path".to_owned()), "{method} {target}");
        }
    }
}

#[test]
fn method_overrides_have_no_effect() {
    let client = RouteClient::start();
    for path in paths() {
        let allowed = methods(path);
        for (method, override_method) in [("GET", "POST"), ("POST", "GET"), ("GET", "DELETE")] {
            // on a path with both methods only a GET is sent, because a POST would take effect
            if allowed.contains(method) && (method == "POST" || allowed.len() == 1) {
                continue;
            }
            let (query, body) = client.input(allowed.iter().next().unwrap(), path);
            for header in OVERRIDES {
                let response = client.send(
                    method,
                    &format!("{path}{query}"),
                    &[(header, override_method.to_owned())],
                    &body,
                );
                let expected = if allowed.contains(method) { 200 } else { 405 };
                assert_eq!(response.status, expected, "{method} {path} {header}: {override_method}");
            }
        }
    }
    for (method, path) in endpoints() {
        let (query, body) = client.input(&method, path);
        let (query, body) = match method.as_str() {
            "GET" => (format!("{}{}_method=POST", query, if query.is_empty() { "?" } else { "&" }), body),
            _ if body.is_empty() => (query, r#"{"_method":"GET"}"#.to_owned()),
            _ => (query, format!("{},\"_method\":\"GET\"}}", body.strip_suffix('}').unwrap())),
        };
        // the probes and the document ignore parameters and body
        let ignored = ["/livez", "/readyz", "/api/openapi.json"].contains(&path);
        let response = client.send(&method, &format!("{path}{query}"), &[], &body);
        if ignored {
            assert_eq!(response.status, 200, "{method} {path}");
        } else {
            assert_eq!(response.status, 400, "{method} {path}");
            assert_eq!(response.json()["context"]["fields"][0]["name"], "_method", "{method} {path}");
        }
    }
}

/// A server must accept an absolute target, the form sent to proxies (RFC 9112, 3.2.2). An absolute target grants no
/// additional access, and neither does a fragment, which clients do not send and the parser drops.
#[test]
fn absolute_target_and_fragment_reach_the_same_resource() {
    let mut client = RouteClient::start();
    for target in ["http://elsewhere.example/api/auth/me", "/api/auth/me#/livez"] {
        assert_eq!(client.send("GET", target, &[], "").status, 200, "{target}");
    }
    client.headers.clear();
    for (method, path) in endpoints() {
        let (query, body) = client.input(&method, path);
        let is_public = matches!(
            path,
            "/livez" | "/readyz" | "/api/version" | "/api/openapi.json" | "/api/auth/providers"
        );
        if path == "/api/auth/login" {
            continue;
        }
        for target in [
            format!("http://elsewhere.example{path}{query}"),
            format!("https://user:pass@elsewhere.example:1{path}{query}"),
            format!("http://x/livez/..{path}{query}"),
            format!("{path}{query}#/livez"),
        ] {
            let expected = match is_public {
                _ if target.contains("..") => 404,
                true => 200,
                false => 401,
            };
            assert_eq!(client.send(&method, &target, &[], &body).status, expected, "{method} {target}");
        }
    }
}
