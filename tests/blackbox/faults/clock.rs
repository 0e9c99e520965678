//! A clock that jumps, as after a long pause of a virtual machine or a wrong time server. The server is given one that a
//! file sets (libfaketime); its monotonic clock goes on, as the kernel's does.

use std::{env, fs, path::PathBuf};

use pilothouse_testbed::{Folder, workloads};
use serde_json::json;
use tokio::time::timeout;

use super::LATEST;
use crate::support::{Client, Install, RECOVERY, Server, apply, cluster, light, within};

/// Debian's libfaketime; none, said aloud, where it is missing. CI has it.
fn library() -> Option<PathBuf> {
    let library = glob("/usr/lib", "faketime/libfaketimeMT.so.1");
    if library.is_none() {
        assert!(env::var_os("CI").is_none(), "CI has libfaketime");
        eprintln!("SKIPPED a clock that jumps: it takes libfaketime (Debian: libfaketime)");
    }
    library
}

/// A file in any folder of a folder.
fn glob(folder: &str, file: &str) -> Option<PathBuf> {
    let folders = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path().join(file));
    folders.into_iter().find(|path| path.exists())
}

async fn scale(admin: &Client, cluster: i64, replicas: u32) {
    let body = json!({
        "cluster_id": cluster, "namespace": "default", "type": "deployment", "name": "web", "replicas": replicas,
    });
    let answer = admin.post("/api/k8s/workloads/scale", body);
    timeout(LATEST, answer).await.expect("an answer in time").data();
}

/// Signed in anew: a session from a time that has not come yet is none, and an old one may have expired.
async fn signed_in(server: &Server) -> Client {
    timeout(LATEST, server.admin()).await.expect("a session in time")
}

#[tokio::test]
async fn a_clock_that_jumps_ten_minutes_loses_nothing() {
    let Some(library) = library() else { return };
    let folder = Folder::create().unwrap();
    let clock = folder.path().join("clock");
    let set = |offset: &str| {
        let new = clock.with_extension("new");
        fs::write(&new, format!("{offset}\n")).unwrap();
        fs::rename(new, &clock).unwrap();
    };
    set("+0");
    let plane = light().await;
    apply(&plane.client(), &[workloads::deployment("default", "web", 1)]).await;
    let install = Install::new()
        .set("PROBE_INTERVAL", "1s")
        .variable("LD_PRELOAD", library.to_str().unwrap())
        .variable("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap())
        .variable("FAKETIME_NO_CACHE", "1")
        .variable("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let server = install.start().await;
    let mut admin = server.admin().await;
    let id = cluster(&admin, "steady", &plane).await;
    scale(&admin, id, 1).await;
    let connected = async |admin: &Client| {
        let rows = admin.rows("/api/k8s/clusters", "clusters").await;
        (rows[0]["status"] == "online").then(|| rows[0]["last_connected_at"].clone())
    };
    let list = format!("/api/k8s/workloads?cluster_id={id}&namespace=default");

    for (replicas, offset) in (2..).zip(["+600", "+0", "-600", "+0"]) {
        let before = connected(&admin).await;
        set(offset);
        admin = signed_in(&server).await;
        scale(&admin, id, replicas).await;
        let listed = within(RECOVERY, "a current list", async || {
            let data = timeout(LATEST, admin.get(&list)).await.expect("an answer in time").data();
            (data["stale"] == false).then_some(data)
        })
        .await;
        assert_eq!(listed["workloads"][0]["replicas"], replicas, "read-your-writes at {offset}");
        within(3 * RECOVERY, "the prober's next visit", async || {
            connected(&admin).await.filter(|now| Some(now) != before.as_ref())
        })
        .await;
    }

    let told = admin.operations("operation_type=scale").await;
    let made: Vec<_> = told.iter().map(|row| row["details"].as_str().unwrap()).collect();
    let expected = ["replicas=5", "replicas=4", "replicas=3", "replicas=2", "replicas=1"];
    assert_eq!(made, expected, "newest first is the order in which they were made");
    assert!(told.iter().all(|row| row["status"] == "success"), "{told:?}");
    let verified = admin.get("/api/k8s/audit/verify").await.data();
    assert_eq!(verified["valid"], true, "{verified}");
}
