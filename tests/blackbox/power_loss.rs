//! Simulated power loss, in two ways: on files copied while the server is suspended, and on files rebuilt from a trace
//! of its system calls with only the synced parts. Afterwards SQLite must pass its integrity check, the trail must
//! verify, and all changes with a response must be present.
//!
//! `PILOTHOUSE_TEST_POWER_LOSSES` sets the number of each (`just power-loss 500`), `PILOTHOUSE_TEST_POWER_LOSSES_SEED`
//! the seed of their times.

mod disk;
mod load;
mod trace;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use pilothouse_testbed::can_trace_or_skip;
use serde_json::json;
use tokio::time::sleep;

use self::{
    disk::{Disk, SentResponse, Unsynced},
    load::{Responses, check, check_starts, start_clients},
    trace::Event,
};
use crate::support::{Install, PASSWORD, Random, env_number, eventually};

/// Default number of power losses of each type.
const DEFAULT_LOSSES: u64 = 6;
/// Copies per run of the server, and points in time per trace.
const LOSSES_PER_RUN: u64 = 40;
const CLIENTS: u64 = 6;
/// Maximal pause between two copies, in milliseconds.
const MAX_PAUSE_MILLIS: u64 = 250;
/// Minimal number of responses in a trace. SQLite restarts its WAL after about a hundred commits.
const MIN_RESPONSES: usize = 300;

fn count_and_random() -> (u64, Random) {
    let losses = env_number("PILOTHOUSE_TEST_POWER_LOSSES").unwrap_or(DEFAULT_LOSSES);
    let seed = env_number("PILOTHOUSE_TEST_POWER_LOSSES_SEED");
    let seed = seed.unwrap_or_else(|| Timestamp::now().as_microsecond().cast_unsigned());
    eprintln!("{losses} power losses; PILOTHOUSE_TEST_POWER_LOSSES_SEED={seed}");
    (losses, Random(seed))
}

/// Whether a file holds state of a process only, so that a power loss removes it.
fn in_memory(path: &Path) -> bool {
    // the WAL index is shared memory backed by a file, and a lock file means nothing without a process
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.ends_with("-shm") || name.ends_with(".lock")
}

/// Another install with a copy of the data folder.
fn copy(install: &Install) -> Install {
    let copy = Install::on_sqlite();
    fs::DirBuilder::new().mode(0o700).create(copy.data_dir()).unwrap();
    for entry in fs::read_dir(install.data_dir()).unwrap().flatten() {
        if !in_memory(&entry.path()) {
            fs::copy(entry.path(), copy.data_dir().join(entry.file_name())).unwrap();
        }
    }
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn files_copied_from_a_suspended_server_contain_all_acknowledged_changes() {
    let (losses, mut random) = count_and_random();
    let mut done = 0;
    while done < losses {
        let server = Install::on_sqlite().set("ACCESS_TOKEN_LIFETIME", "8h").start().await;
        let (admin, responses) = (server.admin().await, Responses::default());
        let mut clients = start_clients(&admin, PASSWORD, CLIENTS, &mut random, &responses).await;
        for _ in 0..LOSSES_PER_RUN.min(losses - done) {
            sleep(random.pause(MAX_PAUSE_MILLIS)).await;
            server.suspend().await;
            let copy = copy(&server.install);
            // a suspended server sends nothing, so these responses were sent before
            let answered = responses.snapshot();
            server.resume();
            check(&copy, &answered);
            done += 1;
            if random.below(8) == 0 || done == losses {
                check_starts(copy).await;
            }
        }
        assert!(!responses.snapshot().is_empty(), "the load got responses");
        drop(server.kill().await);
        while clients.join_next().await.is_some() {}
    }
}

/// Reads a trace after its process has ended.
async fn read_finished_trace(trace: &Path) -> Vec<Event> {
    // the tracer writes the end of each thread before it ends itself
    let text = eventually("the trace is complete", async || {
        let text = fs::read_to_string(trace).unwrap_or_default();
        let process = text.split(' ').next().unwrap_or_default();
        let ended = text
            .lines()
            .rev()
            .filter_map(|line| line.split_once(' '))
            .any(|(thread, rest)| thread == process && rest.trim_start().starts_with("+++"));
        ended.then_some(text)
    });
    trace::read(&text.await)
}

/// The files of a data folder by name, without those that exist only in memory.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    let files = entries.filter(|path| !in_memory(path));
    files.map(|path| (path.file_name().unwrap().into(), fs::read(path).unwrap())).collect()
}

fn rebuilt(disk: &Disk, unsynced: Unsynced<'_>) -> Install {
    // the initial password is random, in a file
    let install = Install::on_sqlite().unset("ADMIN_PASSWORD");
    disk.rebuild(install.folder(), unsynced);
    install
}

/// Runs a server under load from its first start to its end. Returns the install, the disk before, all calls, and the
/// responses.
async fn traced(random: &mut Random) -> (Install, Disk, Vec<Event>, Responses) {
    let install = Install::on_sqlite().unset("ADMIN_PASSWORD").set("ACCESS_TOKEN_LIFETIME", "8h");
    let disk = Disk::of(install.folder());
    let trace = install.folder().join("trace");
    let server = install.traced(trace.clone()).start().await;
    let password = fs::read_to_string(server.install.file("initial-admin-password")).unwrap();
    let password = password.trim();
    let (admin, responses) = (server.client().sign_in("admin", password).await, Responses::default());
    let mut clients = start_clients(&admin, password, CLIENTS, random, &responses).await;
    eventually("enough responses", async || (responses.snapshot().len() >= MIN_RESPONSES).then_some(()))
        .await;
    // not killed: for a call that a kill interrupts, the tracer cannot report whether it was executed
    let install = server.stop().await;
    while clients.join_next().await.is_some() {}
    let events = read_finished_trace(&trace).await;
    (install, disk, events, responses)
}

#[tokio::test(flavor = "multi_thread")]
async fn synced_data_contains_all_acknowledged_changes() {
    if !can_trace_or_skip().unwrap() {
        return;
    }
    let (losses, mut random) = count_and_random();
    let mut done = 0;
    while done < losses {
        let count = LOSSES_PER_RUN.min(losses - done);
        done += count;
        let (install, mut disk, events, responses) = traced(&mut random).await;
        // a third of the points is before the first response, while the key, the database and the first user are
        // created
        let first = index_of_first_response(&install, &events);
        let mut points: Vec<_> = (0..count)
            .map(|n| match n % 3 {
                0 => random.below(first as u64) as usize,
                _ => first + random.below((events.len() - first) as u64) as usize,
            })
            .collect();
        points.sort_unstable();

        let responses = responses.snapshot();
        let (mut sent, mut unsynced, mut points) = (BTreeMap::new(), 0, points.into_iter().peekable());
        for (number, event) in events.iter().enumerate() {
            while points.next_if_eq(&number).is_some() {
                unsynced += disk.unsynced();
                let lost = rebuilt(&disk, Unsynced::Lost);
                check(&lost, &sent);
                let torn = rebuilt(&disk, Unsynced::Torn(&mut random));
                check(&torn, &sent);
                if sent.is_empty() || random.below(8) == 0 {
                    check_starts(lost).await;
                    check_starts(torn).await;
                }
            }
            if let Some(SentResponse { status: 200, request }) = disk.step(event)
                && let Some(done) = responses.get(&request)
            {
                sent.insert(request, done.clone());
            }
        }
        // the trace is complete: without a power loss, the rebuilt files are equal, and all responses are found
        assert_eq!(sent.len(), responses.len());
        let complete = rebuilt(&disk, Unsynced::Retained);
        assert!(
            contents(&complete.data_dir()) == contents(&install.data_dir()),
            "the rebuilt files differ from the real ones"
        );
        check(&complete, &responses);
        eprintln!(
            "{done} points in time, the last {count} among {} calls with {} responses; {unsynced} changes were lost or torn",
            events.len(),
            responses.len()
        );
    }
}

/// The index of the first event that sends a response.
fn index_of_first_response(install: &Install, events: &[Event]) -> usize {
    let mut disk = Disk::of(&install.folder().join("nowhere"));
    events.iter().position(|event| disk.step(event).is_some()).expect("a response in the trace")
}

/// Runs a command under trace on an existing install. Returns the install, and one with its synced files only.
async fn synced_after(install: Install, arguments: &[&str]) -> (Install, Install) {
    let before = Disk::of(install.folder());
    let trace = install.folder().join(format!("trace-{}", arguments[0]));
    let install = install.traced(trace.clone());
    let output = install.run(arguments);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let mut disk = before;
    for event in read_finished_trace(&trace).await {
        disk.step(&event);
    }
    let synced = rebuilt(&disk, Unsynced::Lost);
    (install, synced)
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_restore_and_rekey_are_durable_when_the_command_ends() {
    if !can_trace_or_skip().unwrap() {
        return;
    }
    let server = Install::on_sqlite().start().await;
    let admin = server.admin().await;
    admin.add_user("ann", "viewer").await;
    let install = server.stop().await;

    let backup = install.folder().join("backup").display().to_string();
    let (install, synced) = synced_after(install, &["backup", &backup]).await;
    let file = synced.folder().join("backup");
    assert_eq!(fs::read(&file).expect("the backup is synced"), fs::read(&backup).unwrap());

    let other_install = Install::on_sqlite();
    fs::DirBuilder::new().mode(0o700).create(other_install.data_dir()).unwrap();
    fs::copy(install.file("master.key"), other_install.file("master.key")).unwrap();
    let (_, synced) = synced_after(other_install, &["restore", &backup]).await;
    let server = synced.start().await;
    let users = server.admin().await.rows("/api/auth/users?sort=id", "users").await;
    assert_eq!(users.iter().map(|user| &user["username"]).collect::<Vec<_>>(), ["admin", "ann"]);
    drop(server);

    let (install, synced) = synced_after(install, &["rekey"]).await;
    assert_eq!(fs::read(synced.file("master.key")).unwrap(), fs::read(install.file("master.key")).unwrap());
    check(&synced, &BTreeMap::new());
    let server = synced.start().await;
    let body = json!({"username": "bob", "password": crate::support::PASSWORD, "role": "viewer"});
    server.admin().await.post("/api/auth/users", body).await.data();
}

#[test]
fn disk_model_discards_unsynced_changes() {
    let root = Path::new("/nowhere/at/all");
    let hex = |text: &str| text.bytes().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
    let path = |name: &str| hex(&root.join(name).display().to_string());
    let file = path("f");
    let start = format!("7 openat(AT_FDCWD, \"{file}\", O_RDWR|O_CREAT|O_CLOEXEC, 0600) = 3\n");
    let write = |text: &str| format!("7 write(3, \"{}\", {}) = {}\n", hex(text), text.len(), text.len());
    let sync = "7 fsync(3) = 0\n";
    let folder = format!(
        "7 openat(AT_FDCWD, \"{}\", O_RDONLY|O_CLOEXEC) = 4\n7 fsync(4) = 0\n",
        hex("/nowhere/at/all")
    );
    // the fsync begins before the second write ends, so it does not cover that write
    let crossed = format!("7 fsync(3 <unfinished ...>\n8 {}7 <... fsync resumed>) = 0\n", &write("bc")[2..]);
    let lost = |calls: &[&str]| {
        let mut disk = Disk::of(&PathBuf::from("/nowhere/at/all"));
        for event in trace::read(&calls.concat()) {
            disk.step(&event);
        }
        let into = tempfile::tempdir().unwrap();
        disk.rebuild(into.path(), Unsynced::Lost);
        let mut seen = contents(into.path())
            .into_iter()
            .map(|(name, content)| format!("{}={}", name.display(), String::from_utf8_lossy(&content)));
        seen.next().unwrap_or_default()
    };
    assert_eq!(lost(&[&start, &write("a"), sync, &folder]), "f=a");
    assert_eq!(lost(&[&start, &write("a"), &folder]), "f=", "without the fsync");
    assert_eq!(lost(&[&start, &write("a"), sync]), "", "without the folder's");
    assert_eq!(lost(&[&start, &write("a"), sync, &folder, &write("b")]), "f=a");
    assert_eq!(lost(&[&start, &write("a"), &crossed, &folder]), "f=a");
    assert_eq!(lost(&[&start, &write("a"), &crossed, sync, &folder]), "f=abc");
    let renamed = format!("7 rename(\"{file}\", \"{}\") = 0\n", path("g"));
    assert_eq!(lost(&[&start, &write("a"), sync, &folder, &renamed]), "f=a");
    assert_eq!(lost(&[&start, &write("a"), sync, &folder, &renamed, "7 fsync(4) = 0\n"]), "g=a");
    let cut = "7 ftruncate(3, 1) = 0\n7 fdatasync(3) = 0\n";
    assert_eq!(lost(&[&start, &write("abc"), sync, &folder, cut]), "f=a");

    let mut disk = Disk::of(&PathBuf::from("/nowhere/at/all"));
    let response = "HTTP/1.1 200 OK\r\nx-request-id: 17\r\n\r\n";
    let sent = format!("7 sendto(9, \"{}\", 36, MSG_NOSIGNAL, NULL, 0 <unfinished ...>\n", hex(response));
    let responses: Vec<_> = trace::read(&sent).iter().filter_map(|event| disk.step(event)).collect();
    assert_eq!(responses, [SentResponse { status: 200, request: "17".to_owned() }]);
}
