//! A PostgreSQL: databases of their own, what is committed outlives a cut.

use std::time::Instant;

use pilothouse_testbed::{Postgres, shared_postgres};

#[test]
fn what_is_committed_outlives_a_cut() {
    let Some(postgres) = Postgres::builder().durable(true).start_or_skip().unwrap() else { return };
    postgres.sql("CREATE TABLE kept (n int)").unwrap();
    postgres.sql("INSERT INTO kept VALUES (7)").unwrap();
    postgres.cut().unwrap();
    assert!(postgres.sql("SELECT n FROM kept").is_err(), "it is gone");
    postgres.start().unwrap();
    assert_eq!(postgres.sql("SELECT n FROM kept").unwrap().trim(), "7");

    let folder = postgres.dir().to_owned();
    let ending = Instant::now();
    drop(postgres);
    assert!(!folder.exists(), "nothing is left after {:?}", ending.elapsed());
}

#[test]
fn each_test_has_a_database_of_its_own() {
    let Some(postgres) = shared_postgres().unwrap() else { return };
    let (one, two) = (postgres.database().unwrap(), postgres.database().unwrap());
    assert_ne!(one, two);
    assert!(one.starts_with("postgres://pilothouse:"), "{one}");
    assert_eq!(postgres.sql("SELECT 'B' < 'a'").unwrap().trim(), "f", "texts sort by language by default");
    assert!(postgres.sql("SELECT nonsense").is_err());
}
