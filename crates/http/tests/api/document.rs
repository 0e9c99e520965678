//! The OpenAPI document.

use std::collections::BTreeSet;

use actix_web::test::TestRequest;
use pilothouse_core::inventory::LISTS;
use pilothouse_http::{document, endpoints};
use serde_json::Value;

use crate::house::House;

#[test]
fn the_committed_document_is_the_current_one() {
    let committed: Value = serde_json::from_str(include_str!("../../../../docs/openapi.json")).unwrap();
    let how = "cargo run -p pilothouse-http --example openapi > docs/openapi.json";
    assert!(committed == document(), "docs/openapi.json is out of date: {how}");
}

#[test]
fn it_holds_every_route_and_no_other() {
    let document = document();
    let mut documented = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        documented
            .extend(methods.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone())));
    }
    let real: BTreeSet<_> = endpoints().into_iter().map(|(method, path)| (method, path.to_owned())).collect();
    assert_eq!(documented, real);
}

#[test]
fn every_reference_leads_somewhere() {
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
async fn it_is_served_without_signing_in() {
    let reply = House::new().await.send(TestRequest::get().uri("/api/openapi.json?v=1")).await;
    assert_eq!(reply.json(), document());
}
