//! Opening a database: new, existing, of a newer version, or sealed with another key.

mod common;

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use common::{FINGERPRINT, TestDatabase, user};
use futures_util::future::join_all;
use pilothouse_core::{
    access::{AccessRequest, Resource, Verb},
    coordinator::Coordinator as _,
    testing::contract::StorePorts,
    user::UserRegistry as _,
};
use pilothouse_store::{Database, OpenError, Store};

async fn fingerprint(db: &TestDatabase) -> Result<Option<String>, OpenError> {
    let found = Store::fingerprints(&db.database, &db.deps.runtime).await?;
    Ok(found.map(|found| found.active))
}

#[tokio::test(flavor = "multi_thread")]
async fn database_opens_only_with_its_key() {
    for db in TestDatabase::all() {
        assert_eq!(fingerprint(&db).await.unwrap(), None);
        assert_eq!(
            fs::read_dir(db.directory.path()).unwrap().count(),
            0,
            "reading fingerprints creates no file"
        );
        drop(db.open().await);
        assert_eq!(fingerprint(&db).await.unwrap().as_deref(), Some(FINGERPRINT));
        db.open().await.ping().await.unwrap();

        let installs = "SELECT count(*) AS n FROM install WHERE fingerprint = 'fingerprint of the key'";
        let refused = db.try_open("another").await.unwrap_err();
        assert!(matches!(refused, OpenError::OtherKey), "{refused}");
        assert_eq!(db.count(installs).await, 1, "nothing is changed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_database_is_not_changed() {
    for db in TestDatabase::all() {
        drop(db.open().await);
        let newer =
            "INSERT INTO __diesel_schema_migrations (version, run_on) VALUES ('9999', CURRENT_TIMESTAMP)";
        db.execute(newer).await.unwrap();
        for refused in [db.try_open(FINGERPRINT).await.map(drop), fingerprint(&db).await.map(drop)] {
            let refused = refused.unwrap_err();
            assert!(matches!(&refused, OpenError::Newer(version) if version == "9999"), "{refused}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_opens_of_a_new_database_succeed() {
    for db in TestDatabase::all() {
        let opened = join_all((0..8).map(|_| db.try_open(FINGERPRINT))).await;
        for store in opened {
            store.unwrap().ping().await.unwrap();
        }
        assert_eq!(db.count("SELECT count(*) AS n FROM install").await, 1);
    }
}

/// A first start that was killed between the migrations and the insert of the `install` row, which are not one
/// transaction on PostgreSQL.
#[tokio::test(flavor = "multi_thread")]
async fn interrupted_first_start_is_completed() {
    for db in TestDatabase::all() {
        drop(db.open().await);
        db.execute("DELETE FROM install").await.unwrap();
        assert_eq!(fingerprint(&db).await.unwrap(), None);
        db.open().await.ping().await.unwrap();
        assert_eq!(fingerprint(&db).await.unwrap().as_deref(), Some(FINGERPRINT));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn database_with_data_but_no_install_row_is_refused() {
    for db in TestDatabase::all() {
        let store = db.open().await;
        let ports = StorePorts::over(std::sync::Arc::new(store.clone()));
        let permit = ports.permit(AccessRequest::to(Verb::Create, Resource::User));
        store.create(&permit, user(&ports, "admin")).await.unwrap();
        drop((ports, store));
        db.execute("DELETE FROM install").await.unwrap();
        for refused in [db.try_open(FINGERPRINT).await.map(drop), fingerprint(&db).await.map(drop)] {
            let refused = refused.unwrap_err();
            assert!(matches!(refused, OpenError::NoInstall), "{refused}");
        }
        assert_eq!(db.count("SELECT count(*) AS n FROM install").await, 0, "nothing is changed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn database_files_are_readable_by_owner_only() {
    let db = TestDatabase::sqlite();
    let store = db.open().await;
    store.take_lease(db.deps.clock.now()).await.unwrap();
    let mut names = Vec::new();
    for file in fs::read_dir(db.directory.path()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.path());
        names.push(file.file_name().into_string().unwrap());
    }
    names.sort_unstable();
    assert_eq!(names, ["pilothouse.db", "pilothouse.db-shm", "pilothouse.db-wal", "pilothouse.db.lock"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn second_server_is_refused_through_symbolic_links() {
    let db = TestDatabase::sqlite();
    let now = db.deps.clock.now();
    let first = db.open().await;
    assert!(first.take_lease(now).await.unwrap());
    let names = tempfile::tempdir().unwrap();
    let (directory, file) = (names.path().join("directory"), names.path().join("linked.db"));
    symlink(db.directory.path(), &directory).unwrap();
    symlink(db.directory.path().join("pilothouse.db"), &file).unwrap();
    let through = directory.join("pilothouse.db");
    for path in [&file, &through] {
        let second = Store::open(&Database::Sqlite(path.clone()), db.deps.clone()).await.unwrap();
        assert!(!second.take_lease(now).await.unwrap(), "{}", path.display());
    }
    drop(first);
    let second = Store::open(&Database::Sqlite(file), db.deps.clone()).await.unwrap();
    assert!(second.take_lease(now).await.unwrap());
    assert!(!db.open().await.take_lease(now).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn file_with_second_hard_link_is_not_opened() {
    let db = TestDatabase::sqlite();
    let first = db.open().await;
    let names = tempfile::tempdir_in(db.directory.path()).unwrap();
    let other = names.path().join("other.db");
    fs::hard_link(db.directory.path().join("pilothouse.db"), &other).unwrap();
    let database = Database::Sqlite(other.clone());
    let refusals = [
        Store::open(&database, db.deps.clone()).await.map(drop),
        Store::fingerprints(&database, &db.deps.runtime).await.map(drop),
        db.try_open(FINGERPRINT).await.map(drop),
    ];
    for refused in refusals {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, OpenError::HardLinks(_, 2)), "{refused}");
    }
    assert_eq!(fs::read_dir(names.path()).unwrap().count(), 1, "no journal is created for the other name");
    first.ping().await.unwrap();
    drop(names);
    db.open().await.ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_database_error_is_one_line_without_password() {
    let db = TestDatabase::sqlite();
    let file = db.directory.path().join("text.db");
    fs::write(&file, "canary".repeat(1000)).unwrap();
    let absent = db.directory.path().join("absent").join("pilothouse.db");
    let silent = "postgres://user:canary@127.0.0.1:1/pilothouse?connect_timeout=1";
    for database in [Database::Sqlite(file), Database::Sqlite(absent), Database::parse(silent).unwrap()] {
        let refused = Store::open(&database, db.deps.clone()).await.unwrap_err();
        assert!(matches!(refused, OpenError::Unusable { .. }), "{refused}");
        let text = refused.to_string();
        assert!(!text.contains('\n') && !text.contains("canary"), "{text}");
    }
}

#[test]
fn database_address_is_parsed_and_shown_without_secrets() {
    let good = [
        ("sqlite:data/p.db", "data/p.db"),
        ("sqlite:/var/lib/p.db", "/var/lib/p.db"),
        ("sqlite:///var/lib/p.db", "/var/lib/p.db"),
        ("postgres://u:canary@localhost/d", "postgres://localhost:5432/d"),
        ("postgresql://u:can?ary@[::1]:1/d?password=canary", "postgres://[::1]:1/d"),
        (
            "postgres://u:canary%40@127.0.0.1,127.0.0.2:2/d?application_name=canary",
            "postgres://127.0.0.1:5432,127.0.0.2:2/d",
        ),
        ("postgres:///d?host=/run/postgresql&user=canary", "postgres:///run/postgresql/d"),
        ("postgres://h/d?sslmode=disable", "postgres://h:5432/d"),
        ("postgres://h/d?sslmode=require", "postgres://h:5432/d"),
    ];
    for (text, shown) in good {
        let database = Database::parse(text).unwrap();
        assert_eq!(
            (database.to_string(), format!("{database:?}")),
            (shown.to_owned(), shown.to_owned()),
            "{text}"
        );
    }
    for text in ["", "sqlite:", "mysql://h/d", "p.db", "POSTGRES"] {
        assert!(matches!(Database::parse(text), Err(OpenError::UnknownAddress)), "{text}");
    }
    for (text, expected) in [
        ("postgres://u:can@ary@h/d", "%40"),
        ("postgres://u:canary@h:port/d", "malformed"),
        ("postgres://u:canary@/d", "has no host"),
        ("postgres://u:canary@h/d?sslmode=canary", "verify-full"),
        ("postgres://u:canary@h/d?sslmode=allow", "verify-full"),
        ("postgres://u:canary@h/d?sslmode=verify-ca", "verify-full"),
        ("postgres://u:canary@h/d?sslmode=require&sslrootcert=system", "verify-full"),
        ("postgres://u:canary@h/d?sslrootcert=/no/such/canary", "cannot be read"),
        ("postgres://u:canary@h/d?sslrootcert=/dev/null", "without a certificate"),
        ("postgres://u:canary@h/d?canary=1", "parameter"),
        ("postgres://u:p@?canary=1@h/d", "parameter"),
        ("postgres://u:canary@h/d?sslkey=f", "parameter"),
        ("postgres://u:canary@h/d?connect_timeout=canary", "malformed"),
    ] {
        let refused = Database::parse(text).unwrap_err();
        let shown = format!("{refused} {refused:?}");
        assert!(matches!(refused, OpenError::Address(_)) && shown.contains(expected), "{text}: {shown}");
        assert!(!shown.contains("canary") && !shown.contains("ary@") && !shown.contains('\n'), "{shown}");
    }
}
