//! Bad input in every parameter and every field of the OpenAPI document, so that new ones are covered automatically.
//! Each fault gets 400 naming the field, in both languages; nothing is sent to a cluster, stored or recorded.

use pilothouse_http::{document, endpoints};
use serde_json::{Map, Value};

use crate::{
    faults::{allowed, of_field, of_parameter},
    table::good_inputs,
    test_app::{Credentials, Reply, TestApp},
};

/// A request that differs from a valid one by one fault.
struct Bad {
    method: String,
    path: &'static str,
    field: String,
    fault: &'static str,
    input: String,
}

/// A test application and the session of a super admin.
struct Fixture {
    api: TestApp,
    credentials: Credentials,
    refresh: String,
}

impl Fixture {
    async fn new() -> Self {
        let api = TestApp::new().await;
        api.login("target").await;
        let signed_in = api.login("super").await;
        Self { api, credentials: signed_in.credentials, refresh: signed_in.refresh }
    }

    async fn send(&self, language: &str, bad: &Bad, input: &str) -> Reply {
        self.api.call_in(language, &self.credentials, &bad.method, bad.path, input).await
    }

    /// The input of a valid request, preferably one that has the field.
    async fn good(&self, method: &str, path: &str, field: &str) -> String {
        let all = good_inputs(method, path);
        let line = all.iter().find(|line| line.input.contains(&format!("\"{field}\":"))).unwrap_or(&all[0]);
        line.input(&self.api, "super", &self.refresh).await
    }
}

/// The schema behind a reference; of a nullable schema the one that is not null.
fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(reference) = schema["$ref"].as_str() {
        return resolve(document, document.pointer(&reference[1..]).unwrap());
    }
    let all = schema["oneOf"].as_array().into_iter().flatten();
    all.into_iter().find(|one| one["type"] != "null").map_or(schema, |one| resolve(document, one))
}

/// Every request with one fault in a parameter.
async fn bad_queries(fixture: &Fixture, document: &Value) -> Vec<Bad> {
    let mut bad = Vec::new();
    for (method, path) in endpoints().into_iter().filter(|(method, _)| method == "GET") {
        let first = fixture.good(&method, path, "").await;
        let parameters = document["paths"][path]["get"]["parameters"].as_array().unwrap();
        let mut add = |field: &str, fault, input: String| {
            bad.push(Bad { method: method.clone(), path, field: field.to_owned(), fault, input });
        };
        for parameter in parameters.iter().filter(|parameter| parameter["in"] == "query") {
            let name = parameter["name"].as_str().unwrap();
            // a parameter of some kinds only is tested with one of these kinds
            let all = good_inputs(&method, path);
            let having = all.iter().find(|line| line.input.contains(&format!("{name}=")));
            let good = match having {
                Some(line) => line.input(&fixture.api, "super", &fixture.refresh).await,
                None => first.clone(),
            };
            let others: Vec<_> = good
                .split('&')
                .filter(|pair| pair.split('=').next() != Some(name) && !pair.is_empty())
                .collect();
            let with = |value: &str| [&others[..], &[&format!("{name}={value}")]].concat().join("&");
            for (fault, value) in of_parameter(resolve(document, &parameter["schema"])) {
                add(name, fault, with(&value));
            }
            if parameter["required"] == true {
                add(name, "missing", others.join("&"));
            }
            if let Some(pair) = good.split('&').find(|pair| pair.split('=').next() == Some(name)) {
                add(name, "twice", format!("{good}&{pair}"));
            }
        }
        if !["/livez", "/readyz", "/api/openapi.json"].contains(&path) {
            add("nope", "unknown", format!("{first}&nope=1"));
            add("nope%00", "unknown", format!("{first}&nope%00=1"));
            add("query", "no UTF-8", format!("{first}&%ff=1"));
        }
    }
    bad
}

/// Every request with one fault in a field of its body.
async fn bad_bodies(fixture: &Fixture, document: &Value) -> Vec<Bad> {
    let mut bad = Vec::new();
    for (method, path) in endpoints().into_iter().filter(|(method, _)| method == "POST") {
        let operation = &document["paths"][path]["post"];
        let body = resolve(document, &operation["requestBody"]["content"]["application/json"]["schema"]);
        let longest = if path == "/api/auth/login" { 3000 } else { 300 << 10 };
        let mut add = |field: &str, fault, input: String| {
            bad.push(Bad { method: method.clone(), path, field: field.to_owned(), fault, input });
        };
        let fields = body["properties"].as_object().cloned().unwrap_or_default();
        for (name, schema) in &fields {
            let good: Map<String, Value> =
                serde_json::from_str(&fixture.good("POST", path, name).await).unwrap_or_default();
            let others: Vec<_> = good
                .iter()
                .filter(|(other, _)| *other != name)
                .map(|(name, value)| format!("{name:?}:{value}"))
                .collect();
            let with = |value: &str| {
                format!("{{{}}}", [&others[..], &[format!("{name:?}:{value}")]].concat().join(","))
            };
            let schema_itself = resolve(document, schema);
            let nullable = schema.get("oneOf").is_some();
            for (fault, value) in of_field(schema_itself, longest) {
                if !(nullable && fault == "null") {
                    add(name, fault, with(&value));
                }
            }
            if body["required"].as_array().is_some_and(|all| all.iter().any(|one| one == name)) {
                add(name, "missing", format!("{{{}}}", others.join(",")));
            }
            if let Some(value) = good.get(name) {
                let pair = format!("{name:?}:{value}");
                add(name, "twice", with(&format!("{value},{pair}")));
            }
        }
        let good = fixture.good("POST", path, "").await;
        let good = if good.is_empty() { "{}" } else { &good };
        let open = if good == "{}" { "{".to_owned() } else { format!("{},", &good[..good.len() - 1]) };
        add("nope", "unknown", format!("{open}\"nope\":1}}"));
        add("no\u{0}pe", "unknown", format!("{open}\"no\\u0000pe\":1}}"));
        add(
            "nope",
            "deep",
            format!("{open}\"nope\":{}{}}}", "[".repeat(longest / 6), "]".repeat(longest / 6)),
        );
        for (fault, text) in [
            ("no JSON", "{"),
            ("two", &format!("{good}{{}}")),
            ("array", "[]"),
            ("text", "\"x\""),
            ("deep", &"[".repeat(longest / 6)),
        ] {
            add("body", fault, text.to_owned());
        }
    }
    bad
}

/// Checks that the request is refused in both languages, names the field, and has no effect.
async fn refused(fixture: &Fixture, bad: &Bad) -> Result<(), String> {
    let before = fixture.api.fake.store.entries().len();
    let mut contexts = Vec::new();
    for language in ["zh", "en"] {
        let reply = fixture.send(language, bad, &bad.input).await;
        if reply.status != 400 {
            return Err(format!("{}", reply.status));
        }
        let json = reply.json();
        let named = json["context"]["fields"][0]["name"].as_str().unwrap_or_default();
        let field = bad.field.replace("%00", "\0");
        // malformed JSON has no field
        let no_json = ["half a surrogate", "raw newline"].contains(&bad.fault) && named == "body";
        let within = named.strip_prefix(&field).is_some_and(|rest| rest.starts_with(['.', '[']));
        if !(named == field || within || no_json) {
            return Err(format!("names {named}: {}", json["context"]));
        }
        let reason = json["context"]["fields"][0]["reason"].as_str().unwrap();
        let expected = match bad.fault {
            "missing" => "required",
            "unknown" => "unknown",
            // a key that the object does not have is unknown before it is a duplicate
            "twice within" if reason == "unknown" => "unknown",
            "twice" | "twice within" => "duplicate",
            "no escape" | "half an escape" | "no digits" | "no UTF-8" | "surrogate" => "malformed",
            _ => reason,
        };
        if reason != expected {
            return Err(format!("reason is {reason}"));
        }
        let chinese = |text: &str| text.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c));
        for text in [&json["message"], &json["details"], &json["suggestions"][0]] {
            let text = text.as_str().unwrap_or_default();
            if text.is_empty() || chinese(text) != (language == "zh") {
                return Err(format!("text {text:?} for {language}"));
            }
        }
        let header = |name: &str| reply.header(name).unwrap_or_default();
        let headers = (header("x-content-type-options"), header("cache-control"));
        if headers != ("nosniff", "no-store") || header("x-request-id").is_empty() {
            return Err("lacks a header".to_owned());
        }
        contexts.push(json["context"].clone());
    }
    if contexts[0] != contexts[1] {
        return Err("differs by language".to_owned());
    }
    let calls = fixture.api.fake.clusters.calls();
    if !calls.is_empty() || fixture.api.fake.store.entries().len() != before {
        return Err(format!("has an effect, called {calls:?}"));
    }
    Ok(())
}

/// Checks all requests. An allowed fault must be accepted, so that the table of allowed faults stays current.
async fn try_all(fixture: Fixture, all: Vec<Bad>) {
    let mut failures = Vec::new();
    for bad in &all {
        let outcome = match allowed(bad.path, &bad.field, bad.fault) {
            // a wrong password counts towards the login throttle
            None if bad.field == "old_password" => {
                let other = Fixture::new().await;
                other.api.fake.clusters.calls();
                refused(&other, bad).await
            }
            None => refused(&fixture, bad).await,
            Some(_) => {
                let other = Fixture::new().await;
                let refresh = bad.input.replace(&fixture.refresh, &other.refresh);
                let input = refresh.replace(&fixture.api.cluster.to_string(), &other.api.cluster.to_string());
                let reply = other.send("en", bad, &input).await;
                if reply.status == 400 {
                    Err(format!("is allowed, but refused: {:?}", reply.fields()))
                } else {
                    Ok(())
                }
            }
        };
        if let Err(label) = outcome {
            let input: String = bad.input.chars().take(160).collect();
            failures
                .push(format!("{} {} {}, {}: {label}: {input}", bad.method, bad.path, bad.field, bad.fault));
        }
    }
    let first = &failures[..failures.len().min(40)];
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), all.len(), first.join("\n"));
}

#[actix_web::test]
async fn every_fault_in_a_parameter_is_refused_by_name() {
    let fixture = Fixture::new().await;
    let all = bad_queries(&fixture, &document()).await;
    try_all(fixture, all).await;
}

#[actix_web::test]
async fn every_fault_in_a_field_is_refused_by_name() {
    let fixture = Fixture::new().await;
    let all = bad_bodies(&fixture, &document()).await;
    try_all(fixture, all).await;
}
