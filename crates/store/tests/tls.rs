//! TLS to PostgreSQL: accepted certificates per `sslmode` and `sslrootcert`.

#![allow(clippy::unwrap_used, reason = "tests panic")]

mod common;

use common::TestDatabase;
use pilothouse_store::{Database, OpenError, Store};
use pilothouse_testbed::{Postgres, ServingCertificate};

/// Opens the database at an address, uses it, and returns whether its sessions are encrypted.
async fn open(postgres: &Postgres, url: &str) -> Result<bool, OpenError> {
    let database = Database::parse(url)?;
    let db = TestDatabase::sqlite();
    let store = Store::open(&database, db.deps.clone()).await?;
    store.ping().await.unwrap();
    let encrypted = "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
        WHERE application_name = 'pilothouse' AND state = 'idle'";
    let encrypted = postgres.sql(encrypted).unwrap();
    drop(store);
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pilothouse'";
    while postgres.sql(sessions).unwrap().trim() != "0" {
        tokio::task::yield_now().await;
    }
    Ok(encrypted.trim() == "t")
}

#[tokio::test(flavor = "multi_thread")]
async fn server_certificate_is_verified_as_the_address_requires() {
    let Some(postgres) = Postgres::builder().serving(ServingCertificate::Valid).start_or_skip().unwrap()
    else {
        return;
    };
    let other_server = Postgres::builder().start().unwrap();
    let url = postgres.database().unwrap();
    let elsewhere = format!("{}?hostaddr=127.0.0.1", url.replace("@127.0.0.1:", "@elsewhere.invalid:"));
    let right = format!("sslrootcert={}", postgres.ca_file().display());
    let wrong = format!("sslrootcert={}", other_server.ca_file().display());

    for (address, encrypted) in [
        (format!("{url}?sslmode=verify-full&{right}"), true),
        (format!("{url}?sslmode=verify-full&{right}&channel_binding=require"), true),
        (format!("{url}?sslmode=verify-ca&{right}"), true),
        (format!("{url}?sslmode=require&{right}"), true),
        (format!("{url}?sslmode=prefer&{right}"), true),
        (format!("{url}?{right}"), true),
        (format!("{url}?sslmode=require"), true),
        (format!("{url}?sslmode=prefer"), true),
        (url.clone(), true),
        (format!("{url}?sslmode=disable"), false),
        (format!("{elsewhere}&sslmode=verify-ca&{right}"), true),
        (format!("{elsewhere}&sslmode=require"), true),
    ] {
        assert_eq!(open(&postgres, &address).await.unwrap(), encrypted, "{address}");
    }
    for address in [
        format!("{url}?sslmode=verify-full&{wrong}"),
        format!("{url}?sslmode=verify-ca&{wrong}"),
        format!("{url}?sslmode=require&{wrong}"),
        format!("{url}?sslmode=prefer&{wrong}"),
        format!("{url}?{wrong}"),
        format!("{elsewhere}&sslmode=verify-full&{right}"),
        format!("{elsewhere}&{right}"),
    ] {
        let refused = open(&postgres, &address).await.unwrap_err().to_string();
        assert!(refused.contains("certificate"), "{address}: {refused}");
        assert!(!refused.contains(postgres.password()) && !refused.contains('\n'), "{refused}");
    }
    // not issued by a certificate authority of this machine, if it has any
    let system = open(&postgres, &format!("{url}?sslmode=verify-full")).await.unwrap_err();
    assert!(system.to_string().contains("certificate"), "{system}");
}

#[tokio::test(flavor = "multi_thread")]
async fn server_without_tls_is_refused_where_tls_is_required() {
    let Some(postgres) = Postgres::builder().start_or_skip().unwrap() else { return };
    let url = postgres.database().unwrap();
    let root = format!("sslrootcert={}", postgres.ca_file().display());
    for parameters in ["sslmode=disable", "sslmode=prefer", ""] {
        assert!(!open(&postgres, &format!("{url}?{parameters}")).await.unwrap(), "{parameters}");
    }
    for parameters in ["sslmode=require".to_owned(), format!("sslmode=verify-ca&{root}"), root] {
        let refused = open(&postgres, &format!("{url}?{parameters}")).await.unwrap_err().to_string();
        assert!(refused.contains("TLS"), "{parameters}: {refused}");
    }
    let wrong = url.replace("pilothouse:password", "pilothouse:canary");
    let refused = open(&postgres, &wrong).await.unwrap_err().to_string();
    assert!(refused.contains("password authentication failed") && !refused.contains("canary"), "{refused}");
}
