//! No other way in: for every route, other methods, other spellings of its path, headers and parameters that some
//! servers take for another method. As bytes, signed in as a super admin, with an input that would succeed.

use std::collections::BTreeSet;

use pilothouse_http::{HttpSettings, endpoints};

use crate::{
    socket::{Answer, Running},
    table::good_inputs,
};

const OVERRIDES: [&str; 5] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-method",
    "x-forwarded-method",
];

/// A server and a super admin, and how much is recorded of what happened so far.
struct Walk {
    running: Running,
    headers: Vec<(&'static str, String)>,
    entries: usize,
}

impl Walk {
    fn start() -> Self {
        let running = Running::start(HttpSettings::default());
        let headers = running.login("super").headers();
        let entries = running.fake.store.entries().len();
        Self { running, headers, entries }
    }

    /// Sends an input of a route to another target, or by another method; nothing may come of it.
    fn send(&self, method: &str, target: &str, more: &[(&'static str, String)], body: &str) -> Answer {
        let headers = [&self.headers[..], more].concat();
        let answer = self.running.request(method, target, &headers, body);
        let calls = self.running.fake.clusters.calls();
        let listed = answer.status == 200 && calls.iter().all(|call| call.starts_with("list "));
        assert!(calls.is_empty() || listed, "{method} {target} {more:?} called {calls:?}");
        let entries = self.running.fake.store.entries().len();
        assert_eq!(entries, self.entries, "{method} {target} {more:?} left something behind");
        let cached = if answer.header("etag").is_some() { "private, no-cache" } else { "no-store" };
        for (name, value) in [("x-content-type-options", "nosniff"), ("cache-control", cached)] {
            assert_eq!(answer.header(name), Some(value), "{method} {target}");
        }
        assert!(answer.header("x-request-id").is_some(), "{method} {target}");
        answer
    }

    /// Query and body with which a super admin succeeds.
    fn input(&self, method: &str, path: &str) -> (String, String) {
        let mut input = good_inputs(method, path).swap_remove(0).input;
        for place in ["{cluster}", "{user}", "{session}"] {
            input = input.replace(place, &self.running.cluster.to_string());
        }
        match method {
            "GET" if !input.is_empty() => (format!("?{input}"), String::new()),
            "GET" => Default::default(),
            _ => (String::new(), input),
        }
    }
}

fn methods(path: &str) -> BTreeSet<String> {
    endpoints().into_iter().filter(|(_, of)| *of == path).map(|(method, _)| method).collect()
}

fn paths() -> BTreeSet<&'static str> {
    endpoints().into_iter().map(|(_, path)| path).collect()
}

#[test]
fn other_methods_are_405_and_say_which_there_are() {
    let walk = Walk::start();
    for path in paths() {
        let known = methods(path);
        let input = known.iter().next().map(|method| walk.input(method, path)).unwrap();
        for method in [
            "GET", "POST", "HEAD", "OPTIONS", "TRACE", "PUT", "PATCH", "DELETE", "PROPFIND", "QUERY", "get",
            "Post", "X",
        ] {
            if known.contains(method) {
                continue;
            }
            let answer = walk.send(method, &format!("{path}{}", input.0), &[], &input.1);
            assert_eq!(answer.status, 405, "{method} {path}");
            let allow: BTreeSet<_> = answer.header("allow").unwrap().split(", ").map(str::to_owned).collect();
            assert_eq!(allow, known, "{method} {path}");
            // the answer to a HEAD has no body
            assert!(method == "HEAD" || answer.refusal().1 == "method_not_allowed", "{method} {path}");
        }
    }
}

#[test]
fn other_spellings_of_a_path_are_404() {
    let walk = Walk::start();
    for (method, path) in endpoints() {
        let (query, body) = walk.input(&method, path);
        let (folder, last) = path.rsplit_once('/').unwrap();
        let spellings = [
            format!("{path}/"),
            format!("{path}//"),
            format!("/{path}"),
            format!("{folder}//{last}"),
            format!("{folder}/./{last}"),
            format!("{folder}/%2e/{last}"),
            format!("{folder}/x/../{last}"),
            format!("{folder}/x/%2e%2e/{last}"),
            format!("{folder}/x%2f..%2f{last}"),
            format!("{folder}%2f{last}"),
            format!("{folder}%2F{last}"),
            format!("{folder}%5c{last}"),
            format!("{folder}/{last};a=b"),
            format!("{folder};a=b/{last}"),
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
        // without a slash in front it is no request at all
        for target in spellings.into_iter().filter(|target| target.starts_with('/')) {
            let answer = walk.send(&method, &format!("{target}{query}"), &[], &body);
            assert_eq!(answer.refusal(), (404, "unknown_path".to_owned()), "{method} {target}");
        }
    }
}

#[test]
fn nothing_but_the_method_is_the_method() {
    let walk = Walk::start();
    for path in paths() {
        let known = methods(path);
        for (sent, meant) in [("GET", "POST"), ("POST", "GET"), ("GET", "DELETE")] {
            // where both are there: what is sent is what is done, and of the two only a GET does nothing
            if known.contains(sent) && (sent == "POST" || known.len() == 1) {
                continue;
            }
            let (query, body) = walk.input(known.iter().next().unwrap(), path);
            for header in OVERRIDES {
                let answer = walk.send(sent, &format!("{path}{query}"), &[(header, meant.to_owned())], &body);
                let expected = if known.contains(sent) { 200 } else { 405 };
                assert_eq!(answer.status, expected, "{sent} {path} {header}: {meant}");
            }
        }
    }
    for (method, path) in endpoints() {
        let (query, body) = walk.input(&method, path);
        let (query, body) = match method.as_str() {
            "GET" => (format!("{}{}_method=POST", query, if query.is_empty() { "?" } else { "&" }), body),
            _ if body.is_empty() => (query, r#"{"_method":"GET"}"#.to_owned()),
            _ => (query, format!("{},\"_method\":\"GET\"}}", body.strip_suffix('}').unwrap())),
        };
        // whatever a prober sends along is let be, and so is the version in the document's address
        let ignored = ["/livez", "/readyz", "/api/openapi.json"].contains(&path);
        let answer = walk.send(&method, &format!("{path}{query}"), &[], &body);
        if ignored {
            assert_eq!(answer.status, 200, "{method} {path}");
        } else {
            assert_eq!(answer.status, 400, "{method} {path}");
            assert_eq!(answer.json()["context"]["fields"][0]["name"], "_method", "{method} {path}");
        }
    }
}

/// An absolute target is what a proxy is sent; RFC 9112 (3.2.2) has every server take it. It opens nothing, and neither
/// does what comes after a `#`, which no client sends: the parser drops it.
#[test]
fn an_absolute_target_and_a_fragment_are_the_same_resource() {
    let mut walk = Walk::start();
    for target in ["http://elsewhere.example/api/auth/me", "/api/auth/me#/livez"] {
        assert_eq!(walk.send("GET", target, &[], "").status, 200, "{target}");
    }
    walk.headers.clear();
    for (method, path) in endpoints() {
        let (query, body) = walk.input(&method, path);
        let open = matches!(path, "/livez" | "/readyz" | "/api/openapi.json");
        if path == "/api/auth/login" {
            continue;
        }
        for target in [
            format!("http://elsewhere.example{path}{query}"),
            format!("https://user:pass@elsewhere.example:1{path}{query}"),
            format!("http://x/livez/..{path}{query}"),
            format!("{path}{query}#/livez"),
        ] {
            let expected = match open {
                _ if target.contains("..") => 404,
                true => 200,
                false => 401,
            };
            assert_eq!(walk.send(&method, &target, &[], &body).status, expected, "{method} {target}");
        }
    }
}
