//! Tests of identity servers: the behaviour on which the tests of Pilothouse rely.

use std::fs;

use pilothouse_testbed::{OidcProvider, OidcServer, Port, Slapd};
use reqwest::{Certificate, Client};
use serde_json::Value;

#[test]
fn slapd_keeps_its_entries_over_a_restart_and_logs_each_bind() {
    let Some(slapd) = Slapd::start_or_skip(false).unwrap() else { return };
    slapd.leave_group("mei", "shop-dev").unwrap();
    assert!(slapd.leave_group("mei", "shop-dev").is_err(), "she left it before");
    assert_eq!(slapd.binds(), ["cn=admin,dc=example,dc=test"; 2]);
    slapd.stop();
    assert!(slapd.remove_user("tom").is_err(), "the server has ended");
    slapd.start().unwrap();
    assert!(slapd.binds().is_empty(), "a start begins a new log");
    slapd.remove_user("tom").unwrap();
    assert!(slapd.leave_group("mei", "shop-dev").is_err(), "the change was stored");
}

#[tokio::test]
async fn provider_serves_its_metadata_over_https_and_restarts_at_the_same_address() {
    let port = Port::claim().unwrap();
    let public_url = format!("http://127.0.0.1:{}", port.number());
    let Some(provider) = OidcProvider::start_or_skip(&public_url, "op", &[]).unwrap() else { return };
    let authority = Certificate::from_pem(&fs::read(provider.ca_file()).unwrap()).unwrap();
    let client = Client::builder().no_proxy().tls_certs_only([authority]).build().unwrap();
    let url = format!("{}/.well-known/openid-configuration", provider.issuer());
    let metadata = async || client.get(&url).send().await?.json::<Value>().await;
    let before = metadata().await.unwrap();
    assert_eq!(before["issuer"], provider.issuer());
    assert_eq!(before["backchannel_logout_supported"], true);
    provider.leave_group("mei", "shop-dev").await.unwrap();
    provider.stop();
    assert!(metadata().await.is_err(), "the provider has ended");
    provider.start().unwrap();
    assert_eq!(metadata().await.unwrap(), before);
}

#[test]
fn lock_file_has_a_digest_and_no_address_of_each_package() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/identity/package-lock.json");
    let text = fs::read_to_string(file).expect("run tests/identity/pin.sh, and commit its result");
    let lock_file: Value = serde_json::from_str(&text).unwrap();
    let packages = lock_file["packages"].as_object().unwrap();
    assert!(packages.contains_key("node_modules/oidc-provider"));
    for (name, package) in packages.iter().filter(|(name, _)| !name.is_empty()) {
        assert!(package["integrity"].as_str().is_some_and(|digest| digest.starts_with("sha512-")), "{name}");
        assert_eq!(package["resolved"], Value::Null, "{name}");
    }
}
