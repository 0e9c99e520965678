//! Tests of the scrape with fake ports.

use pilothouse_core::{
    Error, Result,
    app::{App, AppSettings},
    audit::Cursor,
    monitor::{MockStoreMonitor, PoolStats, StoreStats},
    testing::fake::{Fake, MemoryCoordinator},
};
use pilothouse_kube::KubeSettings;

use super::*;

fn stats() -> StoreStats {
    StoreStats {
        clusters: vec![
            (ClusterId(1), Health::Online),
            (ClusterId(2), Health::Offline),
            (ClusterId(3), Health::Unknown),
        ],
        sessions: 5,
        audit_sequence: 10,
        audit_unsigned: std::time::Duration::from_secs(20),
    }
}

/// A scrape of a process whose store returns these counts. Its webhook has accepted 7 entries.
async fn scrape(fake: &Fake, stats: Result<StoreStats>, webhook: bool) -> String {
    let mut monitor = MockStoreMonitor::new();
    monitor.expect_stats().returning(move |_| stats.clone());
    monitor
        .expect_pools()
        .returning(|| vec![PoolStats { name: "all", max: 16, open: 4, idle: 3, waiting: 2 }]);
    monitor.expect_is_audit_signed().return_const(true);
    monitor.expect_failed_audit_entries().return_const(1_u64);
    let coordinator = MemoryCoordinator::of(fake.store.clone());
    coordinator.claim_delivery(RECEIVER, fake.runtime.clock.now()).await.unwrap();
    assert!(coordinator.save_cursor(RECEIVER, Cursor { sequence: 7, checkpoint: 7 }).await.unwrap());
    let clock = fake.runtime.clock.clone();
    let scrape = Scrape {
        metrics: Metrics::new(),
        monitor: Arc::new(monitor),
        coordinator: Arc::new(coordinator),
        gate: App::new(fake.ports(), AppSettings::default()).gate,
        lists: KubeClusters::new(KubeSettings::default(), fake.store.clone(), clock.clone()),
        clock,
        webhook,
    };
    scrape.text().await
}

/// The value of a series, by its name with labels; `None` if it is absent.
fn value<'a>(text: &'a str, series: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
}

#[tokio::test]
async fn gauges_show_the_state_of_the_store() {
    let text = scrape(&Fake::default(), Ok(stats()), true).await;
    for (series, expected) in [
        ("pilothouse_database_up", Some("1")),
        ("pilothouse_sessions", Some("5")),
        ("pilothouse_audit_room", Some("1")),
        ("pilothouse_audit_signed", Some("1")),
        ("pilothouse_audit_write_failures_total", Some("1")),
        ("pilothouse_audit_sequence", Some("10")),
        ("pilothouse_audit_unsigned_seconds", Some("20")),
        ("pilothouse_audit_webhook_sequence", Some("7")),
        ("pilothouse_audit_webhook_lag", Some("3")),
        ("pilothouse_cluster_up{cluster=\"1\"}", Some("1")),
        ("pilothouse_cluster_up{cluster=\"2\"}", Some("0")),
        ("pilothouse_cluster_up{cluster=\"3\"}", None),
        ("pilothouse_database_connections{pool=\"all\",state=\"idle\"}", Some("3")),
        ("pilothouse_database_connections{pool=\"all\",state=\"used\"}", Some("1")),
        ("pilothouse_database_connection_waiters{pool=\"all\"}", Some("2")),
    ] {
        assert_eq!(value(&text, series), expected, "{series}");
    }
}

#[tokio::test]
async fn webhook_gauges_are_zero_without_a_webhook() {
    let text = scrape(&Fake::default(), Ok(stats()), false).await;
    assert_eq!(value(&text, "pilothouse_audit_webhook_sequence"), Some("0"));
    assert_eq!(value(&text, "pilothouse_audit_webhook_lag"), Some("0"));
}

#[tokio::test]
async fn database_gauges_are_absent_while_the_database_is_down() {
    let fake = Fake::default();
    fake.store.fill(true);
    let text = scrape(&fake, Err(Error::new(Cause::StoreUnavailable)), true).await;
    assert_eq!(value(&text, "pilothouse_database_up"), Some("0"));
    assert_eq!(value(&text, "pilothouse_audit_room"), Some("0"));
    for series in ["pilothouse_sessions", "pilothouse_audit_sequence", "pilothouse_audit_webhook_lag"] {
        assert_eq!(value(&text, series), None, "{series}");
    }
}
