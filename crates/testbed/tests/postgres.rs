//! Tests of PostgreSQL servers: separate databases, durability of commits, removal.

use std::time::Instant;

use pilothouse_testbed::{Postgres, shared_postgres};

#[test]
fn committed_rows_survive_an_immediate_shutdown() {
    let Some(postgres) = Postgres::builder().durable(true).start_or_skip().unwrap() else { return };
    postgres.sql("CREATE TABLE kept (n int)").unwrap();
    postgres.sql("INSERT INTO kept VALUES (7)").unwrap();
    postgres.cut().unwrap();
    assert!(postgres.sql("SELECT n FROM kept").is_err(), "the server has ended");
    postgres.start().unwrap();
    assert_eq!(postgres.sql("SELECT n FROM kept").unwrap().trim(), "7");

    let folder = postgres.dir().to_owned();
    let drop_started = Instant::now();
    drop(postgres);
    assert!(!folder.exists(), "the directory remains after {:?}", drop_started.elapsed());
}

#[test]
fn each_database_call_creates_a_new_database() {
    let Some(postgres) = shared_postgres().unwrap() else { return };
    let (one, two) = (postgres.database().unwrap(), postgres.database().unwrap());
    assert_ne!(one, two);
    assert!(one.starts_with("postgres://pilothouse:"), "{one}");
    assert_eq!(
        postgres.sql("SELECT 'B' < 'a'").unwrap().trim(),
        "f",
        "the default collation sorts by language"
    );
    assert!(postgres.sql("SELECT nonsense").is_err());
}
