//! The backup and the drill of docs/operations.md, run as they stand there; only where things lie is another.

use std::{fs, process::Command};

use pilothouse_testbed::Folder;

use crate::{
    readme::blocks,
    support::{Install, PASSWORD, cluster, eventually, light},
};

const PAGE: &str = include_str!("../../docs/operations.md");

/// The commands of the sections from `## Back up` on.
fn drill() -> Vec<String> {
    let (_, sections) = PAGE.split_once("## Back up\n").expect("the section");
    blocks(sections)
        .into_iter()
        .filter(|(language, _)| *language == "sh")
        .map(|(_, lines)| lines.join("\n"))
        .collect()
}

#[tokio::test]
async fn a_backup_of_a_running_server_is_restored_as_the_page_says() {
    let plane = light().await;
    let server = Install::on_sqlite().start().await;
    let admin = server.admin().await;
    let id = cluster(&admin, "kept", &plane).await;
    let folder = Folder::create().unwrap();
    for place in ["backups", "vault"] {
        fs::create_dir(folder.path().join(place)).unwrap();
    }
    let (data, at) = (server.install.data_dir(), folder.path().display());
    let binary = env!("CARGO_BIN_EXE_pilothouse");
    let commands = drill().join("\n");
    let commands = commands
        .replace("pilothouse user", &format!("{binary} user"))
        .replace("/var/lib/pilothouse", &data.display().to_string())
        .replace("/var/backups", &format!("{at}/backups"))
        .replace("/srv/vault", &format!("{at}/vault"))
        .replace("/tmp/drill", &format!("{at}/drill"));
    let bash = |script: &str| Command::new("bash").args(["-e", "-c", script]).output().unwrap();
    let output = bash(&commands);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{commands}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("admin") && said.contains("super_admin"), "{said}");

    // the original is lost; what was restored has its users, its clusters and their credentials
    drop(server);
    let drill = folder.path().join("drill");
    let restored =
        Install::on_sqlite().set("DATA_DIR", drill.display().to_string()).set("PROBE_INTERVAL", "1s");
    let restored = restored.start().await;
    let admin = restored.client().sign_in("admin", PASSWORD).await;
    eventually("a probe with the restored credential", async || {
        let status = admin.get(format!("/api/k8s/clusters/status?id={id}")).await.data();
        (status["cluster"]["status"] == "online").then_some(())
    })
    .await;
    drop(restored);

    // with another key it is nothing
    fs::write(drill.join("master.key"), fs::read(drill.join("pilothouse.db")).unwrap()).unwrap();
    let output = bash(&format!("{binary} user list --data-dir {}", drill.display()));
    assert_eq!(output.status.code(), Some(2));
}
