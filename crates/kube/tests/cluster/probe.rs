//! Probes: identity and permissions of the credential.

use super::*;

#[tokio::test]
async fn probe_reports_identity_and_permissions() {
    let (plane, adapter, admin, namespace) = fixture("probe").await;
    let probe = async |connection: &Connection| probe(&adapter, connection).await;
    let by_certificate = Kubeconfig::connection(&plane.kubeconfig(), None, None).unwrap();
    let version = admin.get("/version").await.unwrap()["gitVersion"].as_str().unwrap().to_owned();
    for (connection, certificates) in [
        (admin_connection(plane), vec!["api_server", "ca"]),
        (by_certificate, vec!["api_server", "client", "ca"]),
    ] {
        let report = probe(&connection).await.unwrap();
        assert_eq!(report.version, version);
        assert!(report.identity.is_some() && report.nodes.is_some() && report.pods.is_some());
        let direct = admin.get("/api/v1/namespaces").await.unwrap()["items"].as_array().unwrap().len();
        // other tests create and delete namespaces concurrently
        let counted = report.namespaces.unwrap();
        assert!((1..=2 * i64::try_from(direct).unwrap()).contains(&counted), "{counted} of {direct}");
        if plane.audit_events().is_ok() {
            let found: Vec<_> =
                report.certificates.iter().map(|certificate| certificate.what.as_str()).collect();
            assert_eq!(found, certificates);
        }
    }
    let allowed = permissions(&adapter, &admin_connection(plane)).await.unwrap();
    assert!(allowed.iter().all(|permission| permission.allowed), "{allowed:?}");

    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]);
    let token = admin.service_account_token(&namespace, "reader", rules).await.unwrap();
    let reader = by_token(plane.server(), Some(plane.ca_pem()), &token);
    let report = probe(&reader).await.unwrap();
    assert_eq!(report.identity, Some(format!("system:serviceaccount:{namespace}:reader")));
    assert!(report.nodes.is_none() && report.pods.is_some() && report.namespaces.is_none());
    let permissions = permissions(&adapter, &reader).await.unwrap();
    let may: Vec<_> = permissions.iter().filter(|p| p.allowed).map(|p| p.feature.as_str()).collect();
    assert_eq!(may, ["list_pods"]);

    let (limited, _) = clusters(reader, Deadlines::default());
    let error = create(&limited, &namespace, "settings").await.unwrap_err();
    assert_eq!((error.cause, error.context.verb.as_deref()), (Cause::ForbiddenByCluster, Some("create")));
    assert_eq!(error.context.resource.as_deref(), Some("configmap"));

    let unknown_client = by_token(plane.server(), Some(plane.ca_pem()), "not-a-token");
    assert_eq!(probe(&unknown_client).await.unwrap_err().cause, Cause::CredentialRejected);
}

#[tokio::test]
async fn client_certificate_of_another_ca_is_rejected() {
    let (plane, adapter, ..) = fixture("unknown-ca").await;
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    let mut connection = admin_connection(plane);
    connection.credential = pilothouse_core::connection::Credential::Certificate {
        chain: certificate.pem(),
        key: key.serialize_pem().into(),
    };
    let error = probe(&adapter, &connection).await.unwrap_err();
    assert_eq!(error.cause, Cause::CredentialRejected);
}
