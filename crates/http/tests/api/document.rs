//! Tests of the OpenAPI document.

use std::collections::BTreeSet;

use actix_web::test::TestRequest;
use pilothouse_core::inventory::LISTS;
use pilothouse_http::{HttpSettings, document, endpoints};
use serde_json::{Value, json};

use crate::test_app::{Ready, TestApp};

#[test]
fn committed_openapi_document_is_current() {
    let committed: Value = serde_json::from_str(include_str!("../../../../docs/openapi.json")).unwrap();
    let command = "cargo run -p pilothouse-http --example openapi > docs/openapi.json";
    assert!(committed == document(), "docs/openapi.json is out of date: {command}");
}

#[test]
fn document_has_exactly_the_routes_of_the_table() {
    let document = document();
    let mut documented = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        documented
            .extend(methods.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone())));
    }
    // `endpoints` leaves out routes with a parameter in their path
    documented.retain(|(_, path)| {
        let has_parameter = path.contains('{');
        assert!(!has_parameter || path.starts_with("/api/auth/oidc/{provider}/"), "{path}");
        !has_parameter
    });
    let real: BTreeSet<_> = endpoints().into_iter().map(|(method, path)| (method, path.to_owned())).collect();
    assert_eq!(documented, real);
}

#[test]
fn every_reference_resolves() {
    fn check(part: &Value, document: &Value) {
        match part {
            Value::Array(parts) => parts.iter().for_each(|part| check(part, document)),
            Value::Object(fields) => {
                if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                    assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
                }
                fields.values().for_each(|part| check(part, document));
            }
            _ => {}
        }
    }
    let document = document();
    check(&document, &document);
}

#[test]
fn watch_documents_the_sort_fields_of_objects() {
    let document = document();
    let parameters = document["paths"]["/api/k8s/watch"]["get"]["parameters"].as_array().unwrap();
    let sort = parameters.iter().find(|parameter| parameter["name"] == "sort").unwrap();
    assert_eq!(sort["schema"]["pattern"], r"^-?([a-z_]+|cell\.[0-9]{1,2})$");
}

#[test]
fn every_list_documents_its_sort_fields_in_both_directions() {
    let document = document();
    for info in LISTS {
        let parameters = document["paths"][info.path]["get"]["parameters"].as_array().unwrap();
        let sort = parameters.iter().find(|parameter| parameter["name"] == "sort").unwrap();
        let orders: BTreeSet<_> =
            sort["schema"]["enum"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let sorted: Vec<_> = (info.fields)().into_iter().filter(|field| field.sorts).collect();
        assert_eq!(orders.len(), 2 * sorted.len(), "{}", info.path);
        for field in sorted {
            assert!(orders.contains(field.name) && orders.contains(format!("-{}", field.name).as_str()));
        }
    }
}

#[actix_web::test]
async fn document_needs_no_authentication() {
    let reply = TestApp::new().await.send(TestRequest::get().uri("/api/openapi.json?v=1")).await;
    assert_eq!(reply.json(), document());
}

#[actix_web::test]
async fn version_is_open_and_commit_is_null_if_unknown() {
    for commit in [None, Some("246070bc330dbc1214bd6b455cd159136f0cb30f")] {
        let api = TestApp::with(HttpSettings { commit, ..HttpSettings::default() }, Ready::Yes).await;
        let data = api.send(TestRequest::get().uri("/api/version")).await.data();
        let version = document()["info"]["version"].take();
        assert_eq!(data, json!({"version": version, "commit": commit, "console": null}));
    }
}

/// A request that a client sends without its user has a header for it: a read, or the exchange of the tokens.
#[test]
fn every_authenticated_read_and_the_refresh_may_be_in_the_background() {
    let document = document();
    for (name, operation) in operations(&document) {
        let mut parameters = operation["parameters"].as_array().unwrap().iter();
        let has_header = parameters.any(|one| resolve(&document, one)["name"] == "X-Background");
        let signed_in = operation["security"].as_array().is_some_and(|all| !all.is_empty());
        let expected = (name.starts_with("get ") && signed_in) || name == "post /api/auth/refresh";
        assert_eq!(has_header, expected, "{name}");
    }
}

/// Every operation of the document, with its name such as `post /api/k8s/clusters`.
fn operations(document: &Value) -> Vec<(String, &Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().iter();
            methods.map(move |(method, operation)| (format!("{method} {path}"), operation))
        })
        .collect()
}

/// The target of a reference.
fn resolve<'a>(document: &'a Value, part: &'a Value) -> &'a Value {
    part["$ref"].as_str().map_or(part, |reference| document.pointer(&reference[1..]).unwrap())
}

#[test]
fn every_operation_has_summary_and_required_role() {
    let document = document();
    let mut summaries = BTreeSet::new();
    for (name, operation) in operations(&document) {
        let text = |key: &str| operation[key].as_str().unwrap_or_default();
        assert!(summaries.insert(text("summary")), "{name}: duplicate summary");
        assert!(!text("description").is_empty(), "{name} has no description");
        for (status, response) in operation["responses"].as_object().unwrap() {
            let headers = resolve(&document, response)["headers"].as_object().unwrap();
            assert!(headers.contains_key("X-Request-Id"), "{name} {status}");
        }
    }
}

#[test]
fn every_parameter_and_every_field_is_described() {
    let document = document();
    let mut undescribed = Vec::new();
    for (name, operation) in operations(&document) {
        for parameter in operation["parameters"].as_array().unwrap() {
            let parameter = resolve(&document, parameter);
            if parameter["description"].is_null() || parameter["example"].is_null() {
                undescribed.push(format!("{name}: {}", parameter["name"]));
            }
        }
    }
    fn fields(document: &Value, part: &Value, path: &str, undescribed: &mut Vec<String>) {
        for (name, field) in part["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            if field["description"].is_null() && resolve(document, field)["description"].is_null() {
                undescribed.push(path.clone());
            }
            fields(document, field, &path, undescribed);
        }
        for part in part["allOf"].as_array().into_iter().flatten() {
            fields(document, part, path, undescribed);
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        fields(&document, schema, name, &mut undescribed);
    }
    for (name, operation) in operations(&document) {
        let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
        fields(&document, schema, &name, &mut undescribed);
    }
    assert_eq!(undescribed, Vec::<String>::new());
}

#[test]
fn every_body_and_every_parameter_has_limits() {
    let document = document();
    for (name, operation) in operations(&document) {
        let body = resolve(&document, &operation["requestBody"]["content"]["application/json"]["schema"]);
        assert!(body.is_null() || body["additionalProperties"] == false, "{name} accepts unknown fields");
        for parameter in operation["parameters"].as_array().unwrap() {
            let parameter = resolve(&document, parameter);
            let schema = resolve(&document, &parameter["schema"]);
            // a header is applied or ignored, never refused
            if parameter["in"] == "header" {
                continue;
            }
            let schema = if schema["type"] == "array" {
                assert!(!schema["maxItems"].is_null(), "{name} {}: {schema}", parameter["name"]);
                &schema["items"]
            } else {
                schema
            };
            let limit = match schema["type"].as_str() {
                Some("string") => {
                    ["maxLength", "enum", "format", "pattern"].iter().any(|key| !schema[*key].is_null())
                }
                Some("integer") => !schema["minimum"].is_null(),
                Some("boolean") => true,
                other => panic!("{name} {}: {other:?}", parameter["name"]),
            };
            assert!(limit, "{name} {}: {schema}", parameter["name"]);
        }
    }
}

/// Rows have every field; the value is null when unknown.
#[test]
fn every_row_field_is_required() {
    let document = document();
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        if name.ends_with("Row") {
            let fields = schema["properties"].as_object().unwrap();
            assert_eq!(fields.len(), schema["required"].as_array().unwrap().len(), "{name}");
        }
    }
}

#[test]
fn every_example_is_valid() {
    let document = document();
    let mut examples = Vec::new();
    for (name, operation) in operations(&document) {
        for parameter in operation["parameters"].as_array().unwrap() {
            let parameter = resolve(&document, parameter);
            let label = format!("{name}: {}", parameter["name"]);
            examples.push((label, parameter["schema"].clone(), parameter["example"].clone()));
        }
        let body = &operation["requestBody"];
        if !body.is_null() {
            examples.push((format!("{name}: body"), body.clone(), Value::Null));
        }
        for (status, response) in operation["responses"].as_object().unwrap() {
            let response = resolve(&document, response);
            examples.push((format!("{name}: {status}"), response.clone(), Value::Null));
        }
    }
    let mut wrong = Vec::new();
    let mut check = |label: &str, schema: &Value, example: &Value| {
        let difference = pilothouse_conformance::validate(schema, example).err();
        wrong.extend(difference.map(|error| format!("{label}: {error}")));
    };
    for (label, part, example) in examples {
        if part["content"]["text/event-stream"].is_object() {
            continue;
        }
        let with_schema = ["application/json", "application/x-www-form-urlencoded"];
        let Some(content) = with_schema.into_iter().find_map(|kind| part["content"].get(kind)) else {
            check(&label, &part, &example);
            continue;
        };
        let several = content["examples"].as_object().into_iter().flatten().map(|(_, one)| &one["value"]);
        let all: Vec<_> = content.get("example").into_iter().chain(several).collect();
        // the document contains no example of itself
        assert!(!all.is_empty() || label == "get /api/openapi.json: 200", "{label} has no example");
        for example in all {
            check(&label, &content["schema"], example);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
