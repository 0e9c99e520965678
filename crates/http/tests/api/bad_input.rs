//! Every fault in every parameter and every field of the OpenAPI document, so that a new one is covered by itself: 400
//! that names it, in both languages; nothing sent to a cluster, nothing stored, nothing recorded.

use pilothouse_http::{document, endpoints};
use serde_json::{Map, Value};

use crate::{
    faults::{allowed, of_field, of_parameter},
    table::good_inputs,
    test_app::{Credentials, Reply, TestApp},
};

/// A request that differs from a good one by one fault.
struct Bad {
    method: String,
    path: &'static str,
    field: String,
    fault: &'static str,
    input: String,
}

/// A house and a super admin in it.
struct Tried {
    house: TestApp,
    credentials: Credentials,
    refresh: String,
}

impl Tried {
    async fn new() -> Self {
        let house = TestApp::new().await;
        house.login("target").await;
        let who = house.login("super").await;
        Self { house, credentials: who.credentials, refresh: who.refresh }
    }

    async fn send(&self, language: &str, bad: &Bad, input: &str) -> Reply {
        self.house.call_in(language, &self.credentials, &bad.method, bad.path, input).await
    }

    /// The input of a good request, of those that have the field if there is one.
    async fn good(&self, method: &str, path: &str, field: &str) -> String {
        let all = good_inputs(method, path);
        let line = all.iter().find(|line| line.input.contains(&format!("\"{field}\":"))).unwrap_or(&all[0]);
        line.input(&self.house, "super", &self.refresh).await
    }
}

/// A schema itself, whatever refers to it; of several the one that is not null.
fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(reference) = schema["$ref"].as_str() {
        return resolve(document, document.pointer(&reference[1..]).unwrap());
    }
    let all = schema["oneOf"].as_array().into_iter().flatten();
    all.into_iter().find(|one| one["type"] != "null").map_or(schema, |one| resolve(document, one))
}

/// Every request with one fault in a parameter.
async fn bad_queries(tried: &Tried, document: &Value) -> Vec<Bad> {
    let mut bad = Vec::new();
    for (method, path) in endpoints().into_iter().filter(|(method, _)| method == "GET") {
        let first = tried.good(&method, path, "").await;
        let parameters = document["paths"][path]["get"]["parameters"].as_array().unwrap();
        let mut add = |field: &str, fault, input: String| {
            bad.push(Bad { method: method.clone(), path, field: field.to_owned(), fault, input });
        };
        for parameter in parameters.iter().filter(|parameter| parameter["in"] == "query") {
            let name = parameter["name"].as_str().unwrap();
            // what only some kinds have is tried with one of them
            let all = good_inputs(&method, path);
            let having = all.iter().find(|line| line.input.contains(&format!("{name}=")));
            let good = match having {
                Some(line) => line.input(&tried.house, "super", &tried.refresh).await,
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
async fn bad_bodies(tried: &Tried, document: &Value) -> Vec<Bad> {
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
                serde_json::from_str(&tried.good("POST", path, name).await).unwrap_or_default();
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
        let good = tried.good("POST", path, "").await;
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

/// Refused in both languages alike, naming the field; nothing comes of it.
async fn refused(tried: &Tried, bad: &Bad) -> Result<(), String> {
    let before = tried.house.fake.store.entries().len();
    let mut contexts = Vec::new();
    for language in ["zh", "en"] {
        let reply = tried.send(language, bad, &bad.input).await;
        if reply.status != 400 {
            return Err(format!("{}", reply.status));
        }
        let json = reply.json();
        let named = json["context"]["fields"][0]["name"].as_str().unwrap_or_default();
        let field = bad.field.replace("%00", "\0");
        // what is no JSON has no field yet
        let no_json = ["half a surrogate", "raw newline"].contains(&bad.fault) && named == "body";
        if !(named == field || named.starts_with(&format!("{field}.")) || no_json) {
            return Err(format!("names {named}: {}", json["context"]));
        }
        let reason = json["context"]["fields"][0]["reason"].as_str().unwrap();
        let expected = match bad.fault {
            "missing" => "required",
            "unknown" => "unknown",
            "twice" | "twice within" => "duplicate",
            "no escape" | "half an escape" | "no digits" | "no UTF-8" | "surrogate" => "malformed",
            _ => reason,
        };
        if reason != expected {
            return Err(format!("is {reason}"));
        }
        let chinese = |text: &str| text.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c));
        for text in [&json["message"], &json["details"], &json["suggestions"][0]] {
            let text = text.as_str().unwrap_or_default();
            if text.is_empty() || chinese(text) != (language == "zh") {
                return Err(format!("says {text:?} in {language}"));
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
    let calls = tried.house.fake.clusters.calls();
    if !calls.is_empty() || tried.house.fake.store.entries().len() != before {
        return Err(format!("left something behind, called {calls:?}"));
    }
    Ok(())
}

/// Tries all; what the table allows is held against it, so that the table does not outlive its reasons.
async fn try_all(tried: Tried, all: Vec<Bad>) {
    let mut wrong = Vec::new();
    for bad in &all {
        let outcome = match allowed(bad.path, &bad.field, bad.fault) {
            // a wrong password is counted
            None if bad.field == "old_password" => {
                let other = Tried::new().await;
                other.house.fake.clusters.calls();
                refused(&other, bad).await
            }
            None => refused(&tried, bad).await,
            Some(_) => {
                let other = Tried::new().await;
                let refresh = bad.input.replace(&tried.refresh, &other.refresh);
                let input =
                    refresh.replace(&tried.house.cluster.to_string(), &other.house.cluster.to_string());
                let reply = other.send("en", bad, &input).await;
                if reply.status == 400 {
                    Err(format!("is allowed, yet refused: {:?}", reply.fields()))
                } else {
                    Ok(())
                }
            }
        };
        if let Err(what) = outcome {
            let input: String = bad.input.chars().take(160).collect();
            wrong.push(format!("{} {} {}, {}: {what}: {input}", bad.method, bad.path, bad.field, bad.fault));
        }
    }
    let first = &wrong[..wrong.len().min(40)];
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), all.len(), first.join("\n"));
}

#[actix_web::test]
async fn every_fault_in_every_parameter_is_refused_by_name() {
    let tried = Tried::new().await;
    let all = bad_queries(&tried, &document()).await;
    try_all(tried, all).await;
}

#[actix_web::test]
async fn every_fault_in_every_field_is_refused_by_name() {
    let tried = Tried::new().await;
    let all = bad_bodies(&tried, &document()).await;
    try_all(tried, all).await;
}
